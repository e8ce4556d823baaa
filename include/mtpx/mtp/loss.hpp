#pragma once

#include <mtpx/model/transformer.hpp>
#include <mtpx/ops/add.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>

namespace mtpx {

/// By what a depth's summed cross-entropy is divided: the rows that have a label (default, as Megatron does),
/// or all B T positions (DeepSeek-V3 Eq. 24). For full windows the two differ by exactly (T - k) / T.
enum class LossDivisor { valid_rows, all_positions };

/// How the depths' losses are put together: lambda times their mean (DeepSeek-V3 Eq. 25), or lambda times
/// their sum (with lambda = 1 that of Gloeckle et al. 2024, sec. 2).
enum class LossReduction { mean, sum };

struct MtpLossOptions {
  double lambda = 0.3;  ///< weight of the depths together
  /// w_k per depth, from depth 1; missing ones are 1. See exponential_weights().
  std::vector<double> depth_weights{};
  LossDivisor divisor = LossDivisor::valid_rows;
  LossReduction reduction = LossReduction::mean;

  /// What the loss of depth k (from 1; 0 is the main head's) counts in the total. depth: D
  double weight(Index k, Index depth) const {
    if (k == 0) return 1;
    const auto place = static_cast<std::size_t>(k - 1);
    const double w = place < depth_weights.size() ? depth_weights[place] : 1.0;
    return (reduction == LossReduction::mean ? lambda / static_cast<double>(depth) : lambda) * w;
  }
};

/// The weights that a design was published with: 0.3 times the mean, or the plain sum.
inline MtpLossOptions published_weights(const Config& config) {
  MtpLossOptions options;
  if (!config.sequential()) {
    options.lambda = 1;
    options.reduction = LossReduction::sum;
  }
  return options;
}

/// w_k = decay^(k-1): nearer depths count more.
inline std::vector<double> exponential_weights(Index depth, double decay) {
  std::vector<double> weights;
  for (Index k = 0; k < depth; ++k) weights.push_back(std::pow(decay, static_cast<double>(k)));
  return weights;
}

template <typename T, typename D>
struct MtpLoss {
  Var<acc_t<T>, D> total;                         ///< [1], what to run backward from
  std::vector<CrossEntropy<acc_t<T>, D>> depths;  ///< [0] the main head, [k] depth k; loss in nats a token
};

/// Cross-entropy of depth k (0: the main head) of a batch.   normed: [B, T - k, hidden]
///
///   L_k = -1 / rows sum_i log P^k_i[t_{i+k+1}],   i <= T - k    (DeepSeek-V3 Eq. 24)
///
/// A target that belongs to another document than t_i does not count. A depth without a row that counts adds
/// zero loss and zero gradient.
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> depth_loss(const Transformer<T, D>& model, const Var<T, D>& normed, Index k,
                                     const Batch<D>& batch, LossDivisor divisor) {
  Tensor<std::int32_t, D> labels(batch.tokens.device(), {batch.batch(), batch.time() - k});
  shift_labels(labels.device(), batch.tokens.rows(), k, batch.tokens.data(), batch.positions.data(),
               labels.data());
  const Weight<T, D> head = model.lm_head.weight;
  return linear_cross_entropy<T, D>(normed, k > 0 ? model.for_depths(model.lm_head.weight) : head, labels,
                                    divisor == LossDivisor::all_positions ? batch.batch() * batch.time() : 0);
}

/// The loss of all depths (DeepSeek-V3 Eq. 25; Gloeckle et al. 2024 Eq. 2 with LossReduction::sum):
///
///   total = L_main + lambda / D sum_k w_k L_k + sum of the balance losses
///
/// out: what the model returned for `batch`. D is the model's depth, even where fewer ran.
template <typename T, typename D>
MtpLoss<T, D> mtp_loss(const Transformer<T, D>& model, const Forward<T, D>& out, const Batch<D>& batch,
                       const MtpLossOptions& options = {}) {
  using A = acc_t<T>;
  MtpLoss<T, D> result;
  std::vector<Var<A, D>> terms;
  std::vector<A> weights;
  for (std::size_t i = 0; i < out.normed.size(); ++i) {
    const auto k = static_cast<Index>(i);
    result.depths.push_back(depth_loss(model, out.normed[i], k, batch, options.divisor));
    terms.push_back(result.depths.back().loss);
    weights.push_back(static_cast<A>(options.weight(k, model.config.num_nextn_predict_layers)));
  }
  for (const auto& balance : out.balance) {
    terms.push_back(balance);
    weights.push_back(A(1));
  }
  result.total = weighted_sum(terms, weights);
  return result;
}

}  // namespace mtpx
