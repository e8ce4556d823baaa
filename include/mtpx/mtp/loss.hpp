#pragma once

#include <mtpx/model/transformer.hpp>
#include <mtpx/ops/add.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>

namespace mtpx {

/// By what a depth's summed cross-entropy is divided: the rows that have a label (default, as Megatron does),
/// or all B T positions (DeepSeek-V3 Eq. 24). For full windows the two differ by exactly (T - k) / T.
enum class LossDivisor { valid_rows, all_positions };

struct MtpLossOptions {
  double lambda = 0.3;  ///< weight of the depths together (Eq. 25)
  /// w_k per depth, from depth 1; missing ones are 1. See exponential_weights().
  std::vector<double> depth_weights{};
  LossDivisor divisor = LossDivisor::valid_rows;
};

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

/// Cross-entropy of all depths (DeepSeek-V3 Eq. 24-25):
///
///   total = L_main + lambda / D sum_k w_k L_k + sum of the balance losses,
///   L_k = -1 / rows sum_i log P^k_i[t_{i+k+1}],   i <= T - k
///
/// A target that belongs to another document than t_i does not count. A depth without a row that counts adds
/// zero loss and zero gradient.
/// out: what the model returned for `batch`. D is the number of the model's modules.
template <typename T, typename D>
MtpLoss<T, D> mtp_loss(const Transformer<T, D>& model, const Forward<T, D>& out, const Batch<D>& batch,
                       const MtpLossOptions& options = {}) {
  using A = acc_t<T>;
  MtpLoss<T, D> result;
  std::vector<Var<A, D>> terms;
  std::vector<A> weights;
  const auto depth = static_cast<double>(model.mtp.size());
  for (std::size_t k = 0; k < out.normed.size(); ++k) {
    const Index rows = batch.time() - static_cast<Index>(k);
    Tensor<std::int32_t, D> labels(batch.tokens.device(), {batch.batch(), rows});
    shift_labels(labels.device(), batch.tokens.rows(), static_cast<Index>(k), batch.tokens.data(),
                 batch.documents.data(), labels.data());
    const Index divisor = options.divisor == LossDivisor::all_positions ? batch.batch() * batch.time() : 0;
    result.depths.push_back(linear_cross_entropy<T, D>(out.normed[k], model.lm_head.weight, labels, divisor));
    terms.push_back(result.depths.back().loss);
    const double w = k > 0 && k <= options.depth_weights.size() ? options.depth_weights[k - 1] : 1.0;
    weights.push_back(static_cast<A>(k == 0 ? 1.0 : options.lambda / depth * w));
  }
  for (const auto& balance : out.balance) {
    terms.push_back(balance);
    weights.push_back(A(1));
  }
  result.total = weighted_sum(terms, weights);
  return result;
}

}  // namespace mtpx
