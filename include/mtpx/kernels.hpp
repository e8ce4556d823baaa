#pragma once
// The only door to the kernels. Ops call them unqualified; the device's type picks the twin.

#include <mtpx/core/tensor.hpp>

#include "kernels/list.hpp"

// Threads are for every compiler. The host's vectors, which the CPU's kernels are made of, are not for nvcc's
// eyes: a .cu file gets the GPU's alone.
#include "kernels/cpu/core/parallel.hpp"
#if !defined __CUDACC__ && !defined MTPX_COMPILED
#include "kernels/cpu.hpp"
#endif
#ifdef MTPX_CUDA
#include <mtpx/core/cuda.hpp>
#ifdef __CUDACC__
#include "kernels/cuda/build/definitions.cuh"
#endif
#endif

namespace mtpx {

#ifdef MTPX_COMPILED
MTPX_DECLARE_KERNELS(Cpu)
MTPX_DECLARE_INT8(Cpu)
MTPX_DECLARE_PACKED(Cpu)
#endif
#ifdef MTPX_CUDA
#ifdef __CUDACC__
MTPX_CHECK_KERNELS(Cuda)
#else
MTPX_DECLARE_KERNELS(Cuda)
MTPX_DECLARE_FUSED_DECODING(Cuda)
#endif
#endif

}  // namespace mtpx
