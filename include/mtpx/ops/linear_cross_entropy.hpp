#pragma once

#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/losses.hpp>

namespace mtpx {

/// What a loss leaves behind besides its gradient.
template <typename A, typename D>
struct CrossEntropy {
  Var<A, D> loss;                  ///< [1], nats
  Tensor<A, D> row_loss;           ///< [N], nats; 0 where the label is ignored
  Tensor<std::int32_t, D> argmax;  ///< [N], the most likely token, the lowest id on ties
};

/// Output head and cross-entropy in one (DeepSeek-V3 Eq. 23-24). Logits exist in chunks only; [N, V] of them
/// are never held, and backward computes the chunks again.
///
///   logits = x W^T,   row_loss_r = log sum_v exp(logit_rv) - logit_r,label,   loss = sum_r row_loss_r /
///   divisor
///
/// x: [..., D], may be strided   w: [V, D]   labels: [N], one per row of x; below 0 = ignored
/// divisor: the number of labels that count, or `fixed_divisor` when positive (the paper's T). When no label
/// counts, loss and gradients are 0.
/// Saves for backward: x, w, labels, and one number per row (lse).
/// Throws ShapeError; NumericError for a label >= V (CPU).
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> linear_cross_entropy(const Var<T, D>& x, const Weight<T, D>& w,
                                               const Tensor<std::int32_t, D>& labels,
                                               Index fixed_divisor = 0) {
  using A = acc_t<T>;
  Tape& tape = tape_of("linear_cross_entropy", x, w);
  const Index count = x.rows().count;
  require(w.shape().rank() == 2 && w.shape().width() == x.shape().width(), "linear_cross_entropy",
          "w needs one column per column of x", {{"x", x}, {"w", w}}, tape);
  require(labels.size() == count && labels.contiguous(), "linear_cross_entropy",
          "every row of x needs one label", {{"x", x}, {"labels", labels}}, tape);
  Tensor<A, D> lse(x.device(), {count});
  Tensor<A, D> row_loss(x.device(), {count});
  Tensor<std::int32_t, D> argmax(x.device(), {count});
  Tensor<A, D> loss(x.device(), {1});
  Tensor<A, D> factor(x.device(), {1});
  const Index vocab = w.shape()[0];
  linear_cross_entropy_forward(x.device(), x.rows(), x.data(), vocab, w.data(), labels.data(), lse.data(),
                               row_loss.data(), argmax.data());
  cross_entropy_mean(x.device(), count, row_loss.data(), labels.data(), fixed_divisor, loss.data(),
                     factor.data());
  if (!x.wants_grad() && !w.wants_grad()) return {tape.constant(loss), row_loss, argmax};
  auto recorded = tape.record(
      "linear_cross_entropy", loss,
      [x, w = Weight<T, D>(w), labels, vocab, lse, factor](const Tensor<A, D>& dloss) {
        linear_cross_entropy_backward(x.device(), x.rows(), x.data(), vocab, w.data(), labels.data(),
                                      lse.data(), factor.data(), dloss.data(), x.sink(), w.sink());
      });
  return {recorded, row_loss, argmax};
}

/// The same loss out of primitives, with all logits.
template <typename T, typename D>
Var<acc_t<T>, D> linear_cross_entropy_composed(const Var<T, D>& x, const Weight<T, D>& w,
                                               const Tensor<std::int32_t, D>& labels,
                                               Index fixed_divisor = 0) {
  return cross_entropy(linear(x, w), labels, fixed_divisor);
}

}  // namespace mtpx
