#pragma once
// The CPU has every kernel of the list, or the compiler says which it lacks. Our own build asks, not every
// file that computes.

#include <mtpx/kernels.hpp>

namespace mtpx {

MTPX_CHECK_KERNELS(Cpu)
MTPX_KERNELS_OF_INT8(MTPX_CHECK_KERNEL, Cpu, float)
MTPX_KERNELS_OF_INT8(MTPX_CHECK_KERNEL, Cpu, bf16)
MTPX_KERNELS_OF_PACKED(MTPX_CHECK_KERNEL, Cpu, float)
MTPX_KERNELS_OF_PACKED(MTPX_CHECK_KERNEL, Cpu, bf16)

}  // namespace mtpx
