#pragma once
// What a device is. A device is a handle: copying it shares what it stands for. Beside what is written here
// it brings the kernels of kernels/list.hpp, found by its type.

#include <mtpx/core/beside.hpp>
#include <mtpx/core/pool.hpp>
#include <mtpx/core/recorded.hpp>

#include <concepts>
#include <cstddef>
#include <cstring>
#include <memory>

namespace mtpx {

/// Where a device's memory is.
enum class Memory {
  host,  ///< the host reads and writes it through plain pointers; work is done when a call returns
  own,   ///< only the device does, and calls return before their work is done
  none   ///< there is none: shapes without content, no kernels
};

/// `D::memory` says it.
template <typename D>
concept HostMemory = D::memory == Memory::host;
/// Shapes alone: no content, and no kernels.
template <typename D>
concept NoMemory = D::memory == Memory::none;

// The transfers of every device with host memory.
/// Raw bytes into the device's memory; with host memory a memcpy, as the following are.
template <HostMemory D>
void copy_to_device(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
/// Raw bytes out of the device's memory.
template <HostMemory D>
void copy_to_host(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
/// Memory of the host, not zeroed, that the device copies to fast.
template <HostMemory D>
std::shared_ptr<std::byte[]> host_buffer(const D&, std::size_t bytes) {
  return std::shared_ptr<std::byte[]>(new std::byte[bytes]);
}
/// copy_to_host() that need not have happened before wait_for_host().
template <HostMemory D>
void queue_to_host(const D& device, void* to, const void* from, std::size_t bytes) {
  copy_to_host(device, to, from, bytes);
}
/// Waits for what was queued.
template <HostMemory D>
void wait_for_host(const D&) {}
/// Raw bytes within the device's memory.
template <HostMemory D>
void copy_on_device(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
/// Overwrites memory with what fill(piece, first byte, bytes) puts there; with host memory in one piece.
template <HostMemory D, typename Fill>
void fill_by_host(const D&, void* to, std::size_t bytes, const Fill& fill) {
  if (bytes > 0) fill(to, std::size_t{0}, bytes);
}
/// Sets bytes to 0.
template <HostMemory D>
void set_zero(const D&, void* to, std::size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

/// A handle with its memory, its transfers and a guard:
///
///   D(D::Empty{})                a handle to nothing, for undefined tensors
///   D::memory                    which memory it has
///   device.pool()                where its tensors come from
///   D::Current current(device);  until the end of the scope the device is the one that this thread's calls
///   to
///                                its driver go to; then whichever was before. A kernel or a transfer does it
///                                by itself; a caller who makes many calls saves their switching
///   copy_to_device(device, to, from, bytes), set_zero(device, to, bytes); with memory also
///   copy_to_host, copy_on_device: raw bytes, in the order of the device's work. copy_to_host waits for it;
///                                `from` of copy_to_device may change when the call returns
///   fill_by_host(device, to, bytes, fill): overwrites memory with what fill(piece, first byte, bytes) puts
///                                into pieces of the host's memory, in order; with host memory there is one
///                                piece, the memory itself
///   Recorded<D>                  work that is the same every time (core/recorded.hpp)
///   Beside<D>                    work beside its own (core/beside.hpp)
template <typename D>
concept IsDevice = std::copyable<D> && std::same_as<decltype(D::memory), const Memory> &&
    requires(const D& device, void* to, const void* from, std::size_t bytes, Recorded<D>& recorded,
             void (*work)(), void (*fill)(void*, std::size_t, std::size_t)) {
  D(typename D::Empty{});
  { device.pool() } -> std::same_as<Pool&>;
  typename D::Current;
  requires std::constructible_from<typename D::Current, const D&>;
  copy_to_device(device, to, from, bytes);
  fill_by_host(device, to, bytes, fill);
  set_zero(device, to, bytes);
  recorded(device, work);
  recorded.forget();
} &&(NoMemory<D> || requires(const D& device, void* to, const void* from, std::size_t bytes) {
  copy_to_host(device, to, from, bytes);
  copy_on_device(device, to, from, bytes);
});

/// The guard of a device that needs none.
struct AlwaysCurrent {
  template <typename D>
  explicit AlwaysCurrent(const D&) {}
};

}  // namespace mtpx
