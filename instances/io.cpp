// mtpx_io: model folders, JSON and checksums, once.

#include <mtpx/io/instances.hpp>
#include <mtpx/io/train_run.hpp>

namespace mtpx {
MTPX_JSON()
MTPX_CHECKSUM()
MTPX_MODEL_FOLDERS(, Cpu)
MTPX_TRAIN_RUN(, Cpu)
#ifdef MTPX_CUDA
MTPX_MODEL_FOLDERS(, Cuda)
MTPX_TRAIN_RUN(, Cuda)
#endif
}  // namespace mtpx
