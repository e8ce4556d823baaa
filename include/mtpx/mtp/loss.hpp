#pragma once

#include <mtpx/mtp/design.hpp>
#include <mtpx/nn/windows.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/linear_distillation.hpp>

#include <cmath>
#include <vector>

namespace mtpx {

/// By what a depth's summed cross-entropy is divided: the rows that have a label (default, as Megatron does),
/// or all B T positions (DeepSeek-V3 Eq. 24). For full windows the two differ by exactly (T - k) / T.
enum class LossDivisor { valid_rows, all_positions };

/// How the losses of depths are weighted, see sum_losses(). Depths learn from labels alone; see
/// TaughtLossOptions.
struct MtpLossOptions {
  double lambda = 0.3;  ///< weight of the depths together
  /// w_k per depth, from depth 1; missing ones are those of depth_decay. See exponential_weights().
  std::vector<double> depth_weights{};
  LossDivisor divisor = LossDivisor::valid_rows;  ///< by what a depth's sum is divided
  LossReduction reduction = LossReduction::mean;  ///< how depths are put together
  double depth_decay = 1;  ///< w_k = D decay^(k-1) / sum_j decay^(j-1), where depth_weights has none

  /// What the loss of depth k (from 1; 0 is the main head's) counts in the total. depth: D
  double weight(Index k, Index depth) const {
    if (k == 0) return 1;
    const auto place = static_cast<std::size_t>(k - 1);
    const double w = place < depth_weights.size() ? depth_weights[place] : decayed(k, depth);
    return (reduction == LossReduction::mean ? lambda / static_cast<double>(depth) : lambda) * w;
  }

 private:
  double decayed(Index k, Index depth) const {
    double sum = 0;
    for (Index j = 1; j <= depth; ++j) sum += std::pow(depth_decay, static_cast<double>(j - k));
    return static_cast<double>(depth) / sum;
  }
};

/// The same of depths that may learn from the main head, too. A type of its own: a loop that names only the
/// other does not compile distillation.
struct TaughtLossOptions : MtpLossOptions {
  TaughtLossOptions(const MtpLossOptions& weights = {}, double share = 0,
                    Divergence far = Divergence::total_variation)
      : MtpLossOptions(weights), distill(share), divergence(far) {}

  /// Share of a depth's loss that is how far it is from the main head, see taught_loss(); labels have the
  /// rest.
  double distill;
  Divergence divergence;  ///< how far that is
};

/// The weights that a design was published with: 0.3 times the mean, or the plain sum; depths alike, but for
/// one module of all, which the nearer ones train more.
inline MtpLossOptions published_weights(const MtpDesign& design) {
  MtpLossOptions options;
  options.lambda = design.lambda;
  options.reduction = design.reduction;
  options.depth_decay = design.decay;
  return options;
}

/// w_k = decay^(k-1): nearer depths count more.
inline std::vector<double> exponential_weights(Index depth, double decay) {
  std::vector<double> weights;
  for (Index k = 0; k < depth; ++k) weights.push_back(std::pow(decay, static_cast<double>(k)));
  return weights;
}

/// The loss of a step and what it is made of.
template <typename T, typename D>
struct MtpLoss {
  Var<acc_t<T>, D> total;                         ///< [1], what to run backward from
  std::vector<CrossEntropy<acc_t<T>, D>> depths;  ///< [0] the main head, [k] depth k; loss in nats a token
};

/// Cross-entropy of depth k (0: the main head) of a batch.   normed: [B, T - k, hidden]   head: [vocab,
/// hidden]
///
///   L_k = -1 / rows sum_i log P^k_i[t_{i+k+1}],   i <= T - k    (DeepSeek-V3 Eq. 23-24)
///
/// A target that belongs to another document than t_i, or that the batch does not count, adds nothing. A
/// depth without a row that counts adds zero loss and zero gradient.
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> depth_loss(const Var<T, D>& normed, const Weight<T, D>& head, Index k,
                                     const Batch<D>& batch, LossDivisor divisor) {
  return linear_cross_entropy<T, D>(normed, head,
                                    labels_ahead(batch.tokens, batch.positions, batch.counts, k),
                                    divisor == LossDivisor::all_positions ? batch.batch() * batch.time() : 0);
}

/// The loss of depth k (from 1) against the main head, which is a constant here: nothing of the main model
/// hears of it, but for what the two share.
///
///   L_k = 1 / rows sum_i (share divergence(P_{i+k}, P^k_i) + (1 - share) (-log P^k_i[t_{i+k+1}]))
///
/// Depth k predicts t_{i+k+1} from position i; the main head predicts it from position i + k, knowing the
/// tokens up to t_{i+k}, as a depth that reads tokens does. So the teacher of the depth's row i is the main
/// head's row i + k. Rows count as in depth_loss().
///
/// normed: [B, T - k, hidden]   main: the main head's x [B, T, hidden], dense, and its w
/// options.distill: the share
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> taught_loss(const Var<T, D>& normed, const Weight<T, D>& head,
                                      const Teacher<T, D>& main, Index k, const Batch<D>& batch,
                                      const TaughtLossOptions& options) {
  const Shape s = main.x.shape();
  const Tensor<T, D> states = main.x.reshape({s[0], s[1] * s[2]});
  const Tensor<T, D> behind = contiguous(states.narrow_last(k * s[2], (s[1] - k) * s[2]));
  const Teacher<T, D> teacher{behind.reshape({s[0], s[1] - k, s[2]}), main.w};
  const Tensor<std::int32_t, D> labels = labels_ahead(batch.tokens, batch.positions, batch.counts, k);
  return linear_distillation<T, D>(
      normed, head, teacher, labels, options.divergence, options.distill,
      options.divisor == LossDivisor::all_positions ? batch.batch() * batch.time() : 0);
}

/// The losses of the main head and of depths 1, 2, .. put together (DeepSeek-V3 Eq. 25; Gloeckle et al. 2024
/// Eq. 2 with LossReduction::sum):
///
///   total = L_main + lambda / D sum_k w_k L_k + sum of the balance losses
///
/// depth: D, even where fewer are given
template <typename T, typename D>
MtpLoss<T, D> sum_losses(std::vector<CrossEntropy<acc_t<T>, D>> depths, const BalanceLosses<T, D>& balance,
                         const MtpLossOptions& options, Index depth) {
  using A = acc_t<T>;
  std::vector<Var<A, D>> terms;
  std::vector<A> weights;
  for (const auto& one : depths) {
    weights.push_back(static_cast<A>(options.weight(static_cast<Index>(terms.size()), depth)));
    terms.push_back(one.loss);
  }
  for (const auto& one : balance) {
    terms.push_back(one);
    weights.push_back(A(1));
  }
  return {weighted_sum(terms, weights), std::move(depths)};
}

}  // namespace mtpx
