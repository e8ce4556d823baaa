// The CUDA kernels that no type of activations changes.

#include "untyped.cuh"

#include "../../list.hpp"

namespace mtpx {

// They stand in headers as inline functions: a pointer to each makes the compiler emit them.
#define MTPX_EMIT_KERNEL(name, signature) [[gnu::used]] static void(*const name##_here) signature = &name;
MTPX_KERNELS_OF_NO_TYPE(MTPX_EMIT_KERNEL, Cuda)

}  // namespace mtpx
