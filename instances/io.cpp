// mtpx_io: model folders, GGUF files, JSON and checksums, once.

#include <mtpx/io/instances.hpp>

namespace mtpx {
MTPX_JSON()
MTPX_CHECKSUM()
MTPX_CONVERT()
MTPX_GGUF()
MTPX_MODEL_FOLDERS(, Cpu)
#ifdef MTPX_CUDA
MTPX_MODEL_FOLDERS(, Cuda)
#endif
}  // namespace mtpx
