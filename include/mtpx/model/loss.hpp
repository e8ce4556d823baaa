#pragma once

#include <mtpx/model/transformer.hpp>
#include <mtpx/mtp/loss.hpp>

namespace mtpx {

/// The loss of head k (0: the main one) of a model, of depths by their labels and, where options.distill says
/// so, by the main head.   normed: what head k reads   main: what the main head reads; of such depths alone
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> head_loss(const Transformer<T, D>& model, const Var<T, D>& normed, Index k,
                                    const Tensor<T, D>& main, const Batch<D>& batch,
                                    const MtpLossOptions& options) {
  if (k == 0 || options.distill <= 0) return depth_loss(normed, model.head(k), k, batch, options.divisor);
  const Teacher<T, D> teacher{main, model.head(0).value()};
  return taught_loss(normed, model.head(k), teacher, k, batch, options);
}

/// The loss of all depths of a model, see sum_losses().
///
/// out: what the model returned for `batch`. D is the model's depth, even where fewer ran.
template <typename T, typename D>
MtpLoss<T, D> mtp_loss(const Transformer<T, D>& model, const Forward<T, D>& out, const Batch<D>& batch,
                       const MtpLossOptions& options = {}) {
  std::vector<CrossEntropy<acc_t<T>, D>> depths;
  for (std::size_t i = 0; i < out.normed.size(); ++i) {
    const auto k = static_cast<Index>(i);
    depths.push_back(head_loss(model, out.normed[i], k, out.normed[0].value(), batch, options));
  }
  return sum_losses<T, D>(std::move(depths), out.balance, options, model.config.num_nextn_predict_layers);
}

}  // namespace mtpx
