#pragma once

#include <mtpx/model/stage.hpp>

#include <concepts>

namespace mtpx {

/// Forward, loss and backward of one batch: adds `share` times the gradient of mtp_loss() to the parameters'
/// gradients and returns the losses as constants. Where depths do not chain, one is in memory at a time; see
/// StagePass.
///
/// Options: as mtp_loss() takes them   share: 1 over the number of micro-batches that make a step
template <typename T, typename D, std::derived_from<MtpLossOptions> Options = MtpLossOptions>
MtpLoss<T, D> mtp_backward(const Transformer<T, D>& model, const Batch<D>& batch, const Options& options = {},
                           double share = 1) {
  StagePass<T, D> pass(model, batch, options, static_cast<acc_t<T>>(share));
  pass.forward({});
  pass.backward({});
  return pass.loss();
}

}  // namespace mtpx
