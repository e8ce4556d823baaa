#pragma once

#include <mtpx/core/cpu.hpp>
#ifdef MTPX_CUDA
#include <mtpx/core/cuda.hpp>
#endif

namespace program {

/// Operations a second that all threads together reach with fused multiply-adds in registers: 2 a
/// multiply-add. The best of `repeats`, each some milliseconds.
double fma_peak(const mtpx::Cpu& cpu, int repeats);

/// Bytes a second at which all threads together read `bytes` of memory again and again: the best of several.
double read_rate(const mtpx::Cpu& cpu, double bytes);

#ifdef MTPX_CUDA
/// Operations a second that the maker says of products of type T, without sparsity: what a training is
/// compared with. 0 for a GPU of which it is not written down here.
template <typename T>
double known_peak(const mtpx::Cuda& gpu);

/// Operations a second of a large product of matrices of type T; 0 where there is no memory for one.
template <typename T>
double matrix_peak(const mtpx::Cuda& gpu);

/// Bytes a second at which the GPU reads `bytes` again and again: the best of several.
double read_rate(const mtpx::Cuda& gpu, double bytes);
#endif

}  // namespace program
