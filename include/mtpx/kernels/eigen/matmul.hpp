#pragma once

#include "views.hpp"

namespace mtpx {

namespace eigen {
/// [rows, columns] whose element (i, j) stands at i * s.row + j * s.column.
template <typename T>
Matrix<T> gathered(const T* x, Index rows, Index columns, MatrixSteps s) {
  return s.column == 1 ? Matrix<T>(as_matrix(x, Rows{rows, columns, s.row}))
                       : Matrix<T>(as_matrix(x, Rows{columns, rows, s.column}).transpose());
}
}  // namespace eigen

/// Y = A B, `batch` times
template <typename T, typename G>
void multiply_matrices(const Reference&, MatmulShape s, const T* a, const T* b, Sink<G> y) {
  if (!y) return;
  for (Index i = 0; i < s.batch; ++i) {
    const eigen::Matrix<T> A = eigen::gathered(a + i * s.a.next, s.m, s.k, s.a);
    const eigen::Matrix<T> B = eigen::gathered(b + i * s.b.next, s.k, s.n, s.b);
    eigen::put(Sink<G>{y.data + i * s.m * s.n, y.accumulate}, A * B);
  }
}

/// Y = X^T, `batch` times
template <typename T>
void transpose_copy(const Reference&, Index batch, Rows rows, const T* x, Sink<T> y) {
  for (Index i = 0; y && i < batch; ++i) {
    const Index m = rows.count / batch;
    const eigen::Matrix<T> X = as_matrix(x + i * m * rows.stride, Rows{m, rows.width, rows.stride});
    eigen::put(Sink<T>{y.data + i * m * rows.width, y.accumulate}, X.transpose());
  }
}

}  // namespace mtpx
