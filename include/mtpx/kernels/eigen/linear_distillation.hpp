#pragma once

#include "../distillation.hpp"
#include "linear_cross_entropy.hpp"

namespace mtpx {

namespace eigen {
/// log softmax(x W^T), row by row, and what was taken off: log sum_v e^z_v.
template <typename T>
Array<T> log_distributions(Rows rows, const T* x, Index vocab, const T* w,
                           Eigen::Array<T, Eigen::Dynamic, 1>& lse) {
  const Matrix<T> X = as_matrix(x, rows), W = matrix(w, vocab, rows.width);
  const Array<T> Z = (X * W.transpose()).array();
  Array<T> P = Z;
  lse = softmax(P);
  return Z.colwise() - lse;
}
}  // namespace eigen

/// q = softmax(x W^T), p the teacher's:
///   row_loss = share * divergence(p, q) + (1 - share) * -log q_label, 0 where the label is below 0
///   saved: [3, N]: log sum_v e^z_v of both, sum_v q_v sign(q_v - p_v)
template <typename T>
void linear_distillation_forward(const Reference& on, const Teaching<T>& teaching, Rows rows, const T* x,
                                 Index vocab, const T* w, const std::int32_t* labels, T* saved, T* row_loss,
                                 std::int32_t* argmax) {
  const Index n = rows.count;
  linear_cross_entropy_forward(on, rows, x, vocab, w, labels, saved, row_loss, argmax);
  Eigen::Array<T, Eigen::Dynamic, 1> lse, teacher_lse;
  const eigen::Array<T> log_q = eigen::log_distributions(rows, x, vocab, w, lse);
  const eigen::Array<T> log_p =
      eigen::log_distributions(teaching.rows, teaching.x, vocab, teaching.w, teacher_lse);
  const eigen::Array<T> Q = eigen::exponential(log_q), P = eigen::exponential(log_p);
  for (Index r = 0; r < n; ++r) {
    T far = (P.row(r) - Q.row(r)).abs().sum() / 2;
    if (teaching.divergence == Divergence::kl) far = (P.row(r) * (log_p.row(r) - log_q.row(r))).sum();
    if (teaching.divergence == Divergence::cross_entropy) far = -(P.row(r) * log_q.row(r)).sum();
    saved[n + r] = teacher_lse[r];
    saved[2 * n + r] = (Q.row(r) * (Q.row(r) - P.row(r)).sign()).sum();
    row_loss[r] = labels[r] < 0 ? T(0) : teaching.share * far + (1 - teaching.share) * row_loss[r];
  }
}

/// dz = share * (q - p), or share * q (sign(q - p) - sum_v q_v sign(q_v - p_v)) / 2 for the total variation,
/// and (1 - share) (q - onehot(label)); all times factor dloss, 0 where ignored;   dx = dz W,   dW = dz^T x
template <typename T>
void linear_distillation_backward(const Reference&, const Teaching<T>& teaching, Rows rows, const T* x,
                                  Index vocab, const T* w, const std::int32_t* labels, const T*,
                                  const T* factor, const T* dloss, Sink<T> dx, Sink<T> dw) {
  Eigen::Array<T, Eigen::Dynamic, 1> lse;
  const eigen::Array<T> Q = eigen::exponential(eigen::log_distributions(rows, x, vocab, w, lse));
  const eigen::Array<T> P =
      eigen::exponential(eigen::log_distributions(teaching.rows, teaching.x, vocab, teaching.w, lse));
  const eigen::Array<T> S = (Q - P).sign();
  eigen::Matrix<T> dZ = (Q - P).matrix();
  for (Index r = 0; r < rows.count; ++r) {
    if (teaching.twice()) dZ.row(r) = Q.row(r) * (S.row(r) - (Q.row(r) * S.row(r)).sum()) / 2;
    dZ.row(r) = teaching.share * dZ.row(r) + (1 - teaching.share) * Q.row(r).matrix();
    if (labels[r] >= 0) dZ(r, labels[r]) -= 1 - teaching.share;
    dZ.row(r) *= labels[r] < 0 ? T(0) : *factor * *dloss;
  }
  const eigen::Matrix<T> X = as_matrix(x, rows), W = eigen::matrix(w, vocab, rows.width);
  eigen::put(dx, dZ * W);
  eigen::put(dw, dZ.transpose() * X);
}

}  // namespace mtpx
