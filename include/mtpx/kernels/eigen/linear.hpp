#pragma once

#include "views.hpp"

namespace mtpx {

/// y = x W^T.   x: [N, I], rows apart   w: [O, I]   y: [N, O]
template <typename T>
void linear_forward(const Reference&, Rows rows, const T* x, Index out, const T* w, T* y) {
  const eigen::Matrix<T> X = as_matrix(x, rows), W = eigen::matrix(w, out, rows.width);
  eigen::put(y, X * W.transpose());
}

/// y = x W^T,   W_ij = q_ij s_ij, in 8 bits
template <typename T>
void linear_int8_forward(const Reference& device, Rows rows, const T* x, const Int8Weights& w, T* y) {
  const eigen::Matrix<T> W = eigen::whole<T>(w);
  linear_forward(device, rows, x, w.out, W.data(), y);
}

/// dx = dy W
template <typename T>
void linear_backward_input(const Reference&, Rows rows, Index out, const T* w, const T* dy, Sink<T> dx) {
  const eigen::Matrix<T> dY = eigen::matrix(dy, rows.count, out), W = eigen::matrix(w, out, rows.width);
  eigen::put(dx, dY * W);
}

/// dW = dy^T x
template <typename T>
void linear_backward_weight(const Reference&, Rows rows, const T* x, Index out, const T* dy, Sink<T> dw) {
  const eigen::Matrix<T> dY = eigen::matrix(dy, rows.count, out), X = as_matrix(x, rows);
  eigen::put(dw, dY.transpose() * X);
}

}  // namespace mtpx
