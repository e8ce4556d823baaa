#pragma once

#include <mtpx/model/transformer.hpp>
#include <mtpx/mtp/loss.hpp>

#include <concepts>

namespace mtpx {

/// The loss of head k (0: the main one) of a model, of depths by their labels and, where TaughtLossOptions
/// say so, by the main head.   normed: what head k reads   main: what the main head reads; of such depths
/// alone
template <typename T, typename D, std::derived_from<MtpLossOptions> Options>
CrossEntropy<acc_t<T>, D> head_loss(const Transformer<T, D>& model, const Var<T, D>& normed, Index k,
                                    const Tensor<T, D>& main, const Batch<D>& batch, const Options& options) {
  if constexpr (std::derived_from<Options, TaughtLossOptions>) {
    if (k > 0 && options.distill > 0) {
      const Teacher<T, D> teacher{main, model.head(0).value()};
      return taught_loss(normed, model.head(k), teacher, k, batch, options);
    }
  }
  return depth_loss(normed, model.head(k), k, batch, options.divisor);
}

/// The loss of all depths of a model, see sum_losses().
///
/// out: what the model returned for `batch`. D is the model's depth, even where fewer ran.
/// Options: MtpLossOptions, or TaughtLossOptions for depths that learn from the main head, too.
template <typename T, typename D, std::derived_from<MtpLossOptions> Options = MtpLossOptions>
MtpLoss<T, D> mtp_loss(const Transformer<T, D>& model, const Forward<T, D>& out, const Batch<D>& batch,
                       const Options& options = {}) {
  std::vector<CrossEntropy<acc_t<T>, D>> depths;
  for (std::size_t i = 0; i < out.normed.size(); ++i) {
    const auto k = static_cast<Index>(i);
    depths.push_back(head_loss(model, out.normed[i], k, out.normed[0].value(), batch, options));
  }
  return sum_losses<T, D>(std::move(depths), out.balance, options, model.config.num_nextn_predict_layers);
}

}  // namespace mtpx
