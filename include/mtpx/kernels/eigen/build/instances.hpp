#pragma once
// The reference's kernels in double, which the optional library mtpx::reference instantiates once, as
// ../../cpu/build/instances.hpp does the host's. Included by <mtpx/reference.hpp> where
// MTPX_COMPILED_REFERENCE is defined, which that library's users get.

#include <mtpx/reference.hpp>

#ifndef MTPX_EXTERN_REFERENCE
#define MTPX_EXTERN_REFERENCE extern
#endif

namespace mtpx {

#define MTPX_INSTANCE(name, signature) MTPX_EXTERN_REFERENCE template void name signature;
MTPX_KERNELS_IN_DOUBLE(MTPX_INSTANCE, Reference)
#undef MTPX_INSTANCE

}  // namespace mtpx
