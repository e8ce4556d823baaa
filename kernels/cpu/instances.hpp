#pragma once
// The heavy CPU templates that the optional library mtpx::compiled instantiates once, for float, double and
// bf16. Included by <mtpx/kernels.hpp> where MTPX_COMPILED is defined, which that library's users get: they
// then compile calls instead of kernels. Definitions are the same either way.

#include "adamw.hpp"
#include "attention.hpp"
#include "experts.hpp"
#include "linear_cross_entropy.hpp"

#ifndef MTPX_EXTERN
#define MTPX_EXTERN extern
#endif

namespace mtpx {

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
#undef MTPX_PRODUCT

#define MTPX_KERNELS(T)                                                                                   \
  MTPX_EXTERN template void attention_forward(const Cpu&, AttentionShape, const T*, const T*, const T*,   \
                                              const std::int32_t*, acc_t<T>, T*, acc_t<T>*);              \
  MTPX_EXTERN template void attention_backward(const Cpu&, AttentionShape, const T*, const T*, const T*,  \
                                               const std::int32_t*, acc_t<T>, const T*, const acc_t<T>*,  \
                                               const T*, Sink<T>, Sink<T>, Sink<T>);                      \
  MTPX_EXTERN template void experts_forward(const Cpu&, ExpertsShape, const std::int32_t*,                \
                                            const std::int32_t*, const std::int32_t*, const T*, Index,    \
                                            const acc_t<T>*, const T*, const T*, const T*, T*, T*, T*);   \
  MTPX_EXTERN template void experts_backward(                                                             \
      const Cpu&, ExpertsShape, const std::int32_t*, const std::int32_t*, const std::int32_t*, const T*,  \
      Index, const acc_t<T>*, const T*, const T*, const T*, const T*, const T*, const T*, Sink<T>,        \
      Sink<acc_t<T>>, Sink<acc_t<T>>, Sink<acc_t<T>>, Sink<acc_t<T>>);                                    \
  MTPX_EXTERN template void linear_cross_entropy_forward(const Cpu&, Rows, const T*, Index, const T*,     \
                                                         const std::int32_t*, acc_t<T>*, acc_t<T>*,       \
                                                         std::int32_t*);                                  \
  MTPX_EXTERN template void linear_cross_entropy_backward(                                                \
      const Cpu&, Rows, const T*, Index, const T*, const std::int32_t*, const acc_t<T>*, const acc_t<T>*, \
      const acc_t<T>*, Sink<T>, Sink<acc_t<T>>);
MTPX_KERNELS(float)
MTPX_KERNELS(double)
MTPX_KERNELS(bf16)
#undef MTPX_KERNELS

}  // namespace mtpx
