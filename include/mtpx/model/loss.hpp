#pragma once

#include <mtpx/model/transformer.hpp>
#include <mtpx/mtp/loss.hpp>

namespace mtpx {

/// The loss of all depths of a model, see sum_losses().
///
/// out: what the model returned for `batch`. D is the model's depth, even where fewer ran.
template <typename T, typename D>
MtpLoss<T, D> mtp_loss(const Transformer<T, D>& model, const Forward<T, D>& out, const Batch<D>& batch,
                       const MtpLossOptions& options = {}) {
  std::vector<CrossEntropy<acc_t<T>, D>> depths;
  for (std::size_t i = 0; i < out.normed.size(); ++i) {
    const auto k = static_cast<Index>(i);
    depths.push_back(depth_loss(out.normed[i], model.head(k), k, batch, options.divisor));
  }
  return sum_losses<T, D>(std::move(depths), out.balance, options, model.config.num_nextn_predict_layers);
}

}  // namespace mtpx
