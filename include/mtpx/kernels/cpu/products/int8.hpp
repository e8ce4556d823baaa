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
/// of w, as panel_registers registers. Nothing is asked for ahead: the processor sees the stream by itself,
/// and what converts numbers has no time to spare.
template <typename Use>
[[gnu::always_inline]] inline void for_each_column(const Matrix<std::int8_t>& b, const Use& use) {
  const Int8Weights& w = b.w;
  const std::int8_t* at = w.q + w.place(b.first, 0);
  const float* scales = w.scales + w.scale_place(b.first, 0);
  Vec<float> scale[panel_registers], numbers[panel_registers];
  const auto column = [&](Index k) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < panel_registers; ++v) numbers[v] = load(at + v * lanes<float>) * scale[v];
    at += Int8Weights::panel;
    use(k, numbers);
  };
  for (Index k = 0; k < w.in; scales += Int8Weights::panel) {
#pragma GCC unroll 4
    for (int v = 0; v < panel_registers; ++v) scale[v] = load(scales + v * lanes<float>);
    const Index end = std::min(w.in, k + w.run);
#pragma GCC unroll 4
    for (; k < end; ++k) column(k);
  }
}

}  // namespace mtpx::cpu::detail
