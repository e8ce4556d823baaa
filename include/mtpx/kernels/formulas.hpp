#pragma once
// What a number becomes, written once for every device: V is float or double, in a GPU's register or a
// host's, or a whole SIMD register of them (cpu/core/simd.hpp). Each operation is rounded as it stands here,
// so that a float has the same bits wherever it was computed.
//
// Two things would break that. Libraries' exponentials and logarithms differ in the last place: here are our
// own. And compilers contract a * b + c into one rounding where they please, a product that comes from an
// inlined function included: so fma() says where that is wanted, and product() where it is not. Division and
// square root are rounded correctly everywhere.

#include "instructions.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

// Under these flags a compiler reorders sums and forgets NaN, so bits would depend on the processor, the
// compiler and the number of threads, and a step with a gradient that is not finite would not be noticed.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "mtpx: -Ofast, -ffast-math and -ffinite-math-only take sums their order and NaN its meaning"
#endif

// A build for every x86-64 processor may not take fused multiply-add for granted: it asks the one it runs on.
// 0: as on a processor without, for tests.
#ifndef MTPX_FMA_AT_RUN_TIME
#if defined(__SSE2__) && !defined(__FMA__) && !defined(__CUDACC__)
#define MTPX_FMA_AT_RUN_TIME 1
#else
#define MTPX_FMA_AT_RUN_TIME 0
#endif
#endif

#ifdef __CUDACC__
#define MTPX_ANYWHERE __host__ __device__ __forceinline__
#else
#define MTPX_ANYWHERE inline
#endif

namespace mtpx::exact {

namespace detail {
template <typename V>
struct ElementOf {
  using type = std::remove_cvref_t<decltype(std::declval<V>()[0])>;
};
template <>
struct ElementOf<float> {
  using type = float;
};
template <>
struct ElementOf<double> {
  using type = double;
};
}  // namespace detail

/// What V is made of.
template <typename V>
using Element = typename detail::ElementOf<V>::type;

/// `value` in every place of V.
template <typename V>
MTPX_ANYWHERE V all(Element<V> value) {
  if constexpr (std::is_arithmetic_v<V>) {
    return value;
  } else {
    return value - V{};  // a vector minus zero: the form both compilers turn into one broadcast
  }
}

namespace detail {
#if MTPX_FMA_AT_RUN_TIME
/// a * b + c by the instruction that this build may not take for granted.
template <typename V>
inline V fma_of_processor(V a, V b, V c) {
  if constexpr (std::is_same_v<V, float>) {
    __asm__("vfmadd231ss {%2, %1, %0|%0, %1, %2}" : "+x"(c) : "x"(a), "x"(b));
  } else if constexpr (std::is_same_v<V, double>) {
    __asm__("vfmadd231sd {%2, %1, %0|%0, %1, %2}" : "+x"(c) : "x"(a), "x"(b));
  } else if constexpr (std::is_same_v<Element<V>, float>) {
    __asm__("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+x"(c) : "x"(a), "x"(b));
  } else {
    __asm__("vfmadd231pd {%2, %1, %0|%0, %1, %2}" : "+x"(c) : "x"(a), "x"(b));
  }
  return c;
}
#endif

/// a * b + c, rounded once, without such an instruction. The double product of two floats is exact; its sum
/// with c is rounded to odd, so that the rounding to float sees what was cut off (Boldo & Melquiond 2008,
/// "Emulation of a FMA and correctly rounded sums", theorem 3).
inline float fma_in_software(float a, float b, float c) {
  const double p = static_cast<double>(a) * static_cast<double>(b), z = static_cast<double>(c), sum = p + z;
  const double of_z = sum - p, rest = (p - (sum - of_z)) + (z - of_z);
  auto bits = std::bit_cast<std::uint64_t>(sum);
  if ((rest < 0 || rest > 0) && bits % 2 == 0) bits = (rest > 0) == (sum > 0) ? bits + 1 : bits - 1;
  return static_cast<float>(std::bit_cast<double>(bits));
}
inline double fma_in_software(double a, double b, double c) { return __builtin_fma(a, b, c); }
template <typename V>
inline V fma_in_software(V a, V b, V c) {
  for (std::size_t i = 0; i < sizeof(V) / sizeof(Element<V>); ++i) c[i] = fma_in_software(a[i], b[i], c[i]);
  return c;
}
}  // namespace detail

/// a * b + c, rounded once. Twice on a processor without such an instruction, unless MTPX_EXACT_FMA is
/// defined.
template <typename V>
MTPX_ANYWHERE V fma(V a, V b, V c) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) return __fmaf_rn(a, b, c);
  if constexpr (std::is_same_v<V, double>) return __fma_rn(a, b, c);
#else
#if defined(__FMA__) || defined(__FP_FAST_FMA)
  if constexpr (std::is_same_v<V, float>) return __builtin_fmaf(a, b, c);
  if constexpr (std::is_same_v<V, double>) return __builtin_fma(a, b, c);
#endif
#if (defined(__AVX512F__) || defined(__FMA__)) && !defined(__CUDACC__)
  if constexpr (sizeof(V) == processor::register_bytes && std::is_same_v<Element<V>, float>)
    return V(processor::fma(processor::Floats(a), processor::Floats(b), processor::Floats(c)));
  if constexpr (sizeof(V) == processor::register_bytes && std::is_same_v<Element<V>, double>)
    return V(processor::fma(processor::Doubles(a), processor::Doubles(b), processor::Doubles(c)));
#endif
#if MTPX_FMA_AT_RUN_TIME
  if (__builtin_cpu_supports("fma")) return detail::fma_of_processor(a, b, c);
#endif
#ifdef MTPX_EXACT_FMA
  return detail::fma_in_software(a, b, c);
#else
  return a * b + c;
#endif
#endif
}

/// a * b, rounded: what is added to it later is not drawn into this rounding.
template <typename V>
MTPX_ANYWHERE V product(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) return __fmul_rn(a, b);
  if constexpr (std::is_same_v<V, double>) return __dmul_rn(a, b);
#elif defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#ifdef __x86_64__
  if constexpr (!std::is_arithmetic_v<V>) {  // its own barrier takes g++ a dozen instructions a register
    V kept = a * b;
    __asm__("" : "+v"(kept));
    return kept;
  }
#endif
  return __builtin_assoc_barrier(a * b);
#endif
  const V rounded = a * b;  // clang contracts within one expression only
  return rounded;
}

namespace detail {

/// Whole numbers I, or vectors of as many of them as V has elements.
template <typename V, typename I>
struct Whole {
#ifndef __CUDACC__  // which has no vectors
  typedef I type __attribute__((vector_size(sizeof(V))));
#endif
};
template <typename I>
struct Whole<float, I> {
  using type = I;
};
template <typename I>
struct Whole<double, I> {
  using type = I;
};
template <typename V>
inline constexpr bool of_floats = std::is_same_v<Element<V>, float>;

}  // namespace detail

/// V's bits as whole numbers with a sign.
template <typename V>
using Ints =
    typename detail::Whole<V, std::conditional_t<detail::of_floats<V>, std::int32_t, std::int64_t>>::type;
/// V's bits as whole numbers without a sign.
template <typename V>
using Words =
    typename detail::Whole<V, std::conditional_t<detail::of_floats<V>, std::uint32_t, std::uint64_t>>::type;

/// Small whole numbers as V, to nearest, ties to even.
template <typename V>
MTPX_ANYWHERE V real(Ints<V> n) {
#ifndef __CUDACC__
  if constexpr (!std::is_arithmetic_v<V>)
    return __builtin_convertvector(n, V);
  else
#endif
    return static_cast<V>(n);
}

namespace detail {

/// ln_2 has so few bits that its products with whole numbers are not rounded; ln_2_rest is what it lacks.
template <typename A>
struct Exponential;
template <>
struct Exponential<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23, order = 7;  // of the polynomial: its error is below 2^-27
  static constexpr float lowest = -0x1.5d589ep+6F, highest = 0x1.62e42ep+6F;  // e^x normal and finite
  static constexpr float log2_e = 0x1.715476p+0F, ln_2 = 0x1.62e4p-1F, ln_2_rest = 0x1.7f7d1cp-20F;
};
template <>
struct Exponential<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52, order = 13;  // 2^-57
  static constexpr double lowest = -0x1.6232bdd7abcd2p+9, highest = 0x1.62e42fefa39efp+9;
  static constexpr double log2_e = 0x1.71547652b82fep+0, ln_2 = 0x1.62e42fefa2p-1,
                          ln_2_rest = 0x1.9ef35793c7673p-41;
};

/// p * 2^n for t = n + 1.5 * 2^mantissa, whose lowest bits are those of n.
template <typename V>
MTPX_ANYWHERE V scale_by_power(V p, V t) {
  using E = Exponential<Element<V>>;
  using Word = typename E::Bits;
#ifndef __CUDACC__  // which has no vectors
  if constexpr (!std::is_arithmetic_v<V>) {
    typedef Word Words __attribute__((vector_size(sizeof(V))));
    return (V)((Words)p + ((Words)t << E::mantissa));
  } else
#endif
    return std::bit_cast<V>(
        static_cast<Word>(std::bit_cast<Word>(p) + (std::bit_cast<Word>(t) << E::mantissa)));
}

}  // namespace detail

namespace detail {

/// x = n ln 2 + r, |r| <= ln 2 / 2, and e^r = 1 + r s.
template <typename V>
struct Reduced {
  V shifted, r, s;  // shifted: n + 1.5 * 2^mantissa, whose lowest bits are those of n

  MTPX_ANYWHERE explicit Reduced(V x) {
    using A = Element<V>;
    using E = Exponential<A>;
    const V shift = all<V>(static_cast<A>(std::int64_t{3} << (E::mantissa - 1)));
    shifted = fma(x, all<V>(E::log2_e), shift);
    const V n = shifted - shift;
    r = fma(n, all<V>(-E::ln_2_rest), fma(n, all<V>(-E::ln_2), x));
    constexpr auto inverse_factorial = [](int k) {
      double f = 1;
      for (int i = 2; i <= k; ++i) f *= i;
      return static_cast<A>(1 / f);
    };
    s = all<V>(inverse_factorial(E::order));
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 16
#endif
    for (int k = E::order - 1; k >= 1; --k) s = fma(s, r, all<V>(inverse_factorial(k)));
  }
};

}  // namespace detail

/// e^x within 1.2 units in the last place, 0.92 with fused multiply-add; 0 where it would not be a normal
/// number. x = n ln 2 + r, |r| <= ln 2 / 2:  e^x = 2^n (1 + r + r^2 / 2! + ...)
template <typename V>
MTPX_ANYWHERE V exp(V x) {
  using A = Element<V>;
  using E = detail::Exponential<A>;
  const detail::Reduced<V> reduced(x);
  V p = fma(reduced.s, reduced.r, all<V>(A(1)));
  p = detail::scale_by_power(p, reduced.shifted);
  p = x < all<V>(E::lowest) ? all<V>(A(0)) : p;
  p = x > all<V>(E::highest) ? all<V>(std::numeric_limits<A>::infinity()) : p;
  return x == x ? p : x;
}

namespace detail {

template <typename A>
struct Logarithm;
template <>
struct Logarithm<float> {
  static constexpr int last = 9;                            // power of s: what follows is below 2^-28
  static constexpr std::int32_t root_of_half = 0x3f3504f4;  // bits of the first number above sqrt(1/2)
};
template <>
struct Logarithm<double> {
  static constexpr int last = 23;  // 2^-65
  static constexpr std::int64_t root_of_half = 0x3fe6a09e667f3bce;
};

/// 2 (s + s^3 / 3 + s^5 / 5 + ..) = ln((1 + s) / (1 - s)) for |s| <= 3 - 2 sqrt(2).
template <typename V>
MTPX_ANYWHERE V log_of_ratio(V s) {
  using A = Element<V>;
  using L = Logarithm<A>;
  const V z = product(s, s), twice = s + s;
  V p = all<V>(A(1.0 / L::last));
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 16
#endif
  for (int k = L::last - 2; k >= 3; k -= 2) p = fma(p, z, all<V>(static_cast<A>(1.0 / k)));
  return fma(product(twice, z), p, twice);
}

}  // namespace detail

/// ln x of positive normal numbers, within two units in the last place.
/// x = 2^n m, sqrt(1/2) < m <= sqrt(2):  ln x = n ln 2 + ln m,  m = (1 + s) / (1 - s)
template <typename V>
MTPX_ANYWHERE V log_of_normal(V x) {
  using A = Element<V>;
  using E = detail::Exponential<A>;
  using L = detail::Logarithm<A>;
  const auto bits = std::bit_cast<Ints<V>>(x);
  const auto n = (bits - L::root_of_half) >> E::mantissa;
  const V m = std::bit_cast<V>(bits - (n << E::mantissa));
  const V of_m = detail::log_of_ratio((m - all<V>(1)) / (m + all<V>(1))), power = real<V>(n);
  return fma(power, all<V>(E::ln_2), fma(power, all<V>(E::ln_2_rest), of_m));
}

/// ln x of one number. 0: -inf; below 0: NaN.
MTPX_ANYWHERE double log(double x) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (!(x > 0 && x < infinity)) {
    return x == 0 ? -infinity : x > 0 ? x : std::numeric_limits<double>::quiet_NaN();
  }
  return log_of_normal(x);
}
/// The same of a float, through double.
MTPX_ANYWHERE float log(float x) { return static_cast<float>(log(static_cast<double>(x))); }

/// 1 / (1 + e^-x)
template <typename V>
MTPX_ANYWHERE V sigmoid(V x) {
  const V one = all<V>(1);
  return one / (one + exp(-x));
}

/// SwiGLU's activation (Shazeer 2020, arXiv 2002.05202): silu(g) = g s with s = sigmoid(g), and its
/// derivative s (1 + g (1 - s)).
template <typename V>
struct Silu {
  V value, slope;  ///< silu(g), and its derivative

  MTPX_ANYWHERE explicit Silu(V g) : Silu(g, sigmoid(g)) {}
  MTPX_ANYWHERE Silu(V g, V s) {
    const V one = all<V>(1);
    value = product(g, s);
    slope = product(s, fma(g, one - s, one));
  }
};

/// (even, odd) rotated by an angle (RoPE: Su et al. 2021, arXiv 2104.09864, Eq. 13):  (even cos - odd sin,
/// even sin + odd cos)
template <typename V>
struct Rotated {
  V even, odd;  ///< the pair, rotated

  MTPX_ANYWHERE Rotated(V x_even, V x_odd, V cos, V sin)
      : even(fma(x_even, cos, -product(x_odd, sin))), odd(fma(x_even, sin, product(x_odd, cos))) {}
};

/// What all numbers of a parameter share in an AdamW step (Loshchilov & Hutter 2019, arXiv 1711.05101,
/// algorithm 2): rate = lr / bias1, root = 1 / sqrt(bias2), keep = 1 - lr weight_decay; clip scales the
/// gradient.
template <typename A>
struct AdamW {
  A b1, b2, rate, root, eps, keep, clip;  ///< b1, b2: the betas; the others as above

  /// g = clip grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
  /// p = keep p - rate m / (root sqrt(v) + eps).   sqrt: correctly rounded
  template <typename V, typename Sqrt>
  MTPX_ANYWHERE void step(V grad, V& m, V& v, V& p, const Sqrt& sqrt) const {
    const V g = product(all<V>(clip), grad);
    m = fma(all<V>(b1), m, product(all<V>(A(1) - b1), g));
    v = fma(all<V>(b2), v, product(product(all<V>(A(1) - b2), g), g));
    const V below = fma(sqrt(v), all<V>(root), all<V>(eps));
    p = fma(all<V>(keep), p, -(product(all<V>(rate), m) / below));
  }
};

}  // namespace mtpx::exact
