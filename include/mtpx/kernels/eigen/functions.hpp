#pragma once

#include <mtpx/core/rng.hpp>

#include "../functions.hpp"
#include "views.hpp"

namespace mtpx {

namespace eigen {

/// f(x) and f'(x).
template <typename T>
std::pair<T, T> function(Unary f, T x, T alpha, T beta) {
  const T pi = std::acos(T(-1)), s = 1 / (1 + std::exp(-x));
  switch (f) {
    case Unary::affine:
      return {alpha * x + beta, alpha};
    case Unary::inverse:
      return {alpha / x, -alpha / (x * x)};
    case Unary::exp:
      return {std::exp(x), std::exp(x)};
    case Unary::log:
      return {std::log(x), 1 / x};
    case Unary::sqrt:
      return {std::sqrt(x), 1 / (2 * std::sqrt(x))};
    case Unary::tanh:
      return {std::tanh(x), 1 - std::tanh(x) * std::tanh(x)};
    case Unary::sigmoid:
      return {s, s * (1 - s)};
    case Unary::relu:
      return {std::max(x, T(0)), T(x > 0)};
    case Unary::gelu: {
      const T below = std::erfc(-x / std::sqrt(T(2))) / 2;
      return {x * below, below + x * std::exp(-x * x / 2) / std::sqrt(2 * pi)};
    }
    case Unary::gelu_tanh: {
      const T k = std::sqrt(2 / pi), c = T(0.044715), t = std::tanh(k * (x + c * x * x * x));
      return {x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t * t) * k * (1 + 3 * c * x * x)};
    }
    case Unary::silu:
      return {x * s, s * (1 + x * (1 - s))};
  }
  return {};
}

/// f'(x) from y = f(x).
template <typename T>
T slope_from_value(Unary f, T y) {
  switch (f) {
    case Unary::exp:
      return y;
    case Unary::sqrt:
      return 1 / (2 * y);
    case Unary::tanh:
      return 1 - y * y;
    case Unary::sigmoid:
      return y * (1 - y);
    default:
      return T(y > 0);
  }
}

/// f(a, b), df / da, df / db.
template <typename T>
std::array<T, 3> function(Binary f, T a, T b, bool first) {
  switch (f) {
    case Binary::add:
      return {a + b, 1, 1};
    case Binary::sub:
      return {a - b, 1, -1};
    case Binary::mul:
      return {a * b, b, a};
    case Binary::div:
      return {a / b, 1 / b, -a / (b * b)};
    case Binary::select:
      return {first ? a : b, T(first), T(!first)};
  }
  return {};
}

/// body(r, c, f(a_rc, b_rc) and its derivatives) for every number of the result. What is null is not needed.
template <typename T, typename Body>
void for_pairs(Binary f, const PairShape& s, const std::int32_t* mask, const T* a, const T* b,
               const Body& body) {
  for (Index r = 0; r < s.rows; ++r) {
    for (Index c = 0; c < s.width; ++c) {
      const auto of = [&](const T* x, Steps at) {
        return x == nullptr ? T(0) : x[r * at.row + c * at.column];
      };
      const bool first = mask != nullptr && mask[r % s.mask_rows * s.width + c] != 0;
      body(r, c, function(f, of(a, s.a), of(b, s.b), first));
    }
  }
}

}  // namespace eigen

/// y = f(x)
template <typename T>
void unary_forward(const Reference&, Unary f, T alpha, T beta, Rows rows, const T* x, T* y) {
  eigen::matrix(y, rows.count, rows.width) =
      as_matrix(x, rows).unaryExpr([&](T v) { return eigen::function(f, v, alpha, beta).first; });
}

/// dx = dy f'
template <typename T>
void unary_backward(const Reference&, Unary f, T alpha, Rows rows, const T* from, const T* dy, Sink<T> dx) {
  const eigen::Array<T> slope = as_matrix(from, rows).unaryExpr([&](T v) {
    return derived_from_value(f) ? eigen::slope_from_value(f, v) : eigen::function(f, v, alpha, T(0)).second;
  });
  eigen::put(dx, eigen::array(dy, rows.count, rows.width) * slope);
}

/// y = f(a, b)
template <typename T>
void binary_forward(const Reference&, Binary f, PairShape s, const std::int32_t* mask, const T* a, const T* b,
                    T* y) {
  auto Y = eigen::matrix(y, s.rows, s.width);
  eigen::for_pairs(f, s, mask, a, b, [&](Index r, Index c, const auto& pair) { Y(r, c) = pair[0]; });
}

/// da = dy df / da (or db), summed over all places where the operand was repeated.
template <typename T, typename G>
void binary_backward(const Reference&, Binary f, bool of_b, PairShape s, const std::int32_t* mask, const T* a,
                     const T* b, const T* dy, Sink<G> d) {
  const Summed summed(s.rows, s.width, of_b ? s.b : s.a);
  const auto dY = eigen::matrix(dy, s.rows, s.width);
  eigen::Matrix<T> dA(s.rows, s.width);
  eigen::for_pairs(f, s, mask, a, b,
                   [&](Index r, Index c, const auto& pair) { dA(r, c) = dY(r, c) * pair[of_b ? 2 : 1]; });
  if (summed.columns) dA = dA.rowwise().sum().eval();
  if (summed.rows) dA = dA.colwise().sum().eval();
  eigen::put(d, dA);
}

/// y_i = x_i / (1 - rate) where the i-th random word is at least rate 2^32, else 0.
template <typename T>
void drop_numbers(const Reference&, Rows rows, std::uint64_t seed, std::uint64_t stream, double rate,
                  const T* x, Sink<T> y) {
  eigen::Matrix<T> Y = as_matrix(x, rows) / T(1 - rate);
  for (Index i = 0; i < Y.size(); ++i) {
    const auto words = Philox::block(seed, stream, static_cast<std::uint64_t>(i / 4));
    if (words[static_cast<std::size_t>(i % 4)] < static_cast<std::uint64_t>(rate * 0x1p32)) Y.data()[i] = 0;
  }
  eigen::put(y, Y);
}

}  // namespace mtpx
