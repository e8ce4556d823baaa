#pragma once
// Eigen at the door: a tensor's rows as an Eigen matrix, and an Eigen matrix as a tensor, neither with a
// copy; and a tensor from a matrix of any layout, with one.

#include <mtpx/core/tensor.hpp>

#include <Eigen/Core>

#include <memory>
#include <span>
#include <type_traits>

namespace mtpx {

/// A matrix of Eigen's that lies in memory as tensors do, row by row.
template <typename T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The same over memory of somebody else, rows any distance apart. T may be const.
template <typename T>
using RowMap =
    Eigen::Map<std::conditional_t<std::is_const_v<T>, const RowMatrix<std::remove_const_t<T>>, RowMatrix<T>>,
               Eigen::Unaligned, Eigen::OuterStride<>>;

/// Rows in memory as Eigen sees them.
template <typename T>
RowMap<T> as_matrix(T* data, Rows rows) {
  static_assert(std::is_arithmetic_v<T>, "Eigen has no bf16; convert to float");
  return RowMap<T>(data, rows.count, rows.width, Eigen::OuterStride<>(rows.stride));
}

/// All rows of a tensor as one matrix [x.shape().rows(), x.shape().width()], without a copy.
///
///   as_matrix(y) = as_matrix(x) * b;    // any expression of Eigen's; the layout of b does not matter
///
/// The map must not outlive the tensor's memory.   Throws ShapeError for an undefined tensor.
template <typename T, typename D>
requires HostMemory<D> RowMap<T> as_matrix(const Tensor<T, D>& x) {
  require(x.defined(), "as_matrix", "the tensor is undefined");
  return as_matrix(x.data(), x.rows());
}

/// The same, to read only.
template <typename T, typename D>
requires HostMemory<D> RowMap<const T> as_const_matrix(const Tensor<T, D>& x) {
  require(x.defined(), "as_const_matrix", "the tensor is undefined");
  return as_matrix(static_cast<const T*>(x.data()), x.rows());
}

/// A tensor over a matrix, map or block of Eigen's, without a copy: [rows, columns], or [size] of a vector.
///
/// What Tensor::borrow says of memory holds here: the matrix must outlive every tensor that shares it, and
/// may not be resized or moved from meanwhile. Column-major matrices do not compile: they would have to be
/// copied, as from(device, matrix) does.   Throws Error where the memory is not aligned.
template <typename D, typename M>
requires(HostMemory<D>&& requires { typename std::remove_cvref_t<M>::Scalar; }) auto borrow(const D& device,
                                                                                            M&& matrix) {
  using E = std::remove_cvref_t<M>;
  using T = typename E::Scalar;
  static_assert(
      E::IsVectorAtCompileTime || E::IsRowMajor,
      "tensors are row-major: declare the matrix with Eigen::RowMajor, or copy it by from(device, m)");
  static_assert(E::InnerStrideAtCompileTime == 1, "numbers of a row must touch each other");
  static_assert(std::is_same_v<decltype(matrix.data()), T*>,
                "a tensor can be written to: the matrix is const");
  static_assert(std::is_lvalue_reference_v<M> || !std::is_base_of_v<Eigen::PlainObjectBase<E>, E>,
                "the matrix would die with this statement");
  const Index rows = E::IsVectorAtCompileTime ? 1 : matrix.rows();
  const Index width = rows == 0 ? matrix.cols() : matrix.size() / rows;
  const Index stride = rows <= 1 ? width : matrix.outerStride();
  const Shape shape = E::IsVectorAtCompileTime ? Shape{width} : Shape{rows, width};
  const Index reach = shape.size() == 0 ? 0 : (rows - 1) * stride + width;
  return Tensor<T, D>::borrow(device, shape, std::span<T>(matrix.data(), static_cast<std::size_t>(reach)),
                              stride);
}

/// The same for a matrix or vector that the tensor shares with its owner: it lives while a tensor needs it.
template <typename D, typename M>
requires HostMemory<D>
auto borrow(const D& device, const std::shared_ptr<M>& matrix) {
  const auto x = borrow(device, *matrix);
  const Rows rows = x.rows();
  const Index reach = x.size() == 0 ? 0 : (rows.count - 1) * rows.stride + rows.width;
  return x.borrow(device, x.shape(), {x.data(), static_cast<std::size_t>(reach)}, rows.stride, matrix);
}

/// A copy of a matrix or expression of Eigen's on any device, whatever its layout: x_ij = m(i, j).
///
/// m: [rows, columns], or a vector [size]   returns the same shape
template <typename D, typename M>
auto from(const D& device, const Eigen::DenseBase<M>& m) {
  using T = typename M::Scalar;
  RowMatrix<T> rows(m.rows(), m.cols());
  rows = m.derived();
  const Shape shape = M::IsVectorAtCompileTime ? Shape{m.size()} : Shape{m.rows(), m.cols()};
  return Tensor<T, D>::from(device, shape,
                            std::span<const T>(rows.data(), static_cast<std::size_t>(rows.size())));
}

}  // namespace mtpx
