// mtpx::reference: a model on the plain equations, once. The kernels: kernels/eigen/build/.

#include <mtpx/instances.hpp>
#include <mtpx/reference.hpp>

namespace mtpx {
MTPX_REFERENCE_MODELS()
}  // namespace mtpx
