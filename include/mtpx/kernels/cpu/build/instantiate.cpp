// mtpx::compiled: the CPU's kernels, once.

#define MTPX_EXTERN
#include <mtpx/kernels.hpp>
