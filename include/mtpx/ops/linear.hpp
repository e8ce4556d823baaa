#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

#include <type_traits>

namespace mtpx {

namespace detail {
/// linear() with a weight that has no value, to y.
template <typename X, typename W, typename D>
[[gnu::noinline, gnu::cold]] void linear_kept(const Var<X, D>& x, const Weight<W, D>& w,
                                              const Tensor<W, D>& y, bool recording) {
  if constexpr (std::is_same_v<X, W>) {
    if (const Int8Weight<D>* const int8 = w.int8())
      return int8->template products<W>().multiply("linear", x.value(), *int8, y, recording);
    check_inference("linear", "that is packed", recording);
    w.packed()->linear(x.device(), x.rows(), x.data(), w.packed()->matrix(), y.data());
  } else {
    if (w.int8() != nullptr) throw Error("[linear] a weight in 8 bits needs activations of its type");
    w.value();  // which says why there is none
  }
}
}  // namespace detail

/// A product with a weight matrix, no bias.
///
///   y = x W^T
///
/// x: [..., I], may be strided   w: [O, I]   returns [..., O] in the weight's type, which is the
/// activation's but for the router (float weights on bf16 activations).
/// A weight in 8 bits is multiplied as the floats that it stands for, in inference; a packed one as it was.
/// Saves for backward: x, w.   Throws ShapeError; of a weight in 8 bits or packed Error on a recording tape,
/// of one in 8 bits DeviceError on a device without such products.
template <typename X, typename W, typename D>
Var<W, D> linear(const Var<X, D>& x, const Weight<W, D>& w) {
  Tape& tape = tape_of("linear", x, w);
  require(w.shape().rank() == 2 && w.shape().width() == x.shape().width(), "linear",
          "w needs one column per column of x", {{"x", x}, {"w", w}}, tape);
  const Index out = w.shape()[0];
  Tensor<W, D> y(x.device(), x.shape().with_width(out));
  if (w.kept()) {
    detail::linear_kept(x, w, y, tape.recording());
    return tape.constant(y);
  }
  linear_forward(x.device(), x.rows(), x.data(), out, w.data(), y.data());
  return tape.record("linear", y, [x, w = Weight<W, D>(w), out](const Tensor<W, D>& dy) {
    linear_backward_weight(x.device(), x.rows(), x.data(), out, dy.data(), w.sink());
    linear_backward_input(x.device(), x.rows(), out, w.data(), dy.data(), x.sink());
  });
}

}  // namespace mtpx
