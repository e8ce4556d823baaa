#pragma once

#include "views.hpp"

namespace mtpx {

/// y = x, or y = y + x, for rows `x_stride` and `y_stride` apart.
template <typename T>
void copy_rows(const Reference&, Index count, Index width, const T* x, Index x_stride, T* y, Index y_stride,
               bool accumulate) {
  const auto X = as_matrix(x, Rows{count, width, x_stride});
  auto Y = as_matrix(y, Rows{count, width, y_stride});
  if (accumulate) {
    Y += X;
  } else {
    Y = X;
  }
}

/// y (+)= alpha x
template <typename T>
void scale_into(const Reference&, Index count, T alpha, const T* x, Sink<T> y) {
  eigen::put(y, alpha * eigen::row(x, count));
}

template <typename T>
void fill_value(const Reference&, Index count, T value, T* y) {
  eigen::row(y, count).setConstant(value);
}

}  // namespace mtpx
