#pragma once
// Products with weights that stand in panels of 32 rows, k after k: in 8 bits (int8.hpp) or packed
// (packed.hpp). Each kind says what the columns of a panel are, for_each_column(); from there on they are
// multiplied in gemm.hpp's order of sums, so a product has the bits of the same product with rows of weights.

#include "int8.hpp"
#include "packed.hpp"

namespace mtpx::cpu::detail {

/// Matrix<B> is w^T [in, out], from row `first` of w on, a multiple of panel<T>.
template <typename B>
concept InPanels = requires(Matrix<B> b) {
  b.w.panel_size();
  b.first;
};

template <InPanels B>
Matrix<B> columns_of(Matrix<B> b, Index first) {
  return {b.w, b.first + first};
}

/// As few_rows.hpp's.
template <typename T, InPanels B, typename C>
void multiply_few(Index m, Index, const T* a, Matrix<B> b, C* c, Index stride, bool accumulate) {
  T sums[few_rows * panel<T>] = {};
  if (accumulate) {
    for (Index r = 0; r < m; ++r) {
      for (Index j = 0; j < panel<T>; j += lanes<T>) store(sums + r * panel<T> + j, load(c + r * stride + j));
    }
  }
  with_rows(m, [&]<int rows>() {
    Vec<T> total[rows][panel_registers];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < panel_registers; ++v) total[r][v] = load(sums + r * panel<T> + v * lanes<T>);
    }
    for_each_column(
        b, [&](Index k, const Vec<T>* numbers) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int r = 0; r < rows; ++r) {
            const Vec<T> x = broadcast<T>(a[k * rows + r]);
#pragma GCC unroll 4
            for (int v = 0; v < panel_registers; ++v) total[r][v] = fma(x, numbers[v], total[r][v]);
          }
        });
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < panel_registers; ++v) store(sums + r * panel<T> + v * lanes<T>, total[r][v]);
    }
  });
  for (Index r = 0; r < m; ++r) {
    for (Index j = 0; j < panel<T>; j += lanes<T>) store(c + r * stride + j, load(sums + r * panel<T> + j));
  }
}

/// As gemm.hpp's; rows of w that are padding come along.
template <typename T, InPanels B>
void pack_panel(Index, Index, Matrix<B> b, T* to) {
  for_each_column(
      b, [&](Index k, const Vec<T>* numbers) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int v = 0; v < panel_registers; ++v) store(to + k * panel<T> + v * lanes<T>, numbers[v]);
      });
}

}  // namespace mtpx::cpu::detail
