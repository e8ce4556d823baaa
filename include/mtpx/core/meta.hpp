#pragma once
// A device without memory, for the shape of a model that is not there.

#include <mtpx/core/device.hpp>

#include <cstddef>
#include <memory>

namespace mtpx {

/// Tensors on it have shapes and no content; their data must not be touched, and no kernel exists for it.
/// A model built on it costs nothing and knows its names and shapes: what a file must hold is known before
/// anything is allocated. pool().bytes_in_use() tells what the same tensors would take elsewhere.
class Meta {
 public:
  static constexpr Memory memory = Memory::none;  ///< shapes without content

  using Current = AlwaysCurrent;  ///< a guard that does nothing
  /// What an undefined tensor's handle is made from.
  struct Empty {};
  explicit Meta(Empty) {}
  Meta() : pool_(std::make_shared<Pool>(&Meta::allocate, &Meta::free)) {}

  /// Counts what the tensors would take elsewhere.
  Pool& pool() const { return *pool_; }

 private:
  static void* allocate(std::size_t) {
    static char nothing;
    return &nothing;
  }
  static void free(void*) {}

  std::shared_ptr<Pool> pool_;
};

/// Nothing: there is no memory.
inline void copy_to_device(const Meta&, void*, const void*, std::size_t) {}
/// Nothing: there is no memory.
template <typename Fill>
void fill_by_host(const Meta&, void*, std::size_t, const Fill&) {}
/// Nothing: there is no memory.
inline void set_zero(const Meta&, void*, std::size_t) {}

static_assert(IsDevice<Meta>);

}  // namespace mtpx
