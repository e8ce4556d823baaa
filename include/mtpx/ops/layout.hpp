#pragma once
// Ops that move numbers without computing: views, copies, joins. Those of tensors have no gradient.

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// A dense copy of a tensor whose rows may be apart.
template <typename T, typename D>
Tensor<T, D> contiguous(const Tensor<T, D>& x) {
  Tensor<T, D> y(x.device(), x.shape());
  const Rows rows = x.rows();
  copy_rows(x.device(), rows.count, rows.width, x.data(), rows.stride, y.data(), rows.width, false);
  return y;
}

/// The same with a gradient: what an op asks for that wants dense rows. x itself where its rows touch.
///
/// x: any shape   returns the same shape   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> contiguous(const Var<T, D>& x) {
  if (x.value().contiguous()) return x;
  Tape& tape = tape_of("contiguous", x);
  return tape.record("contiguous", contiguous(x.value()), [dx = x.destination()](const Tensor<T, D>& dy) {
    if (dx.take_over(dy)) return;
    if (const Sink<T> sink = dx.sink()) {
      const Rows rows = dy.rows();
      copy_rows(dy.device(), rows.count, rows.width, dy.data(), rows.width, sink.data, rows.width,
                sink.accumulate);
    }
  });
}

/// The same numbers in another type: bf16 in float and back, rounded to nearest. x itself where it is of that
/// type.
///
/// x: any shape, may be strided   returns the same shape   Saves for backward: nothing.
template <typename U, typename T, typename D, typename G>
Var<U, D> cast(const Var<T, D, G>& x) {
  if constexpr (std::is_same_v<T, U> && std::is_same_v<T, G>) {
    return x;
  } else {
    static_assert(std::is_same_v<acc_t<T>, acc_t<U>>, "between bf16 and float");
    Tape& tape = tape_of("cast", x);
    Tensor<U, D> y(x.device(), x.shape());
    const Rows rows = x.rows();
    copy_rows(y.device(), rows.count, rows.width, x.data(), rows.stride, y.data(), rows.width, false);
    return tape.record("cast", y, [dx = x.destination()](const Tensor<U, D>& dy) {
      if (const Sink<G> sink = dx.sink()) {
        const Rows all = dy.rows();
        copy_rows(dy.device(), all.count, all.width, dy.data(), all.width, sink.data, all.width,
                  sink.accumulate);
      }
    });
  }
}

/// y_r = x_r, into memory that is there.   x, y: the same shape, both may be strided   Throws ShapeError.
template <typename T, typename D>
void copy_into(const Tensor<T, D>& x, const Tensor<T, D>& y) {
  require(x.shape() == y.shape(), "copy_into", "x and y need the same shape", {{"x", x}, {"y", y}});
  copy_rows(x.device(), x.rows().count, x.rows().width, x.data(), x.row_stride(), y.data(), y.row_stride(),
            false);
}

/// A tensor of one value.
template <typename A, typename D>
Tensor<A, D> filled(const D& device, const Shape& shape, A value) {
  Tensor<A, D> y(device, shape);
  fill_value(device, y.size(), value, y.data());
  return y;
}

/// Columns [begin, begin + width) of every row: a view, nothing is copied.
///
///   y_rj = x_r,begin+j
///
/// x: [..., W]   returns [..., width], rows as far apart as those of x
/// Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> narrow(const Var<T, D>& x, Index begin, Index width) {
  Tape& tape = tape_of("narrow", x);
  require(
      begin >= 0 && width >= 0 && begin + width <= x.shape().width(), "narrow",
      [&] { return cat("columns ", begin, " to ", begin + width, " must lie inside the rows"); }, {{"x", x}},
      tape);
  return tape.record(
      "narrow", x.value().narrow_last(begin, width), [begin, dx = x.destination()](const Tensor<T, D>& dy) {
        const Sink<T> sink = dx.sink();
        if (!sink) return;
        const Rows rows = dy.rows();
        const Index stride = dx.shape().width();
        if (!sink.accumulate)
          set_zero(dy.device(), sink.data, static_cast<std::size_t>(dx.shape().size()) * sizeof(T));
        copy_rows(dy.device(), rows.count, rows.width, dy.data(), rows.width, sink.data + begin, stride,
                  true);
      });
}

/// Rows of a beside rows of b.
///
///   y_r = [a_r | b_r]
///
/// a: [..., A], b: [..., B], equal but for the last axis, may be strided   returns [..., A + B]
/// Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> concat(const Var<T, D>& a, const Var<T, D>& b) {
  Tape& tape = tape_of("concat", a, b);
  require(a.shape().with_width(1) == b.shape().with_width(1), "concat",
          "a and b may differ in the last axis only", {{"a", a}, {"b", b}}, tape);
  const Rows left = a.rows();
  const Rows right = b.rows();
  const Index width = left.width + right.width;
  Tensor<T, D> y(a.device(), a.shape().with_width(width));
  copy_rows(y.device(), left.count, left.width, a.data(), left.stride, y.data(), width, false);
  copy_rows(y.device(), right.count, right.width, b.data(), right.stride, y.data() + left.width, width,
            false);
  return tape.record("concat", y,
                     [da = a.destination(), db = b.destination(), width](const Tensor<T, D>& dy) {
                       Index begin = 0;
                       for (const auto& d : {da, db}) {
                         const Index part = d.shape().width();
                         if (const Sink<T> sink = d.sink()) {
                           copy_rows(dy.device(), dy.rows().count, part, dy.data() + begin, width, sink.data,
                                     part, sink.accumulate);
                         }
                         begin += part;
                       }
                     });
}

/// The same elements under another shape: a view.
///
/// x: dense   returns `shape`, of as many elements
/// Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> reshape(const Var<T, D>& x, const Shape& shape) {
  Tape& tape = tape_of("reshape", x);
  require(x.value().contiguous() && x.shape().size() == shape.size(), "reshape",
          "x must be dense and keep its number of elements", {{"from", x}, {"to", shape}}, tape);
  return tape.record("reshape", x.value().reshape(shape), [dx = x.destination()](const Tensor<T, D>& dy) {
    if (dx.take_over(dy)) return;
    if (const Sink<T> sink = dx.sink()) {
      const Rows rows = dy.rows();
      copy_rows(dy.device(), rows.count, rows.width, dy.data(), rows.width, sink.data, rows.width,
                sink.accumulate);
    }
  });
}

/// The first `count` positions of every sequence: rows 1 .. T - k of depth k (DeepSeek-V3 Eq. 22).
///
///   y_bt = x_bt,  t < count
///
/// x: [B, T, D] dense   returns [B, count, D] dense, a copy
/// Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> take_front(const Var<T, D>& x, Index count) {
  Tape& tape = tape_of("take_front", x);
  const Shape s = x.shape();
  require(
      s.rank() == 3 && x.value().contiguous() && count >= 0 && count <= s[1], "take_front",
      [&] { return cat("x is dense [B, T, D] with at least ", count, " positions"); }, {{"x", x}}, tape);
  Tensor<T, D> y(x.device(), {s[0], count, s[2]});
  const Index part = count * s[2];
  const Index whole = s[1] * s[2];
  copy_rows(y.device(), s[0], part, x.data(), whole, y.data(), part, false);
  return tape.record("take_front", y, [s, part, whole, dx = x.destination()](const Tensor<T, D>& dy) {
    const Sink<T> sink = dx.sink();
    if (!sink) return;
    if (!sink.accumulate) set_zero(dy.device(), sink.data, static_cast<std::size_t>(s.size()) * sizeof(T));
    copy_rows(dy.device(), s[0], part, dy.data(), part, sink.data, whole, true);
  });
}

}  // namespace mtpx
