#pragma once

#include "views.hpp"

namespace mtpx {

/// y_r = sum_c x_rc / divisor, or y = sum of all / divisor.
template <typename T>
void sum_forward(const Reference&, Rows rows, bool over_all, Index divisor, const T* x, T* y) {
  const auto X = as_matrix(x, rows);
  if (over_all) {
    *y = X.sum() / static_cast<T>(divisor);
  } else {
    eigen::column(y, rows.count) = X.array().rowwise().sum() / static_cast<T>(divisor);
  }
}

/// dx_rc = dy_r / divisor, or dy / divisor.
template <typename T>
void sum_backward(const Reference&, Rows rows, bool over_all, Index divisor, const T* dy, Sink<T> dx) {
  eigen::Matrix<T> dX(rows.count, rows.width);
  for (Index r = 0; r < rows.count; ++r)
    dX.row(r).setConstant(dy[over_all ? 0 : r] / static_cast<T>(divisor));
  eigen::put(dx, dX);
}

}  // namespace mtpx
