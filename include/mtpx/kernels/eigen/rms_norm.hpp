#pragma once

#include "elementwise.hpp"

namespace mtpx {

/// y_j = x_j r gain_j,   r = 1 / sqrt(mean_k x_k^2 + eps), for every row (Zhang & Sennrich 2019, Eq. 4).
///   x: [N, D], rows apart   gain: [D]   y: [N, D]   r: [N], for backward
template <typename T>
void rms_norm_forward(const Reference&, Rows rows, const T* x, const T* gain, T eps, T* y, T* r) {
  const auto X = as_matrix(x, rows).array();
  auto R = eigen::column(r, rows.count);
  R = 1 / eigen::square_root(X.square().rowwise().mean() + eps);
  eigen::array(y, rows.count, rows.width) = (X.colwise() * R).rowwise() * eigen::row(gain, rows.width);
}

/// With x^_j = x_j r and g_j = dy_j gain_j:   dx_j = r (g_j - x^_j mean_k g_k x^_k),   dgain_j = sum over
/// rows of dy_j x^_j.
template <typename T>
void rms_norm_backward(const Reference&, Rows rows, const T* x, const T* gain, const T* r, const T* dy,
                       Sink<T> dx, Sink<T> dgain) {
  const auto R = eigen::column(r, rows.count);
  const auto dY = eigen::array(dy, rows.count, rows.width);
  const eigen::Array<T> x_hat = as_matrix(x, rows).array().colwise() * R;
  const eigen::Array<T> G = dY.rowwise() * eigen::row(gain, rows.width);
  eigen::put(dx, (G - x_hat.colwise() * (G * x_hat).rowwise().mean()).colwise() * R);
  eigen::put(dgain, (dY * x_hat).colwise().sum());
}

/// total = x + f,   y = norm(total): a block's residual and what follows it.   All [N, D].
template <typename T>
void add_rms_norm_forward(const Reference& device, Index count, Index width, const T* x, const T* f,
                          const T* gain, T eps, T* total, T* y, T* r) {
  eigen::array(total, count, width) = eigen::array(x, count, width) + eigen::array(f, count, width);
  rms_norm_forward(device, Rows{count, width, width}, total, gain, eps, y, r);
}

/// dx = df = dtotal + the norm's gradient.
template <typename T>
void add_rms_norm_backward(const Reference& device, Index count, Index width, const T* total, const T* gain,
                           const T* r, const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df, Sink<T> dgain) {
  eigen::Array<T> d = eigen::array(dtotal, count, width);
  rms_norm_backward(device, Rows{count, width, width}, total, gain, r, dy, Sink<T>{d.data(), true}, dgain);
  eigen::put(dx, d);
  eigen::put(df, d);
}

}  // namespace mtpx
