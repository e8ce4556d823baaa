#pragma once
// One SIMD register of floats or doubles, as wide as the translation unit's flags allow.
//
// Registers are the compilers' own vector types; their exponential is Eigen's. Every element of a row takes
// the same path, the last partial register included (it is padded): so an element's bits depend neither on
// its row's address nor on what stands beside it. Plain loops over Eigen maps do not promise that.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/shape.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace mtpx::cpu {

#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
#elif defined(__AVX__)
inline constexpr int register_bytes = 32;
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
  return value - Vec<T>{};  // a vector minus zero: the form both compilers turn into one broadcast
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

template <typename T>
inline T sum(Vec<T> v) {
  T total = v[0];
  for (int i = 1; i < static_cast<int>(lanes<T>); ++i) total += v[i];
  return total;
}

template <typename V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

namespace detail {

/// f on Eigen arrays of at most 32 bytes: Eigen's exponential for wider ones is less exact (4.5 instead
/// of 1.3 units in the last place, for floats).
template <typename T, typename F>
inline Vec<T> by_parts(Vec<T> v, const F& f) {
  constexpr int width = std::min(register_bytes, 32) / static_cast<int>(sizeof(T));
  T numbers[lanes<T>];
  store(numbers, v);
  for (Index i = 0; i < lanes<T>; i += width) {
    Eigen::Array<T, width, 1> part;
    std::memcpy(part.data(), numbers + i, sizeof(T) * width);
    part = f(part);
    std::memcpy(numbers + i, part.data(), sizeof(T) * width);
  }
  return load(numbers);
}

}  // namespace detail

/// e^x, element by element; Eigen's packet exponential, within two units in the last place. Arguments are
/// clamped: e^-inf is a tiny positive number, so what must be zero is set to zero by the caller.
template <typename T>
inline Vec<T> exp(Vec<T> v) {
  return detail::by_parts<T>(v, [](const auto& part) { return part.exp().eval(); });
}

/// The square root, element by element; Eigen's, within a few units in the last place, 0 for denormals.
template <typename T>
inline Vec<T> sqrt(Vec<T> v) {
  return detail::by_parts<T>(v, [](const auto& part) { return part.sqrt().eval(); });
}

/// 1 / (1 + e^-x)
template <typename T>
inline Vec<T> sigmoid(Vec<T> v) {
  return T(1) / (T(1) + exp<T>(-v));
}

/// a * b + c, rounded once where the processor can. Never left to the compiler: whether it contracts the
/// expression depends on the code around it and on the processor it tunes for, and so would the bits.
template <typename V>
inline V fma(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) return V(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
  if constexpr (std::is_same_v<V, Vec<double>>) return V(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
#elif defined(__FMA__)
  if constexpr (std::is_same_v<V, Vec<float>>) return V(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
  if constexpr (std::is_same_v<V, Vec<double>>) return V(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
#else
  return a * b + c;
#endif
}

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
