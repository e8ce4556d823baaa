#pragma once
// Products with weights in 8 bits (../../int8.hpp). A number becomes q s, rounded once to float, in a
// register; from there on it is what a float weight is, in gemm.hpp's order of sums. So a product has the
// bits of the same product with these floats, however many rows it has.

#include "few_rows.hpp"

#include "../../int8.hpp"

#include <cstdint>

namespace mtpx::kernels {

/// w^T [in, out] as an operand of products, from some row of w on, a multiple of panel<float>.
template <>
struct Matrix<std::int8_t> {
  Int8Weights w;
  Index first = 0;  ///< row of w
};

}  // namespace mtpx::kernels

namespace mtpx::cpu::detail {

static_assert(Int8Weights::panel % panel<float> == 0);

inline Matrix<std::int8_t> columns_of(Matrix<std::int8_t> b, Index first) { return {b.w, b.first + first}; }

/// In line, so that the sums stay in registers. Calls use(k, numbers) for k = 0, 1, .. of one panel: column k
/// of w, as panel_registers registers.
template <typename Use>
[[gnu::always_inline]] inline void for_each_column(const Matrix<std::int8_t>& b, const Use& use) {
  using Words = exact::Ints<Vec<float>>;
  constexpr Index wide = Int8Weights::panel * Int8Weights::word, ahead = 16384;
  const Int8Weights& w = b.w;
  const Index lane = b.first % Int8Weights::panel;
  const std::int8_t* at = w.q + b.first / Int8Weights::panel * w.panel_bytes() + lane * Int8Weights::word;
  const float* scales = w.scales + b.first / Int8Weights::panel * w.panel_scales() + lane;
  Index k = 0;
  for (; k < w.in; scales += Int8Weights::panel) {
    Vec<float> scale[panel_registers];
    for (int v = 0; v < panel_registers; ++v) scale[v] = load(scales + v * lanes<float>);
    const Index end = std::min(w.in, k + w.run);
    for (; k < end; at += wide) {
      // The panels of a task stand one behind the other: what comes behind this one is the next.
#pragma GCC unroll 2
      for (Index line = 0; line < panel<float> * Int8Weights::word; line += 64)
        __builtin_prefetch(at + ahead + line, 0, 2);
      Words words[panel_registers];
#pragma GCC unroll 4
      for (int v = 0; v < panel_registers; ++v)
        std::memcpy(&words[v], at + v * register_bytes, register_bytes);
      const auto column = [&]<int i>() __attribute__((always_inline)) {
        Vec<float> numbers[panel_registers];
#pragma GCC unroll 4
        for (int v = 0; v < panel_registers; ++v)
          numbers[v] = exact::real<Vec<float>>(words[v] << (24 - 8 * i) >> 24) * scale[v];
        use(k + i, numbers);
      };
      column.template operator()<0>();
      if (k + 4 <= end) {
        column.template operator()<1>();
        column.template operator()<2>();
        column.template operator()<3>();
        k += 4;
        continue;
      }
      if (k + 1 < end) column.template operator()<1>();
      if (k + 2 < end) column.template operator()<2>();
      k = end;
    }
  }
}

/// As few_rows.hpp's, with a panel of weights in 8 bits.
template <typename T, typename C>
void multiply_few(Index m, Index, const T* a, Matrix<std::int8_t> b, C* c, Index stride, bool accumulate) {
  static_assert(std::is_same_v<T, float>, "8-bit weights are multiplied in float");
  with_rows(m, [&]<int rows>() {
    Vec<T> total[rows][panel_registers] = {};
    if (accumulate) {
      for (Index r = 0; r < std::min<Index>(m, rows); ++r) {
        for (int v = 0; v < panel_registers; ++v) total[r][v] = load(c + r * stride + v * lanes<T>);
      }
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
    for (Index r = 0; r < m; ++r) {
      for (int v = 0; v < panel_registers; ++v) store(c + r * stride + v * lanes<T>, total[r][v]);
    }
  });
}

/// As gemm.hpp's, of a panel of weights in 8 bits; rows of w that are padding come along.
template <typename T>
void pack_panel(Index, Index, Matrix<std::int8_t> b, T* to) {
  for_each_column(
      b, [&](Index k, const Vec<T>* numbers) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int v = 0; v < panel_registers; ++v) store(to + k * panel<T> + v * lanes<T>, numbers[v]);
      });
}

}  // namespace mtpx::cpu::detail
