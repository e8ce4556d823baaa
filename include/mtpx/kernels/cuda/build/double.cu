// The CUDA kernels for double activations.

#include "../../list.hpp"
#include "typed.cuh"

namespace mtpx {

MTPX_KERNELS_IN_DOUBLE(MTPX_INSTANTIATE_KERNEL, Cuda)

}  // namespace mtpx
