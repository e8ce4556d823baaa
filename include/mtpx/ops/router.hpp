#pragma once

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/reduce.hpp>

namespace mtpx {

/// Which experts a token goes to, and with what weight.
template <typename A, typename D>
struct Route {
  Var<A, D> weights;            ///< [..., K]
  Tensor<std::int32_t, D> ids;  ///< [..., K], by descending score + bias
};

/// Chooses experts (DeepSeek-V3 Eq. 13-16 and "auxiliary-loss-free load balancing").
///
///   s'_i = s_i + b_i                                    selection only
///   a group's worth = sum of its two largest s';  the topk_group best groups stay, the others are -inf
///   scores that are a softmax: s' = s, a group's worth = its largest s  (DeepSeek-V2 sec. 2.2.2)
///   chosen = the K largest s' left;   g_i = scaling_factor * s_i / (sum of the chosen s + 1e-20)
///
/// Ties go to the lowest index. Without norm_topk_prob the division is left out.
/// scores: [..., E]   bias: [E], or undefined   returns {weights, ids}, each [..., K]
/// Saves for backward: scores, ids, weights. No gradient reaches the bias or the choice.   Throws ShapeError.
template <typename A, typename D>
Route<A, D> route(const Var<A, D>& scores, const Tensor<A, D>& bias, const Routing& routing) {
  Tape& tape = tape_of("route", scores);
  const Routing r = routing;
  require(
      scores.shape().width() == r.n_experts && (!bias.defined() || bias.shape() == Shape{r.n_experts}) &&
          scores.value().contiguous(),
      "route", [&] { return cat("scores and bias need one dense column per expert, ", r.n_experts); },
      {{"scores", scores}, {"bias", bias}}, tape);
  require(
      r.n_group >= 1 && r.n_experts % r.n_group == 0 && r.topk_group >= 1 && r.topk_group <= r.n_group &&
          r.top_k >= 1 && r.top_k <= r.n_experts / r.n_group * r.topk_group,
      "route",
      [&] {
        return cat(r.top_k, " experts cannot be chosen from ", r.topk_group, " of ", r.n_group, " groups of ",
                   r.n_experts, " experts");
      },
      {{"scores", scores}}, tape);
  const Index tokens = scores.rows().count;
  Tensor<std::int32_t, D> ids(scores.device(), scores.shape().with_width(r.top_k));
  Tensor<A, D> weights(scores.device(), ids.shape());
  route_forward(scores.device(), tokens, r, scores.data(), bias.data_or_null(), ids.data(), weights.data());
  auto y = tape.record("route", weights, [scores, ids, weights, tokens, r](const Tensor<A, D>& dweights) {
    route_backward(scores.device(), tokens, r, scores.data(), ids.data(), weights.data(), dweights.data(),
                   scores.sink());
  });
  return {y, ids};
}

/// The weights of route() out of primitives, for the experts that it chose.   scores: [..., E]   ids: [...,
/// K]
template <typename A, typename D>
Var<A, D> route_composed(const Var<A, D>& scores, const Tensor<std::int32_t, D>& ids, const Routing& r) {
  auto places = ids.to_host();
  for (std::size_t i = 0; i < places.size(); ++i)
    places[i] += static_cast<std::int32_t>(static_cast<Index>(i) / r.top_k * r.n_experts);
  const auto at = Tensor<std::int32_t, D>::from(ids.device(), ids.shape(), places);
  const auto s = reshape(gather(reshape(scores, {scores.shape().size(), 1}), at), ids.shape());
  return r.norm_topk_prob ? s / (sum_last(s) + 1e-20) * r.scaling_factor : s * r.scaling_factor;
}

/// Steers the choice of experts towards an even load (DeepSeek-V3 sec. 2.1.2), and forgets the load.
///
///   b_i += speed * sign(mean load - load_i),   load_i = 0
///
/// load, bias: [E]   scale: null, or a number on the device: where it is NaN, no bias moves
/// Throws ShapeError.
template <typename A, typename D>
void update_bias(const Tensor<A, D>& load, const Tensor<A, D>& bias, A speed, const double* scale) {
  require(load.shape() == bias.shape() && load.contiguous() && bias.contiguous(), "update_bias",
          "load and bias need one number per expert", {{"load", load}, {"bias", bias}});
  update_bias(load.device(), load.size(), speed, scale, load.data(), bias.data());
}

/// The complementary sequence-wise balance loss (DeepSeek-V3 Eq. 17-20), averaged over the sequences.
///
///   f_i = N / (K T) #{t : s_it among the K largest of s_t},   P_i = mean_t s_it / sum_j s_jt
///   loss = alpha sum_i f_i P_i      (perfect balance: alpha)
///
/// f counts unbiased, ungrouped scores and has no gradient.
/// scores: [B, T, E] dense   returns [1]
/// Saves for backward: scores, f.   Throws ShapeError.
template <typename A, typename D>
Var<A, D> balance_loss(const Var<A, D>& scores, Index top_k, A alpha) {
  Tape& tape = tape_of("balance_loss", scores);
  const Shape s = scores.shape();
  require(
      s.rank() == 3 && scores.value().contiguous() && top_k >= 1 && top_k <= s.width(), "balance_loss",
      [&] { return cat("scores are dense [B, T, E] with at least ", top_k, " experts"); },
      {{"scores", scores}}, tape);
  Tensor<A, D> loss(scores.device(), {1});
  Tensor<A, D> f(scores.device(), {s[0], s[2]});
  balance_forward(scores.device(), s[0], s[1], s[2], top_k, alpha, scores.data(), loss.data(), f.data());
  return tape.record("balance_loss", loss, [scores, f, alpha](const Tensor<A, D>& dloss) {
    const Shape& shape = scores.shape();
    balance_backward(scores.device(), shape[0], shape[1], shape[2], alpha, scores.data(), f.data(),
                     dloss.data(), scores.sink());
  });
}

/// The same out of primitives, with f given.   f: [B, E]
template <typename A, typename D>
Var<A, D> balance_loss_composed(const Var<A, D>& scores, const Tensor<A, D>& f, A alpha) {
  const auto shares = scores / sum_last(scores);
  const auto p = reshape(mean_last(transpose(shares)), f.shape());
  return alpha * mean(sum_last(p * Var<A, D>(f)));
}

}  // namespace mtpx
