#pragma once
// What the kernels of this folder are written with: memory as matrices and arrays of Eigen's, the functions
// of one number, softmax, and where gradients go. One letter names a matrix, as in the papers; its rows are
// tokens.

#include <mtpx/core/eigen.hpp>
#include <mtpx/core/reference.hpp>

#include "../int8.hpp"
#include "../packed.hpp"
#include "../shapes.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace mtpx::eigen {

/// What an expression is worth. Operands and results of products are such matrices, copied where they stand
/// in memory: the compiler then meets three kinds of products, A B, A B^T and A^T B, and not one for every
/// line.
template <typename T>
using Matrix = RowMatrix<T>;
/// The same where products are number by number.
template <typename T>
using Array = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <typename T>
using RowArray = Eigen::Array<T, 1, Eigen::Dynamic>;

/// [rows, columns] in memory, rows that touch each other.
template <typename T>
RowMap<T> matrix(T* data, Index rows, Index columns) {
  return as_matrix(data, Rows{rows, columns, columns});
}
template <typename T>
auto array(T* data, Index rows, Index columns) {
  return matrix(data, rows, columns).array();
}
/// Numbers one after the other: as a column, and as a row.
template <typename T>
auto column(T* data, Index count) {
  return matrix(data, count, 1).col(0).array();
}
template <typename T>
auto row(T* data, Index count) {
  return matrix(data, 1, count).row(0).array();
}

/// e^x, sqrt(x), 1 / (1 + e^-x) of every number, as <cmath> computes them. (Eigen's own, in registers, are a
/// bit off, each processor's another bit, and its e^-inf is not 0.)
template <typename X>
auto exponential(const X& x) {
  using T = typename X::Scalar;
  return x.unaryExpr([](T v) { return std::exp(v); });
}
template <typename X>
auto square_root(const X& x) {
  using T = typename X::Scalar;
  return x.unaryExpr([](T v) { return std::sqrt(v); });
}
template <typename X>
auto sigmoid(const X& x) {
  using T = typename X::Scalar;
  return x.unaryExpr([](T v) { return 1 / (1 + std::exp(-v)); });
}

/// z becomes softmax(z), row by row: e^z_j / sum_j e^z_j. Returns log sum_j e^z_j of every row.
template <typename T>
Eigen::Array<T, Eigen::Dynamic, 1> softmax(Array<T>& z) {
  Eigen::Array<T, Eigen::Dynamic, 1> lse(z.rows());
  for (Index r = 0; r < z.rows(); ++r) {
    const T top = z.row(r).maxCoeff();  // taken out, so that nothing overflows
    z.row(r) = exponential(z.row(r) - top).eval();
    const T total = z.row(r).sum();
    z.row(r) /= total;
    lse(r) = top + std::log(total);
  }
  return lse;
}

/// Puts a result into memory.
template <typename T>
void put(T* to, const std::type_identity_t<Matrix<T>>& value) {
  matrix(to, value.rows(), value.cols()) = value;
}
/// Puts a gradient where it is wanted, or adds it to what is there.
template <typename T>
void put(Sink<T> to, const std::type_identity_t<Matrix<T>>& gradient) {
  if (!to) return;
  auto place = matrix(to.data, gradient.rows(), gradient.cols());
  if (to.accumulate) {
    place += gradient;
  } else {
    place = gradient;
  }
}

/// Weights in 8 bits as numbers, `count` matrices below each other.
template <typename T>
Matrix<T> whole(const Int8Weights& w, Index count = 1) {
  Matrix<T> all(count * w.out, w.in);
  for (Index i = 0; i < all.rows(); ++i) {
    for (Index j = 0; j < w.in; ++j) all(i, j) = w.of_stack(i / w.out).template at<T>(i % w.out, j);
  }
  return all;
}

/// Packed weights as they are before, the same.
template <typename T>
Matrix<T> whole(const PackedWeights<T>& w, Index count = 1) {
  Matrix<T> all(count * w.out, w.in);
  for (Index i = 0; i < all.rows(); ++i) {
    for (Index j = 0; j < w.in; ++j) all(i, j) = w.of_stack(i / w.out).at(i % w.out, j);
  }
  return all;
}

}  // namespace mtpx::eigen
