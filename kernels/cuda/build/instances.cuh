#pragma once
// What the library mtpx_cuda compiles, for one type of activations a file (*.cu): the twins of
// kernels/contract.hpp, which host compilers only see declared.

#include "definitions.cuh"

namespace mtpx {

// Activations of type T.
#define MTPX_CUDA_KERNELS(T)                                                                                 \
  template void embedding_forward(const Cuda&, Rows, const std::int32_t*, Rows, const T*, T*);               \
  template void embedding_backward(const Cuda&, Rows, const std::int32_t*, Index, Index, const T*,           \
                                   Sink<acc_t<T>>);                                                          \
  template void linear_forward(const Cuda&, Rows, const T*, Index, const T*, T*);                            \
  template void linear_backward_input(const Cuda&, Rows, Index, const T*, const T*, Sink<T>);                \
  template void linear_backward_weight<T, T>(const Cuda&, Rows, const T*, Index, const T*, Sink<acc_t<T>>);  \
  template void rms_norm_forward(const Cuda&, Rows, const T*, const acc_t<T>*, acc_t<T>, T*, acc_t<T>*);     \
  template void rms_norm_backward(const Cuda&, Rows, const T*, const acc_t<T>*, const acc_t<T>*, const T*,   \
                                  Sink<T>, Sink<acc_t<T>>);                                                  \
  template void add_rms_norm_forward(const Cuda&, Index, Index, const T*, const T*, const acc_t<T>*,         \
                                     acc_t<T>, T*, T*, acc_t<T>*);                                           \
  template void add_rms_norm_backward(const Cuda&, Index, Index, const T*, const acc_t<T>*, const acc_t<T>*, \
                                      const T*, const T*, Sink<T>, Sink<T>, Sink<acc_t<T>>);                 \
  template void rope_apply(const Cuda&, Rows, Index, Index, const T*, const std::int32_t*, const acc_t<T>*,  \
                           const acc_t<T>*, int, Sink<T>);                                                   \
  template void attention_forward(const Cuda&, AttentionShape, const T*, const T*, const T*,                 \
                                  const std::int32_t*, acc_t<T>, T*, acc_t<T>*);                             \
  template void attention_backward(const Cuda&, AttentionShape, const T*, const T*, const T*,                \
                                   const std::int32_t*, acc_t<T>, const T*, const acc_t<T>*, const T*,       \
                                   Sink<T>, Sink<T>, Sink<T>);                                               \
  template void swiglu_forward(const Cuda&, Index, const T*, const T*, T*);                                  \
  template void swiglu_backward(const Cuda&, Index, const T*, const T*, const T*, Sink<T>, Sink<T>);         \
  template void experts_forward(const Cuda&, ExpertsShape, const std::int32_t*, const std::int32_t*,         \
                                const std::int32_t*, const T*, Index, const acc_t<T>*, const T*, const T*,   \
                                const T*, T*, T*, T*);                                                       \
  template void experts_backward(const Cuda&, ExpertsShape, const std::int32_t*, const std::int32_t*,        \
                                 const std::int32_t*, const T*, Index, const acc_t<T>*, const T*, const T*,  \
                                 const T*, const T*, const T*, const T*, Sink<T>, Sink<acc_t<T>>,            \
                                 Sink<acc_t<T>>, Sink<acc_t<T>>, Sink<acc_t<T>>);                            \
  template void linear_cross_entropy_forward(const Cuda&, Rows, const T*, Index, const T*,                   \
                                             const std::int32_t*, acc_t<T>*, acc_t<T>*, std::int32_t*);      \
  template void linear_cross_entropy_backward(const Cuda&, Rows, const T*, Index, const T*,                  \
                                              const std::int32_t*, const acc_t<T>*, const acc_t<T>*,         \
                                              const acc_t<T>*, Sink<T>, Sink<acc_t<T>>);                     \
  template void copy_rows(const Cuda&, Index, Index, const T*, Index, T*, Index, bool);                      \
  template void add_forward(const Cuda&, Index, const T*, const T*, T*);                                     \
  template void fill_value(const Cuda&, Index, T, T*);                                                       \
  template void draw_normals(const Cuda&, Index, std::uint64_t, std::uint64_t, double, T*);                  \
  template void adamw_step(const Cuda&, std::span<const AdamWTensor<T>>, AdamWStep, const double*,           \
                           const double*);                                                                   \
  template void absorb_query(const Cuda&, AttentionShape, Index, Index, const T*, const T*, acc_t<T>*);      \
  template void append_latent(const Cuda&, LatentShape, const std::int32_t*, const std::int32_t*, const T*,  \
                              const T*, T*);                                                                 \
  template void latent_attention(const Cuda&, LatentShape, const std::int32_t*, const std::int32_t*,         \
                                 const acc_t<T>*, const T*, acc_t<T>, acc_t<T>*);                            \
  template void expand_value(const Cuda&, AttentionShape, Index, Index, const acc_t<T>*, const T*, T*);

// What is in the accumulation type A whatever the activations are.
#define MTPX_CUDA_SUMS(A)                                                                                    \
  template void sigmoid_forward(const Cuda&, Index, const A*, A*);                                           \
  template void sigmoid_backward(const Cuda&, Index, const A*, const A*, Sink<A>);                           \
  template void route_forward(const Cuda&, Index, Routing, const A*, const A*, std::int32_t*, A*);           \
  template void route_backward(const Cuda&, Index, Routing, const A*, const std::int32_t*, const A*,         \
                               const A*, Sink<A>);                                                           \
  template void balance_forward(const Cuda&, Index, Index, Index, Index, A, const A*, A*, A*);               \
  template void balance_backward(const Cuda&, Index, Index, Index, A, const A*, const A*, const A*,          \
                                 Sink<A>);                                                                   \
  template void update_bias(const Cuda&, Index, A, const double*, A*, A*);                                   \
  template void plan_experts(const Cuda&, Index, Index, const std::int32_t*, std::int32_t*, std::int32_t*,   \
                             std::int32_t*, A*);                                                             \
  template void cross_entropy_mean(const Cuda&, Index, const A*, const std::int32_t*, Index, A*, A*);        \
  template void scale_into(const Cuda&, Index, A, const A*, Sink<A>);                                        \
  template void sums_of_squares(const Cuda&, std::span<const std::span<const A>>, double*);                  \
  template void argmax_rows(const Cuda&, Rows, const A*, std::int32_t*);                                     \
  template void draw_rows(const Cuda&, Rows, const A*, const SamplingOptions&, const double*, std::int32_t*, \
                          const Kept&);

// Float beside bf16: the router's products, the logits of decoding, masters.
#define MTPX_CUDA_MIXED                                                                                  \
  template void linear_forward(const Cuda&, Rows, const bf16*, Index, const bf16*, float*);              \
  template void linear_forward(const Cuda&, Rows, const bf16*, Index, const float*, float*);             \
  template void linear_backward_input(const Cuda&, Rows, Index, const float*, const float*, Sink<bf16>); \
  template void linear_backward_weight<bf16, float>(const Cuda&, Rows, const bf16*, Index, const float*, \
                                                    Sink<float>);                                        \
  template void copy_rows(const Cuda&, Index, Index, const bf16*, Index, float*, Index, bool);           \
  template void copy_rows(const Cuda&, Index, Index, const float*, Index, bf16*, Index, bool);           \
  template void decode_attention(const Cuda&, const DecodeAttention<bf16>&, const bf16*, bf16*);         \
  template void decode_feed_forward(const Cuda&, const DecodeFeedForward<bf16>&, const bf16*, bf16*);    \
  template void decode_tokens(const Cuda&, Rows, const bf16*, Index, const bf16*, std::int32_t*);

}  // namespace mtpx
