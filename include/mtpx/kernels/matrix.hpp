#pragma once
// The operands of products, on every device.

#include <mtpx/core/shape.hpp>

namespace mtpx::kernels {

/// A matrix in memory: element (i, j) at data[i * row + j * column]; one of the two is 1.
template <typename T>
struct Matrix {
  const T* data = nullptr;  ///< element (0, 0)
  Index row = 0;            ///< from a row to the next
  Index column = 1;         ///< from a column to the next

  /// Where element (i, j) stands.
  constexpr const T* at(Index i, Index j) const { return data + i * row + j * column; }
};

/// Rows of contiguous numbers, `stride` apart.
template <typename T>
constexpr Matrix<T> row_major(const T* data, Index stride) {
  return {data, stride, 1};
}
/// The transpose of a row-major matrix.
template <typename T>
constexpr Matrix<T> transposed(const T* data, Index stride) {
  return {data, 1, stride};
}

}  // namespace mtpx::kernels
