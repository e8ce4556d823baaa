#pragma once
// What this machine has left.

#include <mtpx/core/cpu.hpp>
#ifdef MTPX_CUDA
#include <mtpx/core/cuda.hpp>
#endif

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

namespace program {

/// Memory that this process can still get, or nothing where the system does not say: what Linux calls
/// available, within the limits of its control group (those of its parents, too) and of its address space.
std::optional<std::size_t> host_memory_free();

/// The most memory that this process has had at once.
std::size_t host_memory_peak();
/// What it has now.
std::size_t host_memory_now();

/// Bytes of the files below a folder; of those that are there.
std::size_t disk_used(const std::filesystem::path& folder);

/// Memory of a device's tensors that is still free.
inline std::optional<std::size_t> memory_free(const mtpx::Cpu&) { return host_memory_free(); }
#ifdef MTPX_CUDA
inline std::optional<std::size_t> memory_free(const mtpx::Cuda& gpu) {
  const mtpx::Cuda::Current current(gpu);
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
  return free;
}
#endif

/// "12.3 MiB"
std::string size_text(std::size_t bytes);

}  // namespace program
