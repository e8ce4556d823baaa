#pragma once
// The CPU kernels that the optional library mtpx::compiled instantiates once. Included by
// <mtpx/kernels/cpu.hpp> where MTPX_COMPILED is defined, which that library's users get: who sees a kernel's
// inside does not compile it again.

#include <mtpx/kernels/cpu.hpp>

#ifndef MTPX_EXTERN
#define MTPX_EXTERN extern
#endif

namespace mtpx {

#define MTPX_INSTANCE(name, signature) MTPX_EXTERN template void name signature;
MTPX_KERNELS_IN_ALL_TYPES(MTPX_INSTANCE, Cpu)
MTPX_KERNELS_OF_INT8(MTPX_INSTANCE, Cpu, float)
MTPX_KERNELS_OF_INT8(MTPX_INSTANCE, Cpu, bf16)
MTPX_KERNELS_OF_INT8_PRODUCTS(MTPX_INSTANCE, Cpu, bf16, float)
MTPX_KERNELS_OF_PACKED(MTPX_INSTANCE, Cpu, float)
MTPX_KERNELS_OF_PACKED(MTPX_INSTANCE, Cpu, bf16)
MTPX_KERNELS_OF_PACKED_PRODUCTS(MTPX_INSTANCE, Cpu, bf16, float)
#undef MTPX_INSTANCE

// Operands of every product: activations, weights, gradients; the router's weights stay in float.
#define MTPX_PRODUCT(A, B, C)                                                                  \
  MTPX_EXTERN template void cpu::multiply(const Cpu&, std::span<const cpu::Product<A, B, C>>); \
  MTPX_EXTERN template void cpu::multiply_here(const cpu::Product<A, B, C>&);
MTPX_PRODUCT(float, float, float)
MTPX_PRODUCT(double, double, double)
MTPX_PRODUCT(bf16, bf16, bf16)
MTPX_PRODUCT(bf16, bf16, float)
MTPX_PRODUCT(bf16, float, float)
MTPX_PRODUCT(float, bf16, float)
MTPX_PRODUCT(float, bf16, bf16)
MTPX_PRODUCT(float, float, bf16)
MTPX_PRODUCT(float, std::int8_t, float)
MTPX_PRODUCT(bf16, std::int8_t, bf16)
MTPX_PRODUCT(bf16, std::int8_t, float)
MTPX_PRODUCT(float, cpu::Packed<float>, float)
MTPX_PRODUCT(bf16, cpu::Packed<bf16>, bf16)
MTPX_PRODUCT(bf16, cpu::Packed<bf16>, float)
#undef MTPX_PRODUCT

}  // namespace mtpx
