#pragma once
// Functions of two numbers, element by element, and operators for them.
//
// Operands have the same shape, or one of them repeats what it has:
//   a row [D]             beside [..., D], for every row
//   a column [..., 1]     beside [..., D], for every column
//   one number [1]        beside anything
// A row and a column make [..., D], too. Rows may be strided, the result is dense. The gradient of what is
// repeated is the sum over its places. Either may be a Weight.
//
// C++ leaves open which side of an operator runs first, and with it the order of the tape: give a name to one
// of two sides that both record (docs/ops.md).

#include <mtpx/ops/functions.hpp>

#include <algorithm>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {
/// The shape of an op of two operands, and how they stand beside it.
struct Paired {
  Shape shape;
  PairShape s;

  Paired(std::string_view op, const auto& a, const auto& b, const Tape& tape) {
    const Shape &of_a = a.shape(), &of_b = b.shape();
    const bool front_is_b = of_a.rows() == 1 && (of_b.rows() != 1 || of_b.rank() > of_a.rank());
    shape = (front_is_b ? of_b : of_a).with_width(of_a.width() == 1 ? of_b.width() : of_a.width());
    const auto fits = [&](const Shape& x) {
      return (x.width() == shape.width() || x.width() == 1) &&
             (x.rows() == 1 ? x.rank() <= shape.rank() : x.with_width(1) == shape.with_width(1));
    };
    require(fits(of_a) && fits(of_b), op,
            "a and b need the same shape, or one is a row [D], a column [..., 1] or one number",
            {{"a", a}, {"b", b}}, tape);
    const auto steps = [&](const Shape& x, Index stride) {
      return Steps{x.rows() == 1 ? 0 : stride, x.width() == 1 && shape.width() != 1 ? 0 : 1};
    };
    s = {shape.rows(), shape.width(), steps(of_a, a.rows().stride), steps(of_b, b.rows().stride),
         shape.rows()};
  }
};

/// y = f(a, b).   Saves a where b's gradient needs it, and b where a's does.
template <typename T, typename D, typename GA, typename GB>
Var<T, D> apply(std::string_view op, Binary f, const Var<T, D, GA>& a, const Var<T, D, GB>& b,
                const Tensor<std::int32_t, D>& mask = {}) {
  Tape& tape = tape_of(op, a, b);
  Paired paired(op, a, b, tape);
  PairShape& s = paired.s;
  if (mask.defined()) {
    require(mask.contiguous() && mask.shape().width() == s.width && s.rows % mask.shape().rows() == 0, op,
            "the mask is dense and has the last axes of the result", {{"mask", mask}, {"y", paired.shape}},
            tape);
    s.mask_rows = mask.shape().rows();
  }
  Tensor<T, D> y(a.device(), paired.shape);
  binary_forward(y.device(), f, s, mask.data_or_null(), a.data(), b.data(), y.data());
  const bool product = f == Binary::mul, quotient = f == Binary::div;
  const bool needs_a = (product || quotient) && b.wants_grad();
  const bool needs_b = quotient || (product && a.wants_grad());
  return tape.record(
      op, y,
      [f, s, mask, of_a = needs_a ? a.value() : Tensor<T, D>(), of_b = needs_b ? b.value() : Tensor<T, D>(),
       da = a.destination(), db = b.destination()](const Tensor<T, D>& dy) {
        const auto put = [&](bool is_b, const auto& sink) {
          binary_backward(dy.device(), f, is_b, s, mask.data_or_null(), of_a.data_or_null(),
                          of_b.data_or_null(), dy.data(), sink);
        };
        put(false, da.sink());
        if constexpr (std::is_same_v<T, GB>) {  // the last to read dy may keep it
          if (f == Binary::add && db.shape() == dy.shape() && db.take_over(dy)) return;
        }
        put(true, db.sink());
      });
}
}  // namespace detail

/// y = a + b
///
/// a, b: see above   Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> add(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return detail::apply("add", Binary::add, a, b);
}

/// y = a - b
///
/// a, b: see above   Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> sub(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return detail::apply("sub", Binary::sub, a, b);
}

/// y = a b, element by element (matmul() is the product of matrices)
///
/// a, b: see above   Saves for backward: a and b, each where the other's gradient is wanted.
/// Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> mul(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return detail::apply("mul", Binary::mul, a, b);
}

/// y = a / b
///
/// a, b: see above   Saves for backward: b, and a where b's gradient is wanted.   Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> div(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return detail::apply("div", Binary::div, a, b);
}

/// y = a where the mask is not 0, else b
///
/// mask: dense, the last axes of y: for a mask [T, T] beside [B, T, T], the same for each of the B
/// a, b: see above   Saves for backward: the mask.   Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> where(const Tensor<std::int32_t, D>& mask, const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return detail::apply("where", Binary::select, a, b, mask);
}
/// The same with a number for b.
template <typename T, typename D, typename GA = T>
Var<T, D> where(const Tensor<std::int32_t, D>& mask, const Var<T, D, GA>& a, double b) {
  Tensor<T, D> number(a.device(), {1});
  fill_value(a.device(), 1, static_cast<T>(static_cast<acc_t<T>>(b)), number.data());
  return where(mask, a, Var<T, D>(number));
}

/// y_r = x_r + b
///
/// x: [..., D]   b: [D]   Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> bias(const Var<T, D>& x, const Weight<T, D>& b) {
  require(b.shape() == Shape{x.shape().width()}, "bias", "b needs one number per column of x",
          {{"x", x}, {"b", b}}, tape_of("bias", x, b));
  return detail::apply("bias", Binary::add, x, b);
}

/// See add().
template <typename T, typename D, typename GA, typename GB>
Var<T, D> operator+(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return add(a, b);
}
/// See sub().
template <typename T, typename D, typename GA, typename GB>
Var<T, D> operator-(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return sub(a, b);
}
/// See mul().
template <typename T, typename D, typename GA, typename GB>
Var<T, D> operator*(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return mul(a, b);
}
/// See div().
template <typename T, typename D, typename GA, typename GB>
Var<T, D> operator/(const Var<T, D, GA>& a, const Var<T, D, GB>& b) {
  return div(a, b);
}

/// See neg().
template <typename T, typename D>
Var<T, D> operator-(const Var<T, D>& x) {
  return neg(x);
}
/// See shift().
template <typename T, typename D>
Var<T, D> operator+(const Var<T, D>& x, double number) {
  return shift(x, number);
}
/// See shift().
template <typename T, typename D>
Var<T, D> operator+(double number, const Var<T, D>& x) {
  return shift(x, number);
}
/// See shift(), by -number.
template <typename T, typename D>
Var<T, D> operator-(const Var<T, D>& x, double number) {
  return shift(x, -number);
}
/// y = number - x   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> operator-(double number, const Var<T, D>& x) {
  return detail::apply("sub", Unary::affine, x, acc_t<T>(-1), static_cast<acc_t<T>>(number));
}
/// See scale().
template <typename T, typename D>
Var<T, D> operator*(const Var<T, D>& x, double number) {
  return scale(x, number);
}
/// See scale().
template <typename T, typename D>
Var<T, D> operator*(double number, const Var<T, D>& x) {
  return scale(x, number);
}
/// x times 1 / number
template <typename T, typename D>
Var<T, D> operator/(const Var<T, D>& x, double number) {
  return scale(x, 1 / number);
}
/// See inverse().
template <typename T, typename D>
Var<T, D> operator/(double number, const Var<T, D>& x) {
  return inverse(x, number);
}

/// A weighted sum of losses, each one number.
///
///   y = sum_i weight_i x_i,  in the order given
///
/// Saves for backward: nothing.   Throws ShapeError.
template <typename A, typename D>
Var<A, D> weighted_sum(const std::vector<Var<A, D>>& x, const std::vector<A>& weights) {
  require(
      !x.empty() && x.size() == weights.size(), "weighted_sum", "as many weights as losses, at least one",
      {{"x", Shape{static_cast<Index>(x.size())}}, {"weights", Shape{static_cast<Index>(weights.size())}}});
  Tape& tape = tape_of("weighted_sum", x.front());
  Tensor<A, D> y(x.front().device(), {1});
  std::vector<Destination<A, D>> wanted;
  for (std::size_t i = 0; i < x.size(); ++i) {
    tape_of("weighted_sum", x.front(), x[i]);
    require(x[i].shape().size() == 1, "weighted_sum", "every loss is one number", {{"x", x[i]}}, tape);
    scale_into(y.device(), 1, weights[i], x[i].data(), Sink<A>{y.data(), i > 0});
    wanted.push_back(x[i].destination());
  }
  return tape.record("weighted_sum", y, [wanted = std::move(wanted), weights](const Tensor<A, D>& dy) {
    for (std::size_t i = 0; i < wanted.size(); ++i)
      scale_into(dy.device(), 1, weights[i], dy.data(), wanted[i].sink());
  });
}

}  // namespace mtpx
