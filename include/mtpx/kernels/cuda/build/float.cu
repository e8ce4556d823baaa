// The CUDA kernels for float activations.

#include "../../list.hpp"
#include "typed.cuh"

namespace mtpx {

MTPX_KERNELS_IN_FLOAT(MTPX_INSTANTIATE_KERNEL, Cuda)

}  // namespace mtpx
