// The model that every subcommand runs, instantiated once: on a GPU. Empty in a build without kernels for it.

#ifdef MTPX_CUDA
#include "model.hpp"

namespace mtpx {
MTPX_MODEL(, float, Cuda)
MTPX_MODEL(, bf16, Cuda)
}  // namespace mtpx
#endif
