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

/// y = x W^T, packed
template <typename T>
void linear_packed_forward(const Reference& device, Rows rows, const T* x, const PackedWeights<T>& w, T* y) {
  const eigen::Matrix<T> W = eigen::whole<T>(w);
  linear_forward(device, rows, x, w.out, W.data(), y);
}

/// packed_place(i, j) = w_ij, the rest 0
template <typename T>
void pack_weights(const Reference&, Index count, const PackedWeights<T>& shape, const T* w, T* to) {
  std::fill_n(to, count * shape.size(), T(0));
  for (Index i = 0; i < count * shape.out; ++i) {
    for (Index j = 0; j < shape.in; ++j)
      to[i / shape.out * shape.size() + shape.place(i % shape.out, j)] = w[i * shape.in + j];
  }
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
