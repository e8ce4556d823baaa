// mtpx::compiled with MTPX_BACKEND=cuda: the same as model.cpp on a GPU, whose kernels are mtpx_cuda's.

#include <mtpx/instances.hpp>

namespace mtpx {
MTPX_TRAINED_MODELS(, Cuda)
}  // namespace mtpx
