#pragma once
// Functions of one number, element by element. x may be strided, the result is dense and of its shape. A
// weight in bf16, whose gradient is in float, goes through cast<float>() first.

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

namespace detail {
/// y = f(x), f of kernels/functions.hpp. Saves x, or y where the derivative comes from it, or
/// nothing where it is a constant.
template <typename T, typename D>
Var<T, D> apply(std::string_view op, Unary f, const Var<T, D>& x, acc_t<T> alpha = 1, acc_t<T> beta = 0) {
  Tape& tape = tape_of(op, x);
  Tensor<T, D> y(x.device(), x.shape());
  unary_forward(y.device(), f, alpha, beta, x.rows(), x.data(), y.data());
  const Tensor<T, D> from = f == Unary::affine ? Tensor<T, D>() : derived_from_value(f) ? y : x.value();
  return tape.record(op, y, [f, alpha, from, dx = x.destination()](const Tensor<T, D>& dy) {
    if (f == Unary::affine && alpha == acc_t<T>(1) && dx.take_over(dy)) return;
    const Tensor<T, D>& of = from.defined() ? from : dy;
    unary_backward(dy.device(), f, alpha, of.rows(), of.data(), dy.data(), dx.sink());
  });
}
}  // namespace detail

/// y = alpha x
///
/// returns the shape of x   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> scale(const Var<T, D>& x, double alpha) {
  return detail::apply("scale", Unary::affine, x, static_cast<acc_t<T>>(alpha), acc_t<T>(-0.0F));
}

/// y = x + beta
///
/// returns the shape of x   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> shift(const Var<T, D>& x, double beta) {
  return detail::apply("shift", Unary::affine, x, acc_t<T>(1), static_cast<acc_t<T>>(beta));
}

/// y = -x
///
/// returns the shape of x   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> neg(const Var<T, D>& x) {
  return detail::apply("neg", Unary::affine, x, acc_t<T>(-1), acc_t<T>(-0.0F));
}

/// y = alpha / x
///
/// returns the shape of x   Saves for backward: x.
template <typename T, typename D>
Var<T, D> inverse(const Var<T, D>& x, double alpha = 1) {
  return detail::apply("inverse", Unary::inverse, x, static_cast<acc_t<T>>(alpha));
}

/// y = e^x
///
/// returns the shape of x   Saves for backward: y.
template <typename T, typename D>
Var<T, D> exp(const Var<T, D>& x) {
  return detail::apply("exp", Unary::exp, x);
}

/// y = ln x.   0: -inf; below 0: NaN.
///
/// returns the shape of x   Saves for backward: x.
template <typename T, typename D>
Var<T, D> log(const Var<T, D>& x) {
  return detail::apply("log", Unary::log, x);
}

/// y = the square root of x.   Below 0: NaN. The gradient at 0 is infinite.
///
/// returns the shape of x   Saves for backward: y.
template <typename T, typename D>
Var<T, D> sqrt(const Var<T, D>& x) {
  return detail::apply("sqrt", Unary::sqrt, x);
}

/// y = tanh x
///
/// returns the shape of x   Saves for backward: y.
template <typename T, typename D>
Var<T, D> tanh(const Var<T, D>& x) {
  return detail::apply("tanh", Unary::tanh, x);
}

/// y = 1 / (1 + e^-x): also the affinities of the router (DeepSeek-V3 Eq. 15).
///
/// returns the shape of x   Saves for backward: y.
template <typename T, typename D>
Var<T, D> sigmoid(const Var<T, D>& x) {
  return detail::apply("sigmoid", Unary::sigmoid, x);
}

/// y = max(x, 0).   The gradient at 0 is 0.
///
/// returns the shape of x   Saves for backward: y.
template <typename T, typename D>
Var<T, D> relu(const Var<T, D>& x) {
  return detail::apply("relu", Unary::relu, x);
}

/// The Gaussian error linear unit (Hendrycks & Gimpel 2016, arXiv 1606.08415, sec. 2), with the exact error
/// function.
///
///   y = x P(N <= x) = x / 2 (1 + erf(x / sqrt(2))),   N standard normal
///
/// returns the shape of x   Saves for backward: x.
template <typename T, typename D>
Var<T, D> gelu(const Var<T, D>& x) {
  return detail::apply("gelu", Unary::gelu, x);
}

/// Its approximation by tanh (the same section), up to 5e-4 away: another function, which some models are
/// trained with.
///
///   y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
///
/// returns the shape of x   Saves for backward: x.
template <typename T, typename D>
Var<T, D> gelu_tanh(const Var<T, D>& x) {
  return detail::apply("gelu_tanh", Unary::gelu_tanh, x);
}

/// y = x / (1 + e^-x) (Hendrycks & Gimpel 2016; Swish_1 of Shazeer 2020, arXiv 2002.05202)
///
/// returns the shape of x   Saves for backward: x.
template <typename T, typename D>
Var<T, D> silu(const Var<T, D>& x) {
  return detail::apply("silu", Unary::silu, x);
}

}  // namespace mtpx
