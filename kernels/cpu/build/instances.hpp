#pragma once
// The CPU kernels that the optional library mtpx::compiled instantiates once, for float, double and bf16.
// Included by <mtpx/kernels.hpp> where MTPX_COMPILED is defined, which that library's users get: they
// then compile calls instead of kernels. Definitions are the same either way.

#include "../adamw.hpp"
#include "../attention.hpp"
#include "../elementwise.hpp"
#include "../embedding.hpp"
#include "../experts.hpp"
#include "../latent_attention.hpp"
#include "../linear_cross_entropy.hpp"
#include "../rms_norm.hpp"
#include "../rope.hpp"
#include "../router.hpp"
#include "../swiglu.hpp"

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

#define MTPX_ROW_KERNELS(T)                                                                                  \
  MTPX_EXTERN template void add_forward(const Cpu&, Index, const T*, const T*, T*);                          \
  MTPX_EXTERN template void embedding_forward(const Cpu&, Rows, const std::int32_t*, Rows, const T*, T*);    \
  MTPX_EXTERN template void embedding_backward(const Cpu&, Rows, const std::int32_t*, Index, Index,          \
                                               const T*, Sink<acc_t<T>>);                                    \
  MTPX_EXTERN template void rms_norm_forward(const Cpu&, Rows, const T*, const acc_t<T>*, acc_t<T>, T*,      \
                                             acc_t<T>*);                                                     \
  MTPX_EXTERN template void rms_norm_backward(const Cpu&, Rows, const T*, const acc_t<T>*, const acc_t<T>*,  \
                                              const T*, Sink<T>, Sink<acc_t<T>>);                            \
  MTPX_EXTERN template void add_rms_norm_forward(const Cpu&, Index, Index, const T*, const T*,               \
                                                 const acc_t<T>*, acc_t<T>, T*, T*, acc_t<T>*);              \
  MTPX_EXTERN template void add_rms_norm_backward(const Cpu&, Index, Index, const T*, const acc_t<T>*,       \
                                                  const acc_t<T>*, const T*, const T*, Sink<T>, Sink<T>,     \
                                                  Sink<acc_t<T>>);                                           \
  MTPX_EXTERN template void rope_apply(const Cpu&, Rows, Index, Index, const T*, const std::int32_t*,        \
                                       const acc_t<T>*, const acc_t<T>*, int, Sink<T>);                      \
  MTPX_EXTERN template void swiglu_forward(const Cpu&, Index, const T*, const T*, T*);                       \
  MTPX_EXTERN template void swiglu_backward(const Cpu&, Index, const T*, const T*, const T*, Sink<T>,        \
                                            Sink<T>);                                                        \
  MTPX_EXTERN template void absorb_query(const Cpu&, AttentionShape, Index, Index, const T*, const T*,       \
                                         acc_t<T>*);                                                         \
  MTPX_EXTERN template void append_latent(const Cpu&, LatentShape, const std::int32_t*, const std::int32_t*, \
                                          const T*, const T*, T*);                                           \
  MTPX_EXTERN template void latent_attention(const Cpu&, LatentShape, const std::int32_t*,                   \
                                             const std::int32_t*, const acc_t<T>*, const T*, acc_t<T>,       \
                                             acc_t<T>*);                                                     \
  MTPX_EXTERN template void expand_value(const Cpu&, AttentionShape, Index, Index, const acc_t<T>*,          \
                                         const T*, T*);
MTPX_ROW_KERNELS(float)
MTPX_ROW_KERNELS(double)
MTPX_ROW_KERNELS(bf16)
#undef MTPX_ROW_KERNELS

// What is never bf16: the router and the sums of losses.
#define MTPX_ROUTER(A)                                                                                    \
  MTPX_EXTERN template void scale_into(const Cpu&, Index, A, const A*, Sink<A>);                          \
  MTPX_EXTERN template void sigmoid_forward(const Cpu&, Index, const A*, A*);                             \
  MTPX_EXTERN template void sigmoid_backward(const Cpu&, Index, const A*, const A*, Sink<A>);             \
  MTPX_EXTERN template void route_forward(const Cpu&, Index, Routing, const A*, const A*, std::int32_t*,  \
                                          A*);                                                            \
  MTPX_EXTERN template void route_backward(const Cpu&, Index, Routing, const A*, const std::int32_t*,     \
                                           const A*, const A*, Sink<A>);                                  \
  MTPX_EXTERN template void balance_forward(const Cpu&, Index, Index, Index, Index, A, const A*, A*, A*); \
  MTPX_EXTERN template void balance_backward(const Cpu&, Index, Index, Index, A, const A*, const A*,      \
                                             const A*, Sink<A>);
MTPX_ROUTER(float)
MTPX_ROUTER(double)
#undef MTPX_ROUTER

}  // namespace mtpx
