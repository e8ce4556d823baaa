#pragma once
// The functions of one number and of two that element-wise ops are made of, with their derivatives, by the
// rules of formulas.hpp. Which function it is is an argument: a kernel's loop exists once for all of them,
// and asking costs little beside moving the numbers.

#include "formulas.hpp"

namespace mtpx {

/// y = f(x)
enum class Unary {
  affine,     ///< alpha x + beta
  inverse,    ///< alpha / x
  exp,        ///< e^x
  log,        ///< ln x
  sqrt,       ///< the square root, rounded correctly
  tanh,       ///< the hyperbolic tangent
  sigmoid,    ///< 1 / (1 + e^-x)
  relu,       ///< max(x, 0)
  gelu,       ///< x P(N <= x), N standard normal
  gelu_tanh,  ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  silu,       ///< x / (1 + e^-x)
};

/// y = f(a, b)
enum class Binary { add, sub, mul, div, select };  ///< select: a where the mask is not 0, else b

/// What the derivative is made from: y rather than x.
constexpr bool derived_from_value(Unary f) {
  return f == Unary::exp || f == Unary::sqrt || f == Unary::tanh || f == Unary::sigmoid || f == Unary::relu;
}

namespace exact {

/// ln x within two units in the last place. 0: -inf; below 0: NaN.
template <typename V>
MTPX_ANYWHERE V logarithm(V x) {
  using A = Element<V>;
  constexpr A infinity = std::numeric_limits<A>::infinity();
  constexpr int raised = detail::Exponential<A>::mantissa + 1;  // powers of 2 that make any number normal
  constexpr A power = static_cast<A>(std::uint64_t{1} << raised);
  constexpr A ln_power = static_cast<A>(raised * 0.69314718055994530942);
  const V zero = all<V>(A(0)), least = all<V>(std::numeric_limits<A>::min());
  const V positive = x > zero ? x : all<V>(A(1));
  const V normal = positive < least ? positive * all<V>(power) : positive;
  V y = log_of_normal(normal);
  y = positive < least ? y - all<V>(ln_power) : y;
  y = x > zero ? y : all<V>(std::numeric_limits<A>::quiet_NaN());
  y = x == zero ? all<V>(-infinity) : y;
  return x == all<V>(infinity) ? x : y;
}

/// tanh x = e / (e + 2) with e = e^2|x| - 1, as exact for small x as for large ones.
template <typename V>
MTPX_ANYWHERE V tanh(V x) {
  using A = Element<V>;
  const V zero = all<V>(A(0)), one = all<V>(A(1));
  V twice = x < zero ? -(x + x) : x + x;
  twice = twice > all<V>(A(44)) ? all<V>(A(44)) : twice;  // 1 from there on
  const detail::Reduced<V> reduced(twice);
  const V power = detail::scale_by_power(one, reduced.shifted);
  const V e = fma(power, product(reduced.r, reduced.s), power - one);
  const V y = e / (e + all<V>(A(2)));
  return x == x ? (x < zero ? -y : y) : x;
}

/// x P(N <= x), N standard normal (GELU: Hendrycks & Gimpel 2016, arXiv 1606.08415, with the exact erf), and
/// its derivative P(N <= x) + x e^(-x^2 / 2) / sqrt(2 pi).
///
/// P(N > a) = e^(-a^2 / 2) t p(2 t - 1), t = 4 / (4 + a), for a >= 0: p is the Chebyshev interpolant, good to
/// 3e-9 for float, 1e-16 for double. So the tail keeps its digits.
template <typename V>
struct Gelu {
  V value, slope;  ///< the function, and its derivative

  MTPX_ANYWHERE explicit Gelu(V x) {
    using A = Element<V>;
    const V zero = all<V>(A(0)), one = all<V>(A(1));
    const V a = x < zero ? -x : x;
    const V bell = exp(-product(a * all<V>(A(0.5)), a));
    const V t = all<V>(A(4)) / (all<V>(A(4)) + a), u = t + t - one;
    const V tail = product(product(bell, t), ratio(u));
    const V below = x < zero ? tail : one - tail;
    value = product(x, below);
    slope = fma(x, product(bell, all<V>(A(0.39894228040143267794))), below);
  }

 private:
  static MTPX_ANYWHERE V ratio(V u) {
    using A = Element<V>;
    if constexpr (std::is_same_v<A, float>) {
      constexpr A c[] = {-5.494760854e-6F, -4.314980731e-7F, 5.444276641e-5F, 3.341010656e-5F,
                         -4.060619093e-4F, -8.699857565e-4F, 1.884672195e-3F, 1.5099161e-2F,
                         4.663049623e-2F,  9.67843486e-2F,   1.519741601e-1F, 1.888212826e-1F};
      return polynomial<12>(c, u);
    } else {
      constexpr A c[] = {
          -4.434351260987277e-10, 3.211454717481317e-10,  4.1340111938766006e-09, -4.9020847852348786e-09,
          -1.997462688140565e-08, 4.0579794201183914e-08, 6.655819747208905e-08,  -2.5677372017785853e-07,
          -1.5655171917399e-07,   1.4807449569186901e-06, 1.7881843773272038e-07, -8.786411146455962e-06,
          -4.769768720984189e-07, 5.777378769692185e-05,  3.3336064725932094e-05, -4.077046219705911e-04,
          -8.699230907225889e-04, 1.8850472422843282e-03, 1.50991437226906e-02,   4.66304644898918e-02,
          9.678435018555413e-02,  1.5197416049297327e-01, 1.8882128260393788e-01};
      return polynomial<23>(c, u);
    }
  }
  template <int count>
  static MTPX_ANYWHERE V polynomial(const Element<V> (&c)[count], V u) {
    V p = all<V>(c[0]);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 32
#endif
    for (int k = 1; k < count; ++k) p = fma(p, u, all<V>(c[k]));
    return p;
  }
};

/// GELU by its approximation (the same paper, sec. 2): x / 2 (1 + tanh(k (x + c x^3))), k = sqrt(2 / pi), c =
/// 0.044715, and its derivative.
template <typename V>
struct GeluTanh {
  V value, slope;  ///< the function, and its derivative

  MTPX_ANYWHERE explicit GeluTanh(V x) {
    using A = Element<V>;
    constexpr A k = static_cast<A>(0.79788456080286535588),
                kc = static_cast<A>(0.044715 * 0.79788456080286535588);
    const V one = all<V>(A(1)), most = all<V>(A(1e4)), half = x * all<V>(A(0.5));
    const V square = product(x, x), z = square > most ? most : square;  // beyond it tanh is 1
    const V t = tanh(product(x, fma(all<V>(kc), z, all<V>(k))));
    value = product(half, one + t);
    const V inner = fma(all<V>(3 * kc), z, all<V>(k));
    slope = fma(product(half, fma(-t, t, one)), inner, (one + t) * all<V>(A(0.5)));
  }
};

/// f(x).   sqrt: correctly rounded
template <typename V, typename Sqrt>
MTPX_ANYWHERE V value(Unary f, V x, Element<V> alpha, Element<V> beta, const Sqrt& sqrt) {
  switch (f) {
    case Unary::affine:
      return fma(all<V>(alpha), x, all<V>(beta));
    case Unary::inverse:
      return all<V>(alpha) / x;
    case Unary::exp:
      return exp(x);
    case Unary::log:
      return logarithm(x);
    case Unary::sqrt:
      return sqrt(x);
    case Unary::tanh:
      return tanh(x);
    case Unary::sigmoid:
      return sigmoid(x);
    case Unary::relu:
      return x < all<V>(0) ? all<V>(0) : x;
    case Unary::gelu:
      return Gelu<V>(x).value;
    case Unary::gelu_tanh:
      return GeluTanh<V>(x).value;
    case Unary::silu:
      return Silu<V>(x).value;
  }
  return x;
}

/// dy f'(x), from y where derived_from_value(f), else from x.
template <typename V>
MTPX_ANYWHERE V gradient(Unary f, V from, V dy, Element<V> alpha) {
  const V one = all<V>(1);
  switch (f) {
    case Unary::affine:
      return product(all<V>(alpha), dy);
    case Unary::inverse:
      return -(product(all<V>(alpha) / from, dy) / from);
    case Unary::exp:
      return product(dy, from);
    case Unary::log:
      return dy / from;
    case Unary::sqrt:
      return dy / (from + from);
    case Unary::tanh:
      return product(dy, fma(-from, from, one));
    case Unary::sigmoid:
      return product(dy * from, one - from);
    case Unary::relu:
      return from > all<V>(0) ? dy : all<V>(0);
    case Unary::gelu:
      return product(dy, Gelu<V>(from).slope);
    case Unary::gelu_tanh:
      return product(dy, GeluTanh<V>(from).slope);
    case Unary::silu:
      return product(dy, Silu<V>(from).slope);
  }
  return dy;
}

/// f(a, b).   mask: for Binary::select
template <typename V>
MTPX_ANYWHERE V value(Binary f, V a, V b, V mask) {
  switch (f) {
    case Binary::add:
      return a + b;
    case Binary::sub:
      return a - b;
    case Binary::mul:
      return product(a, b);
    case Binary::div:
      return a / b;
    case Binary::select:
      return mask == all<V>(0) ? b : a;
  }
  return a;
}

/// dy df / da, or dy df / db.
template <typename V>
MTPX_ANYWHERE V gradient(Binary f, bool of_b, V a, V b, V mask, V dy) {
  const V zero = all<V>(0);
  switch (f) {
    case Binary::add:
      return dy;
    case Binary::sub:
      return of_b ? -dy : dy;
    case Binary::mul:
      return product(dy, of_b ? a : b);
    case Binary::div:
      return of_b ? -(product(dy, a / b) / b) : dy / b;
    case Binary::select:
      return of_b ? (mask == zero ? dy : zero) : (mask == zero ? zero : dy);
  }
  return dy;
}

}  // namespace exact

}  // namespace mtpx
