// mtpx::compiled: the heavy CPU templates, once.

#define MTPX_EXTERN
#include <mtpx/core/tensor.hpp>

#include "instances.hpp"
