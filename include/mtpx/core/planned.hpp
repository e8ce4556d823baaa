#pragma once
// Work that is planned and not done: what it would take is known before it takes anything.

#include <mtpx/core/error.hpp>

#include <sys/mman.h>

#include <cstddef>
#include <map>
#include <mutex>

namespace mtpx {

/// Makes a device that plans: Cpu(Planned{}), Cuda(Planned{}). Its tensors have addresses, its pool counts as
/// that of a device that works, and its kernels are called as ever, take their workspaces, and compute
/// nothing. So pool().peak_bytes() after a training step is what the step takes, whatever model, ops and
/// kernels there are.
///
/// What kernels write is undefined, but for labels and for experts, which are chosen evenly: where a kernel's
/// memory depends on them, on the host, that is the memory of balanced routers. Nothing that is read back
/// from the device means anything.
struct Planned {};

namespace detail {

/// Addresses that get memory a page at a time, if somebody writes there: what the host's kernels do outside
/// of their tasks, such as labels and the experts' places.
class PlannedMemory {
 public:
  PlannedMemory() = default;
  PlannedMemory(const PlannedMemory&) = delete;
  PlannedMemory& operator=(const PlannedMemory&) = delete;
  ~PlannedMemory() {
    for (const auto& [data, bytes] : sizes_) (void)::munmap(data, bytes);
  }

  /// Throws HostMemoryError where the process may not have so many addresses.
  void* allocate(std::size_t bytes) {
    const std::size_t size = bytes + (bytes == 0);
    void* const data =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw HostMemoryError(bytes);
#ifdef MADV_NOHUGEPAGE
    (void)::madvise(data, size, MADV_NOHUGEPAGE);  // a page that is touched is one page
#endif
    const std::lock_guard lock(mutex_);
    sizes_.emplace(data, size);
    return data;
  }
  void free(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(data);
    (void)::munmap(data, found->second);
    sizes_.erase(found);
  }

 private:
  std::mutex mutex_;
  std::map<void*, std::size_t> sizes_;
};

}  // namespace detail
}  // namespace mtpx
