#pragma once

#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/ops/softmax.hpp>

namespace mtpx {

/// What a student learns from: a teacher's states and its output head, constants both. Its hidden width may
/// be another than the student's.
template <typename T, typename D>
struct Teacher {
  Tensor<T, D> x;  ///< [..., D'], a row for each of the student's, may be strided
  Tensor<T, D> w;  ///< [V, D']
};

namespace detail {
/// Throws ShapeError unless the two heads are of the same rows and tokens.
template <typename T, typename D>
void require_taught(const char* op, const Var<T, D>& x, const Weight<T, D>& w, const Teacher<T, D>& teacher,
                    const Tensor<std::int32_t, D>& labels, const Tape& tape) {
  const Index count = x.rows().count;
  require(w.shape().rank() == 2 && w.shape().width() == x.shape().width(), op,
          "w needs one column per column of x", {{"x", x}, {"w", w}}, tape);
  require(labels.size() == count && labels.contiguous(), op, "every row of x needs one label",
          {{"x", x}, {"labels", labels}}, tape);
  require(teacher.x.rows().count == count, op, "the teacher needs one row per row of x",
          {{"x", x}, {"teacher.x", teacher.x}}, tape);
  require(teacher.w.shape().rank() == 2 && teacher.w.contiguous() &&
              teacher.w.shape() == Shape{w.shape()[0], teacher.x.shape().width()},
          op, "the teacher's w needs one row per row of w, and one column per column of its x",
          {{"w", w}, {"teacher.x", teacher.x}, {"teacher.w", teacher.w}}, tape);
}
}  // namespace detail

/// Distillation of one output head into another (Hinton, Vinyals & Dean 2015, arXiv 1503.02531, eq. 2 at
/// temperature 1; the total variation is D_LK of Leviathan, Kalman & Matias 2023, arXiv 2211.17192,
/// definition 3.2). Logits exist in chunks only; [N, V] of them are never held, of neither head, and backward
/// computes the chunks again.
///
///   q_r = softmax(x_r W^T),   p_r = softmax(x'_r W'^T), the teacher's
///   row_loss_r = share divergence(p_r, q_r) + (1 - share) (-log q_r,label)
///   loss = sum_r row_loss_r / divisor
///
///   cross_entropy     -sum_v p_v log q_v              dz = q - p          (z: the student's logits)
///   kl                 sum_v p_v (log p_v - log q_v)  dz = q - p
///   total_variation    sum_v |p_v - q_v| / 2          dz_v = q_v (s_v - sum_u q_u s_u) / 2
///                                                     s_v = sign(q_v - p_v)
///
/// Where q_v = p_v the total variation has a kink: s_v is 0 there, between its two slopes. The teacher hears
/// nothing of it. share: of the divergence, 0 .. 1; the labels' own cross-entropy has the rest, in the same
/// pass.
///
/// x: [..., D], may be strided   w: [V, D]   labels: [N], one per row of x; below 0 = the row is ignored
/// teacher: see there; its w may be the memory of w
/// divisor: the number of labels that count, or `fixed_divisor` when positive. When no label counts, loss and
/// gradients are 0.
/// Saves for backward: x, w, the teacher's, labels, and three numbers per row.
/// Throws ShapeError; NumericError for a label >= V (CPU).
template <typename T, typename D>
CrossEntropy<acc_t<T>, D> linear_distillation(const Var<T, D>& x, const Weight<T, D>& w,
                                              const Teacher<T, D>& teacher,
                                              const Tensor<std::int32_t, D>& labels, Divergence divergence,
                                              double share = 1, Index fixed_divisor = 0) {
  using A = acc_t<T>;
  Tape& tape = tape_of("linear_distillation", x, w);
  detail::require_taught("linear_distillation", x, w, teacher, labels, tape);
  const Index count = x.rows().count, vocab = w.shape()[0];
  Tensor<A, D> saved(x.device(), {3, count});
  Tensor<A, D> row_loss(x.device(), {count});
  Tensor<std::int32_t, D> argmax(x.device(), {count});
  Tensor<A, D> loss(x.device(), {1});
  Tensor<A, D> factor(x.device(), {1});
  const auto teaching = [divergence, share, teacher] {
    return Teaching<T>{divergence, static_cast<A>(share), teacher.x.rows(), teacher.x.data(),
                       teacher.w.data()};
  };
  linear_distillation_forward(x.device(), teaching(), x.rows(), x.data(), vocab, w.data(), labels.data(),
                              saved.data(), row_loss.data(), argmax.data());
  cross_entropy_mean(x.device(), count, row_loss.data(), labels.data(), fixed_divisor, loss.data(),
                     factor.data());
  if (!x.wants_grad() && !w.wants_grad()) return {tape.constant(loss), row_loss, argmax};
  auto recorded = tape.record(
      "linear_distillation", loss,
      [x, w = Weight<T, D>(w), teaching, labels, vocab, saved, factor](const Tensor<A, D>& dloss) {
        const Sink<T> dx = x.sink();
        linear_distillation_backward(x.device(), teaching(), x.rows(), x.data(), vocab, w.data(),
                                     labels.data(), saved.data(), factor.data(), dloss.data(), dx, w.sink());
      });
  return {recorded, row_loss, argmax};
}

/// The same loss out of primitives, with all logits of both heads.   labels: read on the host
template <typename T, typename D>
Var<acc_t<T>, D> linear_distillation_composed(const Var<T, D>& x, const Weight<T, D>& w,
                                              const Teacher<T, D>& teacher,
                                              const Tensor<std::int32_t, D>& labels, Divergence divergence,
                                              double share = 1, Index fixed_divisor = 0) {
  using A = acc_t<T>;
  Tape& tape = tape_of("linear_distillation_composed", x, w);
  detail::require_taught("linear_distillation_composed", x, w, teacher, labels, tape);
  const Var<T, D> logits = linear(x, w);
  const Var<T, D> of_teacher = linear(tape.constant(teacher.x), Weight<T, D>(teacher.w));
  const Var<A, D> wide = cast<A>(logits), wide_teacher = cast<A>(of_teacher);
  const Var<A, D> log_q = log_softmax(wide), log_p = log_softmax(wide_teacher);
  const Var<A, D> p = exp(log_p);
  Var<A, D> each;  // [..., V], whose sum over a row is its divergence
  if (divergence == Divergence::total_variation) {
    const Var<A, D> q = exp(log_q);
    const Var<A, D> above = sub(q, p), below = sub(p, q);
    const Var<A, D> more = relu(above), less = relu(below);
    each = scale(add(more, less), 0.5);
  } else {
    each = mul(p, divergence == Divergence::kl ? sub(log_p, log_q) : neg(log_q));
  }
  std::vector<A> counts;
  Index valid = 0;
  for (const std::int32_t label : labels.to_host()) {
    counts.push_back(label < 0 ? A(0) : A(1));
    valid += label < 0 ? 0 : 1;
  }
  const Tensor<A, D> column = Tensor<A, D>::from(x.device(), x.shape().with_width(1), counts);
  const Var<A, D> rows = mul(sum_last(each), tape.constant(column));
  const Index divisor = fixed_divisor > 0 ? fixed_divisor : std::max<Index>(1, valid);
  const Var<A, D> far = scale(sum(rows), 1 / static_cast<double>(divisor));
  const Var<A, D> hard = cross_entropy(logits, labels, fixed_divisor);
  return weighted_sum<A, D>({far, hard}, {static_cast<A>(share), static_cast<A>(1 - share)});
}

}  // namespace mtpx
