// mtpx::compiled: ops, modules, training and decoding, once. The kernels: kernels/cpu/build/.

#include <mtpx/instances.hpp>

namespace mtpx {
MTPX_TRAINED_MODELS(, Cpu)
}  // namespace mtpx
