// mtpx::reference: the kernels of the device Reference, once.

#define MTPX_EXTERN_REFERENCE
#include <mtpx/reference.hpp>
