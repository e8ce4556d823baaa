// The CUDA kernels that no type of activations changes.

#include <mtpx/core/cuda.hpp>

#include "../../list.hpp"

// They stand in headers as inline functions: this makes the compiler emit them.
namespace mtpx {

#define MTPX_EMIT(name, signature) [[gnu::used]] void name signature;
MTPX_KERNELS_OF_NO_TYPE(MTPX_EMIT, Cuda)

}  // namespace mtpx

#include "untyped.cuh"

namespace mtpx {

MTPX_KERNELS_OF_NO_TYPE(MTPX_CHECK_KERNEL, Cuda)

}  // namespace mtpx
