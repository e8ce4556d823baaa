#pragma once
// The CUDA twins as host compilers see them: declared here, compiled once by nvcc (*.cu). What
// each computes stands beside its definition in the .cuh file of the same name, and at the CPU's twin.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/cuda.hpp>
#include <mtpx/core/shape.hpp>

#include <cstdint>
#include <span>

#include "../../decode_shapes.hpp"
#include "../../sampling.hpp"
#include "../../shapes.hpp"
#include "../../verify.hpp"

namespace mtpx {

// embedding
template <typename T>
void embedding_forward(const Cuda&, Rows ids, const std::int32_t* id, Rows table_rows, const T* table, T* y);
template <typename T>
void embedding_backward(const Cuda&, Rows ids, const std::int32_t* id, Index vocab, Index width, const T* dy,
                        Sink<acc_t<T>> dtable);

// linear
template <typename X, typename W, typename Y>
void linear_forward(const Cuda&, Rows rows, const X* x, Index out, const W* w, Y* y);
template <typename X, typename W>
void linear_backward_input(const Cuda&, Rows rows, Index out, const W* w, const W* dy, Sink<X> dx);
template <typename X, typename W>
void linear_backward_weight(const Cuda&, Rows rows, const X* x, Index out, const W* dy, Sink<acc_t<W>> dw);

// rms_norm
template <typename T>
void rms_norm_forward(const Cuda&, Rows rows, const T* x, const acc_t<T>* gain, acc_t<T> eps, T* y,
                      acc_t<T>* rstd);
template <typename T>
void rms_norm_backward(const Cuda&, Rows rows, const T* x, const acc_t<T>* gain, const acc_t<T>* rstd,
                       const T* dy, Sink<T> dx, Sink<acc_t<T>> dgain);
template <typename T>
void add_rms_norm_forward(const Cuda&, Index count, Index width, const T* x, const T* f, const acc_t<T>* gain,
                          acc_t<T> eps, T* total, T* y, acc_t<T>* rstd);
template <typename T>
void add_rms_norm_backward(const Cuda&, Index count, Index width, const T* total, const acc_t<T>* gain,
                           const acc_t<T>* rstd, const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df,
                           Sink<acc_t<T>> dgain);

// rope
template <typename T>
void rope_apply(const Cuda&, Rows rows, Index heads, Index rope, const T* x, const std::int32_t* positions,
                const acc_t<T>* cos, const acc_t<T>* sin, int direction, Sink<T> y);

// attention
template <typename T>
void attention_forward(const Cuda&, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                       const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse);
template <typename T>
void attention_backward(const Cuda&, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                        const std::int32_t* positions, acc_t<T> scale, const T* o, const acc_t<T>* lse,
                        const T* d_o, Sink<T> dq, Sink<T> dkv, Sink<T> dk_rope);

// swiglu
template <typename T>
void swiglu_forward(const Cuda&, Index count, const T* gate, const T* up, T* y);
template <typename T>
void swiglu_backward(const Cuda&, Index count, const T* gate, const T* up, const T* dy, Sink<T> dgate,
                     Sink<T> dup);

// router
template <typename A>
void sigmoid_forward(const Cuda&, Index count, const A* x, A* y);
template <typename A>
void sigmoid_backward(const Cuda&, Index count, const A* y, const A* dy, Sink<A> dx);
template <typename A>
void route_forward(const Cuda&, Index tokens, Routing r, const A* scores, const A* bias, std::int32_t* ids,
                   A* weights);
template <typename A>
void route_backward(const Cuda&, Index tokens, Routing r, const A* scores, const std::int32_t* ids,
                    const A* weights, const A* dweights, Sink<A> dscores);
template <typename A>
void balance_forward(const Cuda&, Index batch, Index time, Index experts, Index top_k, A alpha,
                     const A* scores, A* loss, A* f);
template <typename A>
void balance_backward(const Cuda&, Index batch, Index time, Index experts, A alpha, const A* scores,
                      const A* f, const A* dloss, Sink<A> dscores);
template <typename A>
void update_bias(const Cuda&, Index experts, A speed, const double* scale, A* load, A* bias);

// experts
template <typename A>
void plan_experts(const Cuda&, Index slots, Index experts, const std::int32_t* ids, std::int32_t* offsets,
                  std::int32_t* slot, std::int32_t* place, A* load);
template <typename T>
void experts_forward(const Cuda&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                     const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,
                     const T* wg, const T* wu, const T* wd, T* gate, T* up, T* y);
template <typename T>
void experts_backward(const Cuda&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                      const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,
                      const T* wg, const T* wu, const T* wd, const T* gate, const T* up, const T* dy,
                      Sink<T> dx, Sink<acc_t<T>> dweights, Sink<acc_t<T>> dwg, Sink<acc_t<T>> dwu,
                      Sink<acc_t<T>> dwd);

// linear_cross_entropy
template <typename T>
void linear_cross_entropy_forward(const Cuda&, Rows rows, const T* x, Index vocab, const T* w,
                                  const std::int32_t* labels, acc_t<T>* lse, acc_t<T>* row_loss,
                                  std::int32_t* argmax);
template <typename A>
void cross_entropy_mean(const Cuda&, Index count, const A* row_loss, const std::int32_t* labels,
                        Index fixed_divisor, A* loss, A* factor);
template <typename T>
void linear_cross_entropy_backward(const Cuda&, Rows rows, const T* x, Index vocab, const T* w,
                                   const std::int32_t* labels, const acc_t<T>* lse, const acc_t<T>* factor,
                                   const acc_t<T>* dloss, Sink<T> dx, Sink<acc_t<T>> dw);

// elementwise
template <typename From, typename To>
void copy_rows(const Cuda&, Index count, Index width, const From* from, Index from_stride, To* to,
               Index to_stride, bool accumulate);
template <typename T>
void add_forward(const Cuda&, Index count, const T* a, const T* b, T* y);
template <typename A>
void scale_into(const Cuda&, Index count, A alpha, const A* x, Sink<A> y);
template <typename A>
void fill_value(const Cuda&, Index count, A value, A* y);
template <typename T>
void draw_normals(const Cuda&, Index count, std::uint64_t seed, std::uint64_t stream, double deviation, T* y);
void fill_positions(const Cuda&, Index batch, Index time, Index start, std::int32_t* positions);
void window_positions(const Cuda&, Rows rows, const std::int32_t* documents, std::int32_t* positions);
void shift_labels(const Cuda&, Rows rows, Index depth, const std::int32_t* tokens,
                  const std::int32_t* documents, std::int32_t* labels);

// optimiser
template <typename A>
void sums_of_squares(const Cuda&, std::span<const std::span<const A>> gradients, double* out);
void clip_scale(const Cuda&, Index parts, const double* squares, double max_norm, double* norm, double* scale,
                double* halted);
template <typename T>
void adamw_step(const Cuda&, std::span<const AdamWTensor<T>> parameters, AdamWStep s, const double* rates,
                const double* scale);

// decoding
template <typename T>
void absorb_query(const Cuda&, AttentionShape s, Index latent, Index rows, const T* q, const T* w,
                  acc_t<T>* absorbed);
template <typename T>
void append_latent(const Cuda&, LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,
                   const T* latent, const T* k_rope, T* cache);
template <typename T>
void latent_attention(const Cuda&, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const acc_t<T>* q, const T* cache, acc_t<T> scale,
                      acc_t<T>* out);
template <typename T>
void expand_value(const Cuda&, AttentionShape s, Index latent, Index rows, const acc_t<T>* attended,
                  const T* w, T* o);
template <typename A>
void argmax_rows(const Cuda&, Rows rows, const A* logits, std::int32_t* ids);
template <typename A>
void draw_rows(const Cuda&, Rows rows, const A* logits, const SamplingOptions& s, const double* u,
               std::int32_t* ids, const Kept& kept = {});
void verify_rounds(const Cuda&, const VerifyRule& rule, const DraftRounds& rounds, std::int32_t* verdicts);
template <typename T>
void decode_attention(const Cuda&, const DecodeAttention<T>& p, const T* x, T* h);
template <typename T>
void decode_feed_forward(const Cuda&, const DecodeFeedForward<T>& p, const T* h, T* y);
template <typename T>
void decode_tokens(const Cuda&, Rows rows, const T* x, Index out, const T* w, std::int32_t* ids);

}  // namespace mtpx
