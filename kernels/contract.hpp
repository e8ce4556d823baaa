#pragma once
// Every kernel that a device must bring, as a concept: a missing or misspelt twin is a compile error here,
// not a link error in somebody's model. What each computes stands beside its definition in cpu/.
//
// All pointers are device pointers. A kernel reads nothing back to the host and returns nothing.

#include "sampling.hpp"
#include "shapes.hpp"
#include "verify.hpp"

#include <mtpx/core/bf16.hpp>

#include <span>

namespace mtpx {

/// The kernels for activations of type T on device D.
template <typename T, typename D>
concept HasKernels = requires(const D& d, Rows rows, Index n, T* t, acc_t<T>* a, std::int32_t* i, double* f64,
                              Sink<T> st, Sink<acc_t<T>> sa, acc_t<T> x, AttentionShape attention,
                              std::uint64_t seed, double deviation, Routing routing, ExpertsShape experts,
                              LatentShape latent, AdamWStep step, const SamplingOptions& sampling, Kept kept,
                              VerifyRule rule, DraftRounds rounds, std::span<const AdamWTensor<T>> parameters,
                              std::span<const std::span<const acc_t<T>>> gradients) {
  // embedding
  embedding_forward(d, rows, i, rows, t, t);
  embedding_backward(d, rows, i, n, n, t, sa);
  // linear; the router's weights are of the accumulation type, and so are decoding's logits
  linear_forward(d, rows, t, n, t, t);
  linear_forward(d, rows, t, n, t, a);
  linear_backward_input(d, rows, n, t, t, st);
  linear_backward_weight(d, rows, t, n, t, sa);
  linear_forward(d, rows, t, n, a, a);
  linear_backward_input(d, rows, n, a, a, st);
  linear_backward_weight(d, rows, t, n, a, sa);
  // rms_norm
  rms_norm_forward(d, rows, t, a, x, t, a);
  rms_norm_backward(d, rows, t, a, a, t, st, sa);
  add_rms_norm_forward(d, n, n, t, t, a, x, t, t, a);
  add_rms_norm_backward(d, n, n, t, a, a, t, t, st, st, sa);
  // rope
  rope_apply(d, rows, n, n, t, i, a, a, 1, st);
  // attention
  attention_forward(d, attention, t, t, t, i, x, t, a);
  attention_backward(d, attention, t, t, t, i, x, t, a, t, st, st, st);
  // swiglu
  swiglu_forward(d, n, t, t, t);
  swiglu_backward(d, n, t, t, t, st, st);
  // router
  sigmoid_forward(d, n, a, a);
  sigmoid_backward(d, n, a, a, sa);
  route_forward(d, n, routing, a, a, i, a);
  route_backward(d, n, routing, a, i, a, a, sa);
  balance_forward(d, n, n, n, n, x, a, a, a);
  balance_backward(d, n, n, n, x, a, a, a, sa);
  update_bias(d, n, x, f64, a, a);
  // experts
  plan_experts(d, n, n, i, i, i, i, a);
  experts_forward(d, experts, i, i, i, t, n, a, t, t, t, t, t, t);
  experts_backward(d, experts, i, i, i, t, n, a, t, t, t, t, t, t, st, sa, sa, sa, sa);
  // linear_cross_entropy
  linear_cross_entropy_forward(d, rows, t, n, t, i, a, a, i);
  cross_entropy_mean(d, n, a, i, n, a, a);
  linear_cross_entropy_backward(d, rows, t, n, t, i, a, a, a, st, sa);
  // elementwise
  copy_rows(d, n, n, t, n, t, n, true);
  copy_rows(d, n, n, t, n, a, n, true);
  add_forward(d, n, t, t, t);
  scale_into(d, n, x, a, sa);
  fill_value(d, n, x, a);
  draw_normals(d, n, seed, seed, deviation, t);
  draw_normals(d, n, seed, seed, deviation, a);
  fill_positions(d, n, n, n, i);
  window_positions(d, rows, i, i);
  shift_labels(d, rows, n, i, i, i);
  // optimiser
  sums_of_squares(d, gradients, f64);
  clip_scale(d, n, f64, x, f64, f64, f64);
  adamw_step(d, parameters, step, f64, f64);
  // decoding
  absorb_query(d, attention, n, n, t, t, a);
  append_latent(d, latent, i, i, t, t, t);
  latent_attention(d, latent, i, i, a, t, x, a);
  expand_value(d, attention, n, n, a, t, t);
  argmax_rows(d, rows, a, i);
  draw_rows(d, rows, a, sampling, f64, i, kept);
  verify_rounds(d, rule, rounds, i);
};

}  // namespace mtpx
