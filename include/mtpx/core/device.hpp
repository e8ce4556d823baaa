#pragma once
// What devices have in common.

#include <cstddef>
#include <cstring>

namespace mtpx {

/// A device whose memory is the host's: plain pointers reach it, and work is done when a call returns.
template <typename D>
concept HostMemory = requires {
  requires D::host_memory;
};

// Its transfers and fills of raw bytes; another device brings its own overloads, found by its type.
template <HostMemory D>
void copy_to_device(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
template <HostMemory D>
void copy_to_host(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
template <HostMemory D>
void copy_on_device(const D&, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
template <HostMemory D>
void set_zero(const D&, void* data, std::size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

}  // namespace mtpx
