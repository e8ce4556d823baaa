#pragma once
// The device of the tests. Everything that is not about host threads or host memory is compiled twice: for
// the host into mtpx_tests and, with MTPX_TEST_CUDA, for the GPU into mtpx_cuda_tests.

#include <mtpx/core/cpu.hpp>
#ifdef MTPX_TEST_CUDA
#include <mtpx/core/cuda.hpp>
#endif

#include <doctest/doctest.h>

#include <type_traits>

namespace mtpx::test {

#ifdef MTPX_TEST_CUDA
using Device = Cuda;
inline constexpr bool on_gpu = true;
#else
using Device = Cpu;
inline constexpr bool on_gpu = false;
#endif

/// A device with a pool of its own: the host with one thread, or the first GPU.
template <typename D = Device>
D fresh_device() {
  if constexpr (std::is_same_v<D, Cpu>) {
    return Cpu(1);
  } else {
    return D();
  }
}

/// The device that tests share.
template <typename D = Device>
const D& device() {
  static const D shared = fresh_device<D>();
  return shared;
}

/// Runs `work` in every way that must not change a bit: on the host with 2 and with 3 threads, on a GPU,
/// whose blocks run in another order each time, twice more.
template <typename D = Device, typename Work>
void other_ways(const Work& work) {
  for (const int way : {2, 3}) {
    INFO(way << (std::is_same_v<D, Cpu> ? " threads" : ". run"));
    if constexpr (std::is_same_v<D, Cpu>) device<D>().set_threads(way);
    work();
    if constexpr (std::is_same_v<D, Cpu>) device<D>().set_threads(1);
  }
}

}  // namespace mtpx::test
