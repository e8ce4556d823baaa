// The CUDA kernels for bf16 activations.

#include "instances.cuh"

namespace mtpx {

MTPX_CUDA_KERNELS(bf16)
MTPX_CUDA_MIXED

}  // namespace mtpx
