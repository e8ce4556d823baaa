#pragma once

#include "embedding.hpp"

namespace mtpx {

/// Logits z = x W^T (the output head of DeepSeek-V3 Eq. 23), all of them, and what each row loses (Eq. 24):
/// -log softmax(z)_label = log sum_v e^z_v - z_label.
///   x: [N, D], rows apart   w: [V, D]   labels: [N], below 0: ignored, with loss 0
///   lse, row_loss, argmax: [N]; argmax: the lowest of equal ones
template <typename T>
void linear_cross_entropy_forward(const Reference&, Rows rows, const T* x, Index vocab, const T* w,
                                  const std::int32_t* labels, T* lse, T* row_loss, std::int32_t* argmax) {
  const eigen::Matrix<T> X = as_matrix(x, rows), W = eigen::matrix(w, vocab, rows.width);
  const eigen::Matrix<T> Z = X * W.transpose();
  eigen::Array<T> P = Z;
  eigen::put(lse, eigen::softmax(P));
  for (Index r = 0; r < rows.count; ++r) {
    const std::int32_t label = labels[r];
    if (label >= 0) eigen::check_id("linear_cross_entropy", 0, r, label, 0, vocab);
    row_loss[r] = label < 0 ? T(0) : lse[r] - Z(r, label);
    Index best = 0;
    Z.row(r).maxCoeff(&best);
    argmax[r] = static_cast<std::int32_t>(best);
  }
}

/// loss = sum of the rows' losses / divisor,   factor = 1 / divisor: that of Eq. 24, `fixed_divisor`, or,
/// where that is 0, the number of labels that count. Without any: loss 0 and factor 0.
template <typename T>
void cross_entropy_mean(const Reference&, Index count, const T* row_loss, const std::int32_t* labels,
                        Index fixed_divisor, T* loss, T* factor) {
  const Index valid = (eigen::row(labels, count) >= 0).count();
  const Index divisor = fixed_divisor > 0 ? fixed_divisor : valid;
  *factor = valid == 0 ? T(0) : 1 / static_cast<T>(divisor);
  *loss = valid == 0 ? T(0) : eigen::row(row_loss, count).sum() / static_cast<T>(divisor);
}

/// dz = (softmax(z) - onehot(label)) factor dloss, 0 where ignored;   dx = dz W,   dW = dz^T x
template <typename T>
void linear_cross_entropy_backward(const Reference&, Rows rows, const T* x, Index vocab, const T* w,
                                   const std::int32_t* labels, const T*, const T* factor, const T* dloss,
                                   Sink<T> dx, Sink<T> dw) {
  const eigen::Matrix<T> X = as_matrix(x, rows), W = eigen::matrix(w, vocab, rows.width);
  eigen::Matrix<T> dZ = X * W.transpose();
  eigen::Array<T> P = dZ;
  eigen::softmax(P);
  dZ = P * (*factor * *dloss);
  for (Index r = 0; r < rows.count; ++r) {
    if (labels[r] < 0) {
      dZ.row(r).setZero();
    } else {
      dZ(r, labels[r]) -= *factor * *dloss;
    }
  }
  eigen::put(dx, dZ * W);
  eigen::put(dw, dZ.transpose() * X);
}

}  // namespace mtpx
