#pragma once
// The host as a device: a pool of 64-byte aligned buffers and a number of threads.

#include <mtpx/core/pool.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

namespace mtpx {

/// A handle to the host processor. Copies share the pool and the thread count; two handles made
/// separately share nothing. Results do not depend on the number of threads, not even in the last bit.
class Cpu {
 public:
  static constexpr std::size_t alignment = 64;
  static constexpr bool host_memory = true;

  struct Empty {};
  /// A handle to nothing, for undefined tensors.
  explicit Cpu(Empty) {}

  /// `threads` = 0 takes every processor that this process may run on.
  explicit Cpu(int threads = 0) : state_(std::make_shared<State>()) { set_threads(threads); }

  int threads() const { return state_->threads; }
  void set_threads(int threads) const {
    state_->threads =
        threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  Pool& pool() const { return state_->pool; }
  std::size_t peak_bytes() const { return pool().peak_bytes(); }
  std::size_t allocations() const { return pool().allocations(); }
  void reset_peak() const { pool().reset_peak(); }

 private:
  static void* allocate(std::size_t bytes) { return ::operator new (bytes, std::align_val_t{alignment}); }
  static void free(void* data) { ::operator delete (data, std::align_val_t{alignment}); }

  struct State {
    Pool pool{&Cpu::allocate, &Cpu::free};
    int threads = 1;
  };
  std::shared_ptr<State> state_;
};

// Transfers and fills of raw bytes; a device brings its own overloads, found by its type.
inline void copy_to_device(const Cpu&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void copy_to_host(const Cpu&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void copy_on_device(const Cpu&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
/// Overwrites device memory with what fill(piece, first byte, bytes) puts into pieces of the host's memory,
/// in order. On the host there is one piece, and it is the memory itself.
template <typename Fill>
void fill_by_host(const Cpu&, void* to, std::size_t bytes, const Fill& fill) {
  if (bytes > 0) fill(to, std::size_t{0}, bytes);
}
inline void set_zero(const Cpu&, void* data, std::size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

}  // namespace mtpx
