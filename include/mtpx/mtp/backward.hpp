#pragma once

#include <mtpx/mtp/loss.hpp>

namespace mtpx {

namespace detail {

template <typename A, typename D>
Tensor<A, D> number(const D& device, A value) {
  Tensor<A, D> one(device, {1});
  fill_value(device, 1, value, one.data());
  return one;
}

/// Losses as constants, which outlive the tape that they were computed on.
template <typename T, typename D>
MtpLoss<T, D> as_constants(MtpLoss<T, D> loss) {
  using Loss = Var<acc_t<T>, D>;
  loss.total = Loss(loss.total.value());
  for (auto& depth : loss.depths) depth.loss = Loss(depth.loss.value());
  return loss;
}

/// Parallel heads one after the other (Gloeckle et al. 2024, sec. 2 and fig. 2): the trunk runs forward once;
/// each head runs forward and back, adds to the gradient of the trunk's state, and is gone before the next
/// one starts; then the trunk runs back. Activations and logits of one head at a time, for the same
/// operations. Heads go from the last to the first, as the backward of a common tape would: the gradients
/// are the same to the last bit.
template <typename T, typename D>
MtpLoss<T, D> backward_head_by_head(const Transformer<T, D>& model, const Batch<D>& batch,
                                    const MtpLossOptions& options, acc_t<T> share) {
  using A = acc_t<T>;
  const D& device = model.device();
  const Index depth = model.config.num_nextn_predict_layers;
  const Index last = std::min(depth, batch.time() - 1);
  Tape trunk;
  std::vector<BalanceLosses<T, D>> balance(static_cast<std::size_t>(last) + 2);  // trunk's, then the heads'
  const Var<T, D> z = model.shared_state(trunk, batch, balance[0]);
  MtpLoss<T, D> result;
  result.depths.resize(static_cast<std::size_t>(last) + 1);
  for (Index k = last; k >= 0; --k) {
    const auto i = static_cast<std::size_t>(k);
    Tape head;
    const Var<T, D> normed = model.parallel_state(head.adopt(z), k, batch, balance[i + 1]);
    result.depths[i] = depth_loss(model, normed, k, batch, options.divisor);
    const Var<A, D>& loss = result.depths[i].loss;
    if (loss.wants_grad()) head.seed(loss, number(device, static_cast<A>(options.weight(k, depth)) * share));
    for (const auto& b : balance[i + 1]) head.seed(b, number(device, share));
    head.run();
  }
  for (const auto& b : balance[0]) trunk.seed(b, number(device, share));
  trunk.run();

  Tape sum(Mode::inference);
  std::vector<Var<A, D>> terms;
  std::vector<A> weights;
  for (Index k = 0; k <= last; ++k) {
    terms.push_back(sum.constant(result.depths[static_cast<std::size_t>(k)].loss.value()));
    weights.push_back(static_cast<A>(options.weight(k, depth)));
  }
  for (const auto& group : balance) {
    for (const auto& b : group) {
      terms.push_back(sum.constant(b.value()));
      weights.push_back(A(1));
    }
  }
  result.total = weighted_sum(terms, weights);
  return as_constants(std::move(result));
}

}  // namespace detail

/// Forward, loss and backward of one batch: adds `share` times the gradient of mtp_loss() to the parameters'
/// gradients and returns the losses as constants. Where heads are parallel, one head is in memory at a time.
///
/// share: 1 over the number of micro-batches that make a step
template <typename T, typename D>
MtpLoss<T, D> mtp_backward(const Transformer<T, D>& model, const Batch<D>& batch,
                           const MtpLossOptions& options = {}, double share = 1) {
  using A = acc_t<T>;
  if (!model.config.sequential())
    return detail::backward_head_by_head(model, batch, options, static_cast<A>(share));
  Tape tape;
  MtpLoss<T, D> loss = mtp_loss(model, model(tape, batch), batch, options);
  tape.backward(loss.total, detail::number(model.device(), static_cast<A>(share)));
  return detail::as_constants(std::move(loss));
}

}  // namespace mtpx
