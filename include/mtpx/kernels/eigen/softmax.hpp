#pragma once

#include "embedding.hpp"

namespace mtpx {

/// y = e^x_c / sum_j e^x_j for every row, or its logarithm, x_c - log sum_j e^x_j.
template <typename T>
void softmax_forward(const Reference&, Rows rows, bool log, const T* x, T* y) {
  const auto X = as_matrix(x, rows).array();
  eigen::Array<T> P = X;
  const auto lse = eigen::softmax(P);
  if (log) P = X.colwise() - lse;
  eigen::put(y, P.matrix());
}

/// softmax: dx = y (dy - sum_j y_j dy_j);   log softmax: dx = dy - e^y sum_j dy_j
template <typename T>
void softmax_backward(const Reference&, Rows rows, bool log, const T* y, const T* dy, Sink<T> dx) {
  const auto Y = eigen::array(y, rows.count, rows.width), dY = eigen::array(dy, rows.count, rows.width);
  const eigen::Array<T> P = log ? eigen::Array<T>(eigen::exponential(Y)) : eigen::Array<T>(Y);
  const eigen::Array<T> all = (log ? eigen::Array<T>(dY) : eigen::Array<T>(P * dY)).rowwise().sum();
  if (log) {
    eigen::put(dx, dY - P.colwise() * all.col(0));
  } else {
    eigen::put(dx, P * (dY.colwise() - all.col(0)));
  }
}

/// row_loss = lse - x_label, lse = log sum_v e^x_v; 0 where the label is below 0.
template <typename T>
void cross_entropy_forward(const Reference&, Rows rows, const T* logits, const std::int32_t* labels, T* lse,
                           T* row_loss) {
  const auto X = as_matrix(logits, rows).array();
  eigen::Array<T> P = X;
  eigen::column(lse, rows.count) = eigen::softmax(P);
  for (Index r = 0; r < rows.count; ++r) {
    eigen::check_id("cross_entropy", 0, r, labels[r], std::numeric_limits<std::int32_t>::min(), rows.width);
    row_loss[r] = labels[r] < 0 ? T(0) : lse[r] - X(r, labels[r]);
  }
}

/// dx = (softmax(x) - onehot(label)) factor dloss; 0 where the label is below 0.
template <typename T>
void cross_entropy_backward(const Reference&, Rows rows, const T* logits, const std::int32_t* labels,
                            const T*, const T* factor, const T* dloss, Sink<T> dlogits) {
  eigen::Array<T> P = as_matrix(logits, rows).array();
  eigen::softmax(P);
  for (Index r = 0; r < rows.count; ++r) {
    if (labels[r] < 0) {
      P.row(r).setZero();
    } else {
      P(r, labels[r]) -= 1;
    }
  }
  eigen::put(dlogits, P * (*factor * *dloss));
}

}  // namespace mtpx
