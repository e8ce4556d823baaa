#pragma once
// The host as a device: a pool of 64-byte aligned buffers and a team of threads.

#include <mtpx/core/device.hpp>
#include <mtpx/core/planned.hpp>
#include <mtpx/core/team.hpp>
#include <mtpx/core/thread.hpp>

#include <algorithm>
#include <memory>
#include <new>

namespace mtpx {

/// A handle to the host processor. Copies share the pool and the threads; two handles made
/// separately share nothing. Results do not depend on the number of threads, not even in the last bit.
class Cpu {
 public:
  static constexpr std::size_t alignment = 64;    ///< bytes: of every buffer's start
  static constexpr Memory memory = Memory::host;  ///< work is done when a call returns

  using Current = AlwaysCurrent;  ///< a guard that does nothing
  /// What an undefined tensor's handle is made from.
  struct Empty {};
  /// A handle to nothing, for undefined tensors.
  explicit Cpu(Empty) {}

  /// `threads` = 0 takes every processor that this process may run on.
  explicit Cpu(int threads = 0) : state_(std::make_shared<State>()) { set_threads(threads); }
  /// One that plans: see Planned.
  explicit Cpu(Planned, int threads = 0)
      : state_(std::make_shared<State>(std::make_shared<detail::PlannedMemory>())) {
    set_threads(threads);
  }

  /// Whether tasks of kernels are left out: see Planned.
  bool planned() const { return state_->planned; }

  /// Threads that share the work of one kernel, the caller among them.
  int threads() const { return state_->threads; }
  /// Another number from the next kernel on; 0: every processor that this process may run on.
  void set_threads(int threads) const { state_->threads = threads > 0 ? threads : detail::processors(); }
  /// The threads behind parallel_for(); they start when they are first needed and end with the last handle.
  Team& team() const { return state_->team; }
  /// Where tensors come from.
  Pool& pool() const { return state_->pool; }
  /// Bytes that tensors held at most since reset_peak().
  std::size_t peak_bytes() const { return pool().peak_bytes(); }
  /// Bytes taken from the system, held or free.
  std::size_t reserved_bytes() const { return pool().reserved_bytes(); }
  /// How often the system was asked for memory: constant once a loop is warm.
  std::size_t allocations() const { return pool().allocations(); }
  /// The peak from here on is counted.
  void reset_peak() const { pool().reset_peak(); }

 private:
  static void* allocate(std::size_t bytes) {
    try {
      return ::operator new (bytes, std::align_val_t{alignment});
    } catch (const std::bad_alloc&) {
      throw HostMemoryError(bytes);
    }
  }
  static void free(void* data) { ::operator delete (data, std::align_val_t{alignment}); }

  struct State {
    State() : pool(&Cpu::allocate, &Cpu::free) {}
    explicit State(const std::shared_ptr<detail::PlannedMemory>& addresses)
        : pool([addresses](std::size_t bytes) { return addresses->allocate(bytes); },
               [addresses](void* data) { addresses->free(data); }),
          planned(true) {}

    Pool pool;
    bool planned = false;
    int threads = 1;
    Team team;
  };
  std::shared_ptr<State> state_;
};

/// Sets bytes to 0; where work is planned, nothing.
inline void set_zero(const Cpu& cpu, void* to, std::size_t bytes) {
  if (bytes > 0 && !cpu.planned()) std::memset(to, 0, bytes);
}

static_assert(IsDevice<Cpu>);

}  // namespace mtpx
