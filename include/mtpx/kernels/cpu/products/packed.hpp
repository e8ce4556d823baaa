#pragma once
// Products with packed weights (../../packed.hpp): floats as they stand, of bf16 two columns a word.

#include "few_rows.hpp"

#include "../../packed.hpp"

namespace mtpx::kernels {

/// Weights of type T that are packed, as a type of operands.
template <typename T>
struct Packed {};

/// w^T [in, out] as an operand of products, from some row of w on, a multiple of panel<acc_t<T>>.
template <typename T>
struct Matrix<Packed<T>> {
  PackedWeights<T> w;
  Index first = 0;  ///< row of w
};

}  // namespace mtpx::kernels

namespace mtpx::cpu {

using kernels::Packed;

namespace detail {

/// In line, so that the sums stay in registers. Calls use(k, numbers) for k = 0, 1, .. of one panel: column k
/// of w, as panel_registers registers.
template <typename B, typename Use>
[[gnu::always_inline]] inline void for_each_column(const Matrix<Packed<B>>& b, const Use& use) {
  using T = acc_t<B>;
  using Weights = PackedWeights<B>;
  static_assert(Weights::panel % panel<T> == 0 && Weights::word == numbers_of_word<T, B>);
  constexpr Index per = Weights::word, wide = Weights::panel * per, bytes = static_cast<Index>(sizeof(B));
  // The panels of a task stand one behind the other, so what comes behind one is the next.
  constexpr Index ahead = 16384;  // bytes
  const B* at = b.w.data + b.w.place(b.first, 0);
  Vec<T> words[panel_registers], numbers[panel_registers];
  const auto next_words = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (Index line = 0; line < panel<T> * per * bytes; line += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(at) + ahead + line, 0, 2);
#pragma GCC unroll 4
    for (int v = 0; v < panel_registers; ++v) words[v] = load_words<T>(at + v * lanes<T> * per);
    at += wide;
  };
  const auto column = [&](Index k, Index i) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < panel_registers; ++v) numbers[v] = number_of_words<T, B>(words[v], i);
    use(k + i, numbers);
  };
  const Index whole = b.w.in / per * per;
  for (Index k = 0; k < whole; k += per) {
    next_words();
    column(k, 0);
    if constexpr (per == 2) column(k, 1);
  }
  if (whole < b.w.in) {
    next_words();
    column(whole, 0);
  }
}

}  // namespace detail

}  // namespace mtpx::cpu
