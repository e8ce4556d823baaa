#pragma once
// The only door to the kernels. Ops call them unqualified; the device's type picks the twin.

#include <mtpx/core/tensor.hpp>

#include "kernels/list.hpp"

// Threads are for every compiler. The host's vectors, which the CPU's kernels are made of, are not for nvcc's
// eyes: a .cu file gets the GPU's alone.
#include "kernels/cpu/core/parallel.hpp"
#ifndef __CUDACC__
#include "kernels/cpu/adamw.hpp"
#include "kernels/cpu/attention.hpp"
#include "kernels/cpu/clip_scale.hpp"
#include "kernels/cpu/elementwise.hpp"
#include "kernels/cpu/embedding.hpp"
#include "kernels/cpu/experts.hpp"
#include "kernels/cpu/functions.hpp"
#include "kernels/cpu/latent_attention.hpp"
#include "kernels/cpu/linear.hpp"
#include "kernels/cpu/linear_cross_entropy.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/normals.hpp"
#include "kernels/cpu/positions.hpp"
#include "kernels/cpu/reduce.hpp"
#include "kernels/cpu/rms_norm.hpp"
#include "kernels/cpu/rope.hpp"
#include "kernels/cpu/router.hpp"
#include "kernels/cpu/sample.hpp"
#include "kernels/cpu/softmax.hpp"
#include "kernels/cpu/state_cache.hpp"
#include "kernels/cpu/swiglu.hpp"
#include "kernels/cpu/verify.hpp"
#ifdef MTPX_COMPILED
#include "kernels/cpu/build/instances.hpp"
#endif
#endif
#ifdef MTPX_CUDA
#include <mtpx/core/cuda.hpp>
#ifdef __CUDACC__
#include "kernels/cuda/build/definitions.cuh"
#endif
#endif

namespace mtpx {

#ifndef __CUDACC__
MTPX_CHECK_KERNELS(Cpu)
#endif
#ifdef MTPX_CUDA
#ifdef __CUDACC__
MTPX_CHECK_KERNELS(Cuda)
#else
MTPX_DECLARE_KERNELS(Cuda)
#endif
#endif

}  // namespace mtpx
