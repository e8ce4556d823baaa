#pragma once
// Every kernel of a device, once: its name and its signature, in groups by the types that it is made for.
// What each computes stands beside its definition in cpu/; twins have the same names and take the same. From
// this list come the check that a device has them all, the declarations of kernels that another compiler's
// objects hold, and what libraries compile once: see the end of this file.
//
// All pointers are device pointers. A kernel reads nothing back to the host and returns nothing. D is the
// device; a group applies the macro KERNEL(name, signature) to each of its kernels.

#include "decode_shapes.hpp"
#include "distillation.hpp"
#include "functions.hpp"
#include "int8.hpp"
#include "packed.hpp"
#include "sampling.hpp"
#include "shapes.hpp"
#include "verify.hpp"

#include <mtpx/core/bf16.hpp>

#include <cstdint>
#include <span>

// --- Templates of one type -------------------------------------------------------------------------------

/// Activations of type T.
#define MTPX_KERNELS_OF_ACTIVATIONS(KERNEL, D, T)                                                            \
  KERNEL(embedding_forward, (const D&, const char* op, Rows ids, const std::int32_t* id, Rows table_rows,    \
                             const T* table, T* y))                                                          \
  KERNEL(embedding_backward, (const D&, const char* op, Rows ids, const std::int32_t* id, Index vocab,       \
                              Index width, const T* dy, Sink<acc_t<T>> dtable))                              \
  KERNEL(rms_norm_forward,                                                                                   \
         (const D&, Rows rows, const T* x, const acc_t<T>* gain, acc_t<T> eps, T* y, acc_t<T>* rstd))        \
  KERNEL(rms_norm_backward, (const D&, Rows rows, const T* x, const acc_t<T>* gain, const acc_t<T>* rstd,    \
                             const T* dy, Sink<T> dx, Sink<acc_t<T>> dgain))                                 \
  KERNEL(add_rms_norm_forward, (const D&, Index count, Index width, const T* x, const T* f,                  \
                                const acc_t<T>* gain, acc_t<T> eps, T* total, T* y, acc_t<T>* rstd))         \
  KERNEL(add_rms_norm_backward,                                                                              \
         (const D&, Index count, Index width, const T* total, const acc_t<T>* gain, const acc_t<T>* rstd,    \
          const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df, Sink<acc_t<T>> dgain))                       \
  KERNEL(rope_apply,                                                                                         \
         (const D&, Rows rows, Index heads, Index rope, const T* x, const std::int32_t* positions,           \
          const acc_t<T>* cos, const acc_t<T>* sin, int direction, Sink<T> y))                               \
  KERNEL(attention_forward, (const D&, AttentionShape s, const T* q, const T* kv, const T* k_rope,           \
                             const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse))            \
  KERNEL(attention_backward, (const D&, AttentionShape s, const T* q, const T* kv, const T* k_rope,          \
                              const std::int32_t* positions, acc_t<T> scale, const T* o,                     \
                              const acc_t<T>* lse, const T* d_o, Sink<T> dq, Sink<T> dkv, Sink<T> dk_rope))  \
  KERNEL(swiglu_forward, (const D&, Index count, const T* gate, const T* up, T* y))                          \
  KERNEL(swiglu_backward,                                                                                    \
         (const D&, Index count, const T* gate, const T* up, const T* dy, Sink<T> dgate, Sink<T> dup))       \
  KERNEL(experts_forward, (const D&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,  \
                           const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,   \
                           const T* wg, const T* wu, const T* wd, T* gate, T* up, T* y))                     \
  KERNEL(experts_backward,                                                                                   \
         (const D&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,                   \
          const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights, const T* wg,       \
          const T* wu, const T* wd, const T* gate, const T* up, const T* dy, Sink<T> dx,                     \
          Sink<acc_t<T>> dweights, Sink<acc_t<T>> dwg, Sink<acc_t<T>> dwu, Sink<acc_t<T>> dwd))              \
  KERNEL(spread_slots, (const D&, Rows rows, Index top_k, const std::int32_t* row, const T* x, T* spread))   \
  KERNEL(combine_slots, (const D&, Rows rows, Index top_k, const std::int32_t* row, const acc_t<T>* weights, \
                         const T* spread, Sink<T> y))                                                        \
  KERNEL(linear_cross_entropy_forward,                                                                       \
         (const D&, Rows rows, const T* x, Index vocab, const T* w, const std::int32_t* labels,              \
          acc_t<T>* lse, acc_t<T>* row_loss, std::int32_t* argmax))                                          \
  KERNEL(                                                                                                    \
      linear_cross_entropy_backward,                                                                         \
      (const D&, Rows rows, const T* x, Index vocab, const T* w, const std::int32_t* labels,                 \
       const acc_t<T>* lse, const acc_t<T>* factor, const acc_t<T>* dloss, Sink<T> dx, Sink<acc_t<T>> dw))   \
  KERNEL(linear_distillation_forward,                                                                        \
         (const D&, const Teaching<T>& teaching, Rows rows, const T* x, Index vocab, const T* w,             \
          const std::int32_t* labels, acc_t<T>* saved, acc_t<T>* row_loss, std::int32_t* argmax))            \
  KERNEL(linear_distillation_backward,                                                                       \
         (const D&, const Teaching<T>& teaching, Rows rows, const T* x, Index vocab, const T* w,             \
          const std::int32_t* labels, const acc_t<T>* saved, const acc_t<T>* factor, const acc_t<T>* dloss,  \
          Sink<T> dx, Sink<acc_t<T>> dw))                                                                    \
  KERNEL(unary_forward, (const D&, Unary f, acc_t<T> alpha, acc_t<T> beta, Rows rows, const T* x, T* y))     \
  KERNEL(unary_backward,                                                                                     \
         (const D&, Unary f, acc_t<T> alpha, Rows rows, const T* from, const T* dy, Sink<T> dx))             \
  KERNEL(binary_forward,                                                                                     \
         (const D&, Binary f, PairShape s, const std::int32_t* mask, const T* a, const T* b, T* y))          \
  KERNEL(sum_forward, (const D&, Rows rows, bool over_all, Index divisor, const T* x, T* y))                 \
  KERNEL(sum_backward, (const D&, Rows rows, bool over_all, Index divisor, const T* dy, Sink<T> dx))         \
  KERNEL(softmax_forward, (const D&, Rows rows, bool log, const T* x, T* y))                                 \
  KERNEL(softmax_backward, (const D&, Rows rows, bool log, const T* y, const T* dy, Sink<T> dx))             \
  KERNEL(cross_entropy_forward, (const D&, Rows rows, const T* logits, const std::int32_t* labels,           \
                                 acc_t<T>* lse, acc_t<T>* row_loss))                                         \
  KERNEL(cross_entropy_backward,                                                                             \
         (const D&, Rows rows, const T* logits, const std::int32_t* labels, const acc_t<T>* lse,             \
          const acc_t<T>* factor, const acc_t<T>* dloss, Sink<T> dlogits))                                   \
  KERNEL(transpose_copy, (const D&, Index batch, Rows rows, const T* x, Sink<T> y))                          \
  KERNEL(drop_numbers, (const D&, Rows rows, std::uint64_t seed, std::uint64_t stream, double rate,          \
                        const T* x, Sink<T> y))                                                              \
  KERNEL(draw_normals,                                                                                       \
         (const D&, Index count, std::uint64_t seed, std::uint64_t stream, double deviation, T* y))          \
  KERNEL(fill_value, (const D&, Index count, T value, T* y))                                                 \
  KERNEL(adamw_step, (const D&, std::span<const AdamWTensor<T>> parameters, AdamWStep s,                     \
                      const double* rates, const double* scale))                                             \
  KERNEL(absorb_query,                                                                                       \
         (const D&, AttentionShape s, Index latent, Index rows, const T* q, const T* w, acc_t<T>* absorbed)) \
  KERNEL(append_latent, (const D&, LatentShape s, const std::int32_t* sequences,                             \
                         const std::int32_t* positions, const T* latent, const T* k_rope, T* cache))         \
  KERNEL(latent_attention,                                                                                   \
         (const D&, LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,             \
          const TreePaths& paths, const acc_t<T>* q, const T* cache, acc_t<T> scale, acc_t<T>* out))         \
  KERNEL(expand_value,                                                                                       \
         (const D&, AttentionShape s, Index latent, Index rows, const acc_t<T>* attended, const T* w, T* o)) \
  KERNEL(store_rows, (const D&, StateShape s, const std::int32_t* sequences, const std::int32_t* positions,  \
                      const T* x, T* cache))                                                                 \
  KERNEL(gather_rows, (const D&, StateShape s, const std::int32_t* sequences, const std::int32_t* positions, \
                       const T* cache, T* y))

/// What is in the accumulation type A whatever the activations are.
#define MTPX_KERNELS_OF_SUMS(KERNEL, D, A)                                                                   \
  KERNEL(route_forward,                                                                                      \
         (const D&, Index tokens, Routing r, const A* scores, const A* bias, std::int32_t* ids, A* weights)) \
  KERNEL(route_backward, (const D&, Index tokens, Routing r, const A* scores, const std::int32_t* ids,       \
                          const A* weights, const A* dweights, Sink<A> dscores))                             \
  KERNEL(balance_forward, (const D&, Index batch, Index time, Index experts, Index top_k, A alpha,           \
                           const A* scores, A* loss, A* f))                                                  \
  KERNEL(balance_backward, (const D&, Index batch, Index time, Index experts, A alpha, const A* scores,      \
                            const A* f, const A* dloss, Sink<A> dscores))                                    \
  KERNEL(update_bias, (const D&, Index experts, A speed, const double* scale, A* load, A* bias))             \
  KERNEL(plan_experts, (const D&, Index slots, Index experts, const std::int32_t* ids,                       \
                        std::int32_t* offsets, std::int32_t* slot, std::int32_t* place, A* load))            \
  KERNEL(plan_exchange, (const D&, ExchangeShape s, const std::int32_t* ids, const std::int32_t* offsets,    \
                         const std::int32_t* place, std::int32_t* row, std::int32_t* bounds, A* need))       \
  KERNEL(cross_entropy_mean, (const D&, Index count, const A* row_loss, const std::int32_t* labels,          \
                              Index fixed_divisor, A* loss, A* factor))                                      \
  KERNEL(scale_into, (const D&, Index count, A alpha, const A* x, Sink<A> y))                                \
  KERNEL(fold_parts, (const D&, Index count, Index parts, const A* x, Sink<A> y))                            \
  KERNEL(squares_of_chunks, (const D&, std::span<const std::span<const A>> gradients, double* out))          \
  KERNEL(sums_of_squares, (const D&, std::span<const std::span<const A>> gradients, double* out))            \
  KERNEL(spread_logits,                                                                                      \
         (const D&, Rows rows, const A* logits, const std::int32_t* tokens, Index vocab, A* y))              \
  KERNEL(argmax_rows, (const D&, Rows rows, const A* logits, std::int32_t* ids))                             \
  KERNEL(race_rows,                                                                                          \
         (const D&, Rows rows, const A* logits, const Draw* draws, Index best, std::int32_t* ids))           \
  KERNEL(draw_rows,                                                                                          \
         (const D&, Rows rows, const A* logits, const Draw* draws, std::int32_t* ids, const Kept& kept))

/// What a device may bring as well: a decoding pass in few launches. All or none (fuses_decoding).
#define MTPX_KERNELS_OF_FUSED_DECODING(KERNEL, D, T)                                                         \
  KERNEL(decode_blocks, (const D&, Index count, const DecodeBlock<T>* blocks, const T* x, T* y))             \
  KERNEL(decode_inputs, (const D&, const DecodeInputs<T>& p, const T* first, const T* second, T* y))         \
  KERNEL(decode_tokens, (const D&, Rows rows, const T* x, Index out, const T* w, const std::int32_t* tokens, \
                         const Draw* draws, std::int32_t* ids))

/// What a device may bring as well: weights in 8 bits, for decoding (multiplies_int8). X: activations   Y:
/// results
#define MTPX_KERNELS_OF_INT8_PRODUCTS(KERNEL, D, X, Y) \
  KERNEL(linear_int8_forward, (const D&, Rows rows, const X* x, const Int8Weights& w, Y* y))
#define MTPX_KERNELS_OF_INT8_EXPERTS(KERNEL, D, T)                                         \
  KERNEL(experts_int8_forward,                                                             \
         (const D&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot, \
          const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,  \
          const Int8Weights& wg, const Int8Weights& wu, const Int8Weights& wd, T* gate, T* up, T* y))
#define MTPX_KERNELS_OF_INT8(KERNEL, D, T)       \
  MTPX_KERNELS_OF_INT8_PRODUCTS(KERNEL, D, T, T) \
  MTPX_KERNELS_OF_INT8_EXPERTS(KERNEL, D, T)

/// What a device may bring as well: weights in the order in which it streams them, for decoding (packs).
/// Y: results
#define MTPX_KERNELS_OF_PACKED_PRODUCTS(KERNEL, D, T, Y) \
  KERNEL(linear_packed_forward, (const D&, Rows rows, const T* x, const PackedWeights<T>& w, Y* y))
#define MTPX_KERNELS_OF_PACKED_WEIGHTS(KERNEL, D, T)                                                   \
  KERNEL(pack_weights, (const D&, Index count, const PackedWeights<T>& shape, const T* w, T* to))      \
  KERNEL(experts_packed_forward,                                                                       \
         (const D&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,             \
          const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,              \
          const PackedWeights<T>& wg, const PackedWeights<T>& wu, const PackedWeights<T>& wd, T* gate, \
          T* up, T* y))
#define MTPX_KERNELS_OF_PACKED(KERNEL, D, T)       \
  MTPX_KERNELS_OF_PACKED_PRODUCTS(KERNEL, D, T, T) \
  MTPX_KERNELS_OF_PACKED_WEIGHTS(KERNEL, D, T)

// --- Templates of several types --------------------------------------------------------------------------

/// X: activations   W: weights; the router's are of the accumulation type   Y: results, so are decoding's
/// logits
#define MTPX_KERNELS_OF_PRODUCTS(KERNEL, D, X, W, Y) \
  KERNEL(linear_forward, (const D&, Rows rows, const X* x, Index out, const W* w, Y* y))
#define MTPX_KERNELS_OF_PRODUCT_GRADIENTS(KERNEL, D, X, W)                                             \
  KERNEL(linear_backward_input, (const D&, Rows rows, Index out, const W* w, const W* dy, Sink<X> dx)) \
  KERNEL(linear_backward_weight, (const D&, Rows rows, const X* x, Index out, const W* dy, Sink<acc_t<W>> dw))
/// T: operands   G: the gradient, that of a weight in the accumulation type; also other results of products
#define MTPX_KERNELS_OF_SHARED_OPERANDS(KERNEL, D, T, G)                                                     \
  KERNEL(binary_backward, (const D&, Binary f, bool of_b, PairShape s, const std::int32_t* mask, const T* a, \
                           const T* b, const T* dy, Sink<G> d))                                              \
  KERNEL(multiply_matrices, (const D&, MatmulShape s, const T* a, const T* b, Sink<G> y))
#define MTPX_KERNELS_OF_COPIES(KERNEL, D, From, To)                                                   \
  KERNEL(copy_rows, (const D&, Index count, Index width, const From* from, Index from_stride, To* to, \
                     Index to_stride, bool accumulate))

// --- No templates ----------------------------------------------------------------------------------------

#define MTPX_KERNELS_OF_NO_TYPE(KERNEL, D)                                                                  \
  KERNEL(fill_positions, (const D&, Index batch, Index time, Index start, std::int32_t* positions))         \
  KERNEL(window_positions, (const D&, Rows rows, const std::int32_t* positions, std::int32_t* window))      \
  KERNEL(shift_labels, (const D&, Rows rows, Index depth, const std::int32_t* tokens,                       \
                        const std::int32_t* positions, const std::int32_t* counts, std::int32_t* labels))   \
  KERNEL(sums_of_chunks, (const D&, std::span<const ChunkRange> ranges, const double* chunks, double* out)) \
  KERNEL(clip_scale, (const D&, Index parts, const double* squares, double max_norm, double* norm,          \
                      double* scale, double* halted))                                                       \
  KERNEL(verify_rounds, (const D&, const VerifyRule& rule, const DraftRounds& rounds, Verdict* verdicts))

// --- Which types a device has them for -------------------------------------------------------------------

/// Activations, weights and results of type T.
#define MTPX_KERNELS_FOR(KERNEL, D, T)               \
  MTPX_KERNELS_OF_ACTIVATIONS(KERNEL, D, T)          \
  MTPX_KERNELS_OF_PRODUCTS(KERNEL, D, T, T, T)       \
  MTPX_KERNELS_OF_PRODUCT_GRADIENTS(KERNEL, D, T, T) \
  MTPX_KERNELS_OF_SHARED_OPERANDS(KERNEL, D, T, T)   \
  MTPX_KERNELS_OF_COPIES(KERNEL, D, T, T)

#define MTPX_KERNELS_IN_DOUBLE(KERNEL, D) \
  MTPX_KERNELS_FOR(KERNEL, D, double)     \
  MTPX_KERNELS_OF_SUMS(KERNEL, D, double)
#define MTPX_KERNELS_IN_FLOAT(KERNEL, D) \
  MTPX_KERNELS_FOR(KERNEL, D, float)     \
  MTPX_KERNELS_OF_SUMS(KERNEL, D, float)
/// With float beside it: the router's products, the logits of decoding, masters.
#define MTPX_KERNELS_IN_BF16(KERNEL, D)                     \
  MTPX_KERNELS_FOR(KERNEL, D, bf16)                         \
  MTPX_KERNELS_OF_PRODUCTS(KERNEL, D, bf16, bf16, float)    \
  MTPX_KERNELS_OF_PRODUCTS(KERNEL, D, bf16, float, float)   \
  MTPX_KERNELS_OF_PRODUCT_GRADIENTS(KERNEL, D, bf16, float) \
  MTPX_KERNELS_OF_SHARED_OPERANDS(KERNEL, D, bf16, float)   \
  MTPX_KERNELS_OF_COPIES(KERNEL, D, bf16, float)            \
  MTPX_KERNELS_OF_COPIES(KERNEL, D, float, bf16)

/// All templates.
#define MTPX_KERNELS_IN_ALL_TYPES(KERNEL, D) \
  MTPX_KERNELS_IN_DOUBLE(KERNEL, D)          \
  MTPX_KERNELS_IN_FLOAT(KERNEL, D)           \
  MTPX_KERNELS_IN_BF16(KERNEL, D)

// --- What is done with a kernel of the list ----------------------------------------------------------------

/// A device has it, or the compiler says which it lacks and what stands there instead. Nothing is
/// instantiated.
#define MTPX_CHECK_KERNEL(name, signature) \
  static_assert(                           \
      requires(void(*twin) signature) { twin = &name; }, "no kernel " #name);
#define MTPX_CHECK_KERNELS(D)                     \
  MTPX_KERNELS_IN_ALL_TYPES(MTPX_CHECK_KERNEL, D) \
  MTPX_KERNELS_OF_NO_TYPE(MTPX_CHECK_KERNEL, D)

/// This object holds it: compiled here, once.
#define MTPX_INSTANTIATE_KERNEL(name, signature) template void name signature;

/// Another object holds it: what there is to see of a device's kernels.
#define MTPX_DECLARE_KERNEL(name, signature) void name signature;
#define MTPX_DECLARE_KERNEL_OF_1(name, signature) \
  template <typename X>                           \
  void name signature;
#define MTPX_DECLARE_KERNEL_OF_2(name, signature) \
  template <typename X, typename W>               \
  void name signature;
#define MTPX_DECLARE_KERNEL_OF_3(name, signature) \
  template <typename X, typename W, typename Y>   \
  void name signature;
#define MTPX_DECLARE_KERNELS(D)                                        \
  MTPX_KERNELS_OF_ACTIVATIONS(MTPX_DECLARE_KERNEL_OF_1, D, X)          \
  MTPX_KERNELS_OF_SUMS(MTPX_DECLARE_KERNEL_OF_1, D, X)                 \
  MTPX_KERNELS_OF_PRODUCTS(MTPX_DECLARE_KERNEL_OF_3, D, X, W, Y)       \
  MTPX_KERNELS_OF_PRODUCT_GRADIENTS(MTPX_DECLARE_KERNEL_OF_2, D, X, W) \
  MTPX_KERNELS_OF_SHARED_OPERANDS(MTPX_DECLARE_KERNEL_OF_2, D, X, W)   \
  MTPX_KERNELS_OF_COPIES(MTPX_DECLARE_KERNEL_OF_2, D, X, W)            \
  MTPX_KERNELS_OF_NO_TYPE(MTPX_DECLARE_KERNEL, D)
#define MTPX_DECLARE_INT8(D)                                       \
  MTPX_KERNELS_OF_INT8_PRODUCTS(MTPX_DECLARE_KERNEL_OF_2, D, X, W) \
  MTPX_KERNELS_OF_INT8_EXPERTS(MTPX_DECLARE_KERNEL_OF_1, D, X)
#define MTPX_DECLARE_PACKED(D)                                       \
  MTPX_KERNELS_OF_PACKED_PRODUCTS(MTPX_DECLARE_KERNEL_OF_2, D, X, W) \
  MTPX_KERNELS_OF_PACKED_WEIGHTS(MTPX_DECLARE_KERNEL_OF_1, D, X)
#define MTPX_DECLARE_FUSED_DECODING(D) MTPX_KERNELS_OF_FUSED_DECODING(MTPX_DECLARE_KERNEL_OF_1, D, X)
