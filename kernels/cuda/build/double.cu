// The CUDA kernels for double activations.

#include "instances.cuh"

namespace mtpx {

MTPX_CUDA_KERNELS(double)
MTPX_CUDA_SUMS(double)

}  // namespace mtpx
