#pragma once
// Products with weights in 8 bits (../../int8.hpp). A number becomes q s, rounded once to float, in a
// register; from there on it is what a float weight is.

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

/// In line, so that the sums stay in registers. Calls use(k, numbers) for k = 0, 1, .. of one panel: column k
/// of w, as panel_registers registers.
template <typename Use>
[[gnu::always_inline]] inline void for_each_column(const Matrix<std::int8_t>& b, const Use& use) {
  using Words = exact::Ints<Vec<float>>;
  constexpr Index wide = Int8Weights::panel * Int8Weights::word;
  const Int8Weights& w = b.w;
  const Index lane = b.first % Int8Weights::panel;
  const std::int8_t* at = w.q + b.first / Int8Weights::panel * w.panel_size() + lane * Int8Weights::word;
  const float* scales = w.scales + b.first / Int8Weights::panel * w.panel_scales() + lane;
  Index k = 0;
  for (; k < w.in; scales += Int8Weights::panel) {
    Vec<float> scale[panel_registers];
    for (int v = 0; v < panel_registers; ++v) scale[v] = load(scales + v * lanes<float>);
    const Index end = std::min(w.in, k + w.run);
    for (; k < end; at += wide) {
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

}  // namespace mtpx::cpu::detail
