#pragma once
// One SIMD register of floats or doubles, as wide as the translation unit's flags allow.
//
// Registers are the compilers' own vector types. Every element of a row takes the same path, the last partial
// register included (it is padded): so an element's bits depend neither on its row's address nor on what
// stands beside it. Plain loops over Eigen maps do not promise that.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/shape.hpp>

#include "../../formulas.hpp"
#include "../../instructions.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace mtpx::cpu {

#if defined(__SSE2__)
using processor::register_bytes;
#else
inline constexpr int register_bytes = 16;
#endif

namespace detail {
template <typename T>
struct Register;
template <>
struct Register<float> {
  typedef float type __attribute__((vector_size(register_bytes)));
};
template <>
struct Register<double> {
  typedef double type __attribute__((vector_size(register_bytes)));
};
}  // namespace detail

/// T is float or double.
template <typename T>
using Vec = typename detail::Register<T>::type;

template <typename T>
inline constexpr Index lanes = register_bytes / static_cast<Index>(sizeof(T));

template <typename T>
inline Vec<T> broadcast(T value) {
  return exact::all<Vec<T>>(value);
}

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Vec<float> load(const bf16* from) {
  float wide[lanes<float>];
  for (Index i = 0; i < lanes<float>; ++i) wide[i] = static_cast<float>(from[i]);
  return load(wide);
}
/// Whole numbers become floats.
inline Vec<float> load(const std::int8_t* from) {
#if defined(__SSE2__)
  return exact::real<Vec<float>>(exact::Ints<Vec<float>>(processor::widen(from)));
#else
  Vec<float> v;
  for (int i = 0; i < static_cast<int>(lanes<float>); ++i) v[i] = static_cast<float>(from[i]);
  return v;
#endif
}

template <typename T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}
inline void store(bf16* to, Vec<float> v) {
  for (Index i = 0; i < lanes<float>; ++i) to[i] = bf16(v[static_cast<int>(i)]);
}

/// The first `count` < lanes elements; the others are zero.
template <typename T>
inline Vec<acc_t<T>> load_part(const T* from, Index count) {
  T padded[lanes<acc_t<T>>] = {};
  std::memcpy(static_cast<void*>(padded), from, static_cast<std::size_t>(count) * sizeof(T));
  return load(padded);
}
template <typename T>
inline void store_part(T* to, Vec<acc_t<T>> v, Index count) {
  T padded[lanes<acc_t<T>>];
  store(padded, v);
  std::memcpy(static_cast<void*>(to), padded, static_cast<std::size_t>(count) * sizeof(T));
}

/// load or load_part, whichever `left` elements call for.
template <typename T>
inline Vec<acc_t<T>> load_up_to(const T* from, Index left) {
  return left >= lanes<acc_t<T>> ? load(from) : load_part(from, left);
}
template <typename T>
inline void store_up_to(T* to, Vec<acc_t<T>> v, Index left) {
  if (left >= lanes<acc_t<T>>) {
    store(to, v);
  } else {
    store_part(to, v, left);
  }
}

/// Adds to what stands there when `accumulate`, else overwrites.
template <typename T>
inline void put(T* to, Vec<acc_t<T>> v, Index left, bool accumulate) {
  store_up_to(to, accumulate ? load_up_to(to, left) + v : v, left);
}

template <typename V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

using exact::exp;
using exact::fma;
using exact::product;
using exact::sigmoid;

/// The square root of every element, correctly rounded: the processor's own instruction.
template <typename T>
inline Vec<T> sqrt(Vec<T> v) {
#if defined(__SSE2__)
  return processor::sqrt(v);
#else
  for (int i = 0; i < static_cast<int>(lanes<T>); ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

/// x[0] + .. + x[31], as a GPU's warp adds: first those 16 apart, then 8, 4, 2, 1. Destroys x.
template <typename A>
inline A sum_of_warp(A* x) {
  for (int apart = 16; apart > 0; apart /= 2) {
    for (int i = 0; i < apart; ++i) x[i] += x[i + apart];
  }
  return x[0];
}
/// x[0] + .. + x[threads - 1], as a block of a GPU adds: the sums of its warps, in order. Destroys x.
template <int threads, typename A>
inline A sum_of_block(A* x) {
  A total = sum_of_warp(x);
  for (int i = 32; i < threads; i += 32) total += sum_of_warp(x + i);
  return total;
}

/// A sum over a row: one running sum for every 32nd column, from 0, joined as a GPU's warp does that has 32
/// columns at a time. So it does not depend on how wide registers are.
template <typename A>
class RowSum {
 public:
  /// Adds x, columns c, c + 1, ...; c is a multiple of the lanes.
  void add(Index c, Vec<A> x) { at(c) += x; }
  /// Adds x * y.
  void add_product(Index c, Vec<A> x, Vec<A> y) { at(c) = fma(x, y, at(c)); }
  A total() const {
    A numbers[32];
    std::memcpy(numbers, sums_, sizeof numbers);
    return sum_of_warp(numbers);
  }

 private:
  static constexpr Index registers = 32 / lanes<A>;
  Vec<A>& at(Index c) { return sums_[c / lanes<A> % registers]; }

  Vec<A> sums_[registers] = {};
};

namespace detail {
template <int step, int count, typename V, int... j>
inline void swap_blocks(V& a, V& b, std::integer_sequence<int, j...>) {
  const V low = __builtin_shufflevector(a, b, ((j & step) ? count + j - step : j)...);
  const V high = __builtin_shufflevector(a, b, ((j & step) ? count + j : j + step)...);
  a = low;
  b = high;
}
template <typename T, int step>
inline void transpose_step(Vec<T>* rows) {
  constexpr int n = static_cast<int>(lanes<T>);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if ((i & step) == 0) swap_blocks<step, n>(rows[i], rows[i + step], std::make_integer_sequence<int, n>());
  }
  if constexpr (2 * step < n) transpose_step<T, 2 * step>(rows);
}
}  // namespace detail

/// Transposes a square of lanes x lanes numbers in place.
template <typename T>
inline void transpose(Vec<T>* rows) {
  detail::transpose_step<T, 1>(rows);
}

}  // namespace mtpx::cpu
