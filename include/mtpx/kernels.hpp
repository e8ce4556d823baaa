#pragma once
// The only door to the kernels. Ops call them unqualified; the device's type picks the twin.

#include <mtpx/core/tensor.hpp>

#include "../../kernels/contract.hpp"
#include "../../kernels/decode_shapes.hpp"

// The host's vectors, which the CPU's kernels are made of, are not for nvcc's eyes: a .cu file gets the GPU's
// alone.
#ifndef __CUDACC__
#include "../../kernels/cpu/adamw.hpp"
#include "../../kernels/cpu/attention.hpp"
#include "../../kernels/cpu/decode_sample.hpp"
#include "../../kernels/cpu/elementwise.hpp"
#include "../../kernels/cpu/embedding.hpp"
#include "../../kernels/cpu/experts.hpp"
#include "../../kernels/cpu/latent_attention.hpp"
#include "../../kernels/cpu/linear.hpp"
#include "../../kernels/cpu/linear_cross_entropy.hpp"
#include "../../kernels/cpu/rms_norm.hpp"
#include "../../kernels/cpu/rope.hpp"
#include "../../kernels/cpu/router.hpp"
#include "../../kernels/cpu/swiglu.hpp"
#ifdef MTPX_COMPILED
#include "../../kernels/cpu/build/instances.hpp"
#endif
#endif
#ifdef MTPX_CUDA
#include "../../kernels/cuda/build/declarations.hpp"
#ifdef __CUDACC__
#include "../../kernels/cuda/build/definitions.cuh"
#endif
#endif

namespace mtpx {

#ifndef __CUDACC__
static_assert(HasKernels<float, Cpu> && HasKernels<double, Cpu> && HasKernels<bf16, Cpu>,
              "a kernel of kernels/contract.hpp is missing for the CPU");
#endif
#ifdef MTPX_CUDA
static_assert(HasKernels<float, Cuda> && HasKernels<double, Cuda> && HasKernels<bf16, Cuda>,
              "a kernel of kernels/contract.hpp is missing for CUDA");
#endif

}  // namespace mtpx
