// The CUDA kernels for bf16 activations.

#include "../../list.hpp"
#include "fused.cuh"
#include "typed.cuh"

namespace mtpx {

MTPX_KERNELS_IN_BF16(MTPX_INSTANTIATE_KERNEL, Cuda)
MTPX_KERNELS_OF_FUSED_DECODING(MTPX_INSTANTIATE_KERNEL, Cuda, bf16)

}  // namespace mtpx
