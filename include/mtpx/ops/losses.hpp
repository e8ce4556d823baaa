#pragma once
// Losses: each one number in the accumulation type. For a language model's, whose logits should never be held
// at once: linear_cross_entropy.hpp.

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/reduce.hpp>

namespace mtpx {

/// The mean squared error.
///
///   loss = mean of (a - b)^2 over all numbers
///
/// a, b: as arithmetic takes them (arithmetic.hpp)   returns [1]
/// Saves for backward: a - b.   Throws ShapeError.
template <typename T, typename D>
Var<acc_t<T>, D> mse(const Var<T, D>& a, const Var<T, D>& b) {
  const auto wide_a = cast<acc_t<T>>(a);
  const auto wide_b = cast<acc_t<T>>(b);
  const auto d = sub(wide_a, wide_b);
  return mean(mul(d, d));
}

/// The divergence of q from p (Kullback & Leibler 1951), from logarithms of probabilities such as
/// log_softmax() gives, averaged over the rows.
///
///   loss = 1 / N sum_r sum_c p_rc (log p_rc - log q_rc),   p = e^log_p
///
/// Distillation: p is the teacher's, a constant. Probabilities of 0, log_p = -inf, give NaN.
/// log_p, log_q: [..., D] of one shape   returns [1], nats
/// Saves for backward: p, log p - log q.   Throws ShapeError.
template <typename T, typename D>
Var<acc_t<T>, D> kl(const Var<T, D>& log_p, const Var<T, D>& log_q) {
  require(log_p.shape() == log_q.shape(), "kl", "log_p and log_q need the same shape",
          {{"log_p", log_p}, {"log_q", log_q}}, tape_of("kl", log_p, log_q));
  const auto wide_p = cast<acc_t<T>>(log_p);
  const auto wide_q = cast<acc_t<T>>(log_q);
  const auto p = exp(wide_p);
  const auto d = sub(wide_p, wide_q);
  return mean(sum_last(mul(p, d)));
}

/// The cross-entropy of logits and labels.
///
///   row_loss_r = log sum_c e^x_rc - x_r,label,   loss = sum_r row_loss_r / divisor
///
/// logits: [..., V], may be strided   labels: one for each row, dense; below 0 = ignored
/// divisor: the number of labels that count, or `fixed_divisor` when positive. When no label counts, loss and
/// gradient are 0.   returns [1], nats
/// Saves for backward: logits, labels, and one number per row (lse).
/// Throws ShapeError; NumericError for a label >= V (CPU; on a GPU the loss is NaN).
template <typename T, typename D>
Var<acc_t<T>, D> cross_entropy(const Var<T, D>& logits, const Tensor<std::int32_t, D>& labels,
                               Index fixed_divisor = 0) {
  using A = acc_t<T>;
  Tape& tape = tape_of("cross_entropy", logits);
  const Index count = logits.rows().count;
  require(labels.size() == count && labels.contiguous(), "cross_entropy",
          "every row of logits needs one label", {{"logits", logits}, {"labels", labels}}, tape);
  const D& on = logits.device();
  Tensor<A, D> lse(on, {count});
  Tensor<A, D> row_loss(on, {count});
  Tensor<A, D> loss(on, {1});
  Tensor<A, D> factor(on, {1});
  cross_entropy_forward(on, logits.rows(), logits.data(), labels.data(), lse.data(), row_loss.data());
  cross_entropy_mean(on, count, row_loss.data(), labels.data(), fixed_divisor, loss.data(), factor.data());
  return tape.record("cross_entropy", loss, [logits, labels, lse, factor](const Tensor<A, D>& dloss) {
    cross_entropy_backward(logits.device(), logits.rows(), logits.data(), labels.data(), lse.data(),
                           factor.data(), dloss.data(), logits.sink());
  });
}

}  // namespace mtpx
