#pragma once

#include <mtpx/model/loss.hpp>

namespace mtpx {

namespace detail {

/// Losses as constants, which outlive the tape that they were computed on.
template <typename T, typename D>
MtpLoss<T, D> as_constants(MtpLoss<T, D> loss) {
  using Loss = Var<acc_t<T>, D>;
  loss.total = Loss(loss.total.value());
  for (auto& depth : loss.depths) depth.loss = Loss(depth.loss.value());
  return loss;
}

/// Depths that do not chain, one after the other (Gloeckle et al. 2024, sec. 2 and fig. 2): the trunk runs
/// forward once; each head runs forward and back, adds to the gradient of the trunk's state, and is gone
/// before the next one starts; then the trunk runs back. Activations and logits of one head at a time, for
/// the same operations. Heads go from the last to the first, as the backward of a common tape would: the
/// gradients are the same to the last bit. (But for a tied embedding that depths read, whose uses take
/// turns.) Where depths learn from the main head, that one runs forward first, and stays.
template <typename T, typename D>
MtpLoss<T, D> backward_head_by_head(const Transformer<T, D>& model, const Batch<D>& batch,
                                    const MtpLossOptions& options, acc_t<T> share) {
  using A = acc_t<T>;
  const D& device = model.device();
  const Index depth = model.config.num_nextn_predict_layers;
  const Index last = std::min(depth, batch.time() - 1);
  Tape trunk;
  std::vector<BalanceLosses<T, D>> balance(static_cast<std::size_t>(last) + 2);  // trunk's, then the heads'
  Windows<T, D> way = model.windows(batch);
  const Var<T, D> z = model.shared_state(trunk, way, balance[0]);
  std::vector<CrossEntropy<A, D>> losses(static_cast<std::size_t>(last) + 1);
  Tape main_head;
  Var<T, D> main;
  const bool taught = options.distill > 0;
  if (taught) main = model.parallel_state(main_head.adopt(z), 0, way, balance[1]);
  for (Index k = last; k >= 0; --k) {
    const auto i = static_cast<std::size_t>(k);
    Tape own;
    Tape& head = taught && k == 0 ? main_head : own;
    const Var<T, D> normed =
        taught && k == 0 ? main : model.parallel_state(head.adopt(z), k, way, balance[i + 1]);
    losses[i] = head_loss(model, normed, k, taught ? main.value() : Tensor<T, D>(), batch, options);
    const Var<A, D>& loss = losses[i].loss;
    if (loss.wants_grad())
      head.seed(loss, filled(device, {1}, static_cast<A>(options.weight(k, depth)) * share));
    for (const auto& b : balance[i + 1]) head.seed(b, filled(device, {1}, share));
    head.run();
  }
  for (const auto& b : balance[0]) trunk.seed(b, filled(device, {1}, share));
  trunk.run();

  Tape sum(Mode::inference);
  BalanceLosses<T, D> all;
  for (auto& one : losses) one.loss = sum.constant(one.loss.value());
  for (const auto& group : balance) {
    for (const auto& b : group) all.push_back(sum.constant(b.value()));
  }
  return as_constants(sum_losses<T, D>(std::move(losses), all, options, depth));
}

}  // namespace detail

/// Forward, loss and backward of one batch: adds `share` times the gradient of mtp_loss() to the parameters'
/// gradients and returns the losses as constants. Where depths do not chain, one is in memory at a time.
///
/// share: 1 over the number of micro-batches that make a step
template <typename T, typename D>
MtpLoss<T, D> mtp_backward(const Transformer<T, D>& model, const Batch<D>& batch,
                           const MtpLossOptions& options = {}, double share = 1) {
  using A = acc_t<T>;
  if (!model.design.chains)
    return detail::backward_head_by_head(model, batch, options, static_cast<A>(share));
  Tape tape;
  MtpLoss<T, D> loss = mtp_loss(model, model(tape, batch), batch, options);
  tape.backward(loss.total, filled(model.device(), {1}, static_cast<A>(share)));
  return detail::as_constants(std::move(loss));
}

}  // namespace mtpx
