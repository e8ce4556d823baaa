#pragma once

#include <utility>

namespace mtpx {

/// A part of a module that may be absent, as a std::optional is. Of a part that can only be moved, that is
/// some forty functions for each type; this is six, and a module moves as a pointer does.
template <typename M>
class Optional {
 public:
  Optional() = default;
  Optional(Optional&& other) noexcept : part_(std::exchange(other.part_, nullptr)) {}
  Optional& operator=(Optional&& other) noexcept {
    std::swap(part_, other.part_);
    return *this;
  }
  [[gnu::noinline]] ~Optional() { delete part_; }

  /// Makes the part, in the place of the one there was.
  template <typename... Arguments>
  [[gnu::cold]] M& emplace(Arguments&&... arguments) {
    M* const part = new M(std::forward<Arguments>(arguments)...);
    delete std::exchange(part_, part);
    return *part;
  }
  /// Drops it.
  void reset() { delete std::exchange(part_, nullptr); }

  /// Whether it is there.
  bool has_value() const { return part_ != nullptr; }
  explicit operator bool() const { return part_ != nullptr; }  ///< the same
  M& operator*() { return *part_; }                            ///< the part, which must be there
  const M& operator*() const { return *part_; }                ///< the part, which must be there
  M* operator->() { return part_; }                            ///< of the part, which must be there
  const M* operator->() const { return part_; }                ///< of the part, which must be there

 private:
  M* part_ = nullptr;
};

}  // namespace mtpx
