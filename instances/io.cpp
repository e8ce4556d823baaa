// mtpx_io: model folders and JSON, once.

#include <mtpx/io/instances.hpp>

namespace mtpx {
MTPX_JSON()
MTPX_MODEL_FOLDERS(, Cpu)
#ifdef MTPX_CUDA
MTPX_MODEL_FOLDERS(, Cuda)
#endif
}  // namespace mtpx
