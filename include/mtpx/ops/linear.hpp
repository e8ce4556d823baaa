#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// A product with a weight matrix, no bias.
///
///   y = x W^T
///
/// x: [..., I], may be strided   w: [O, I]   returns [..., O] in the weight's type, which is the
/// activation's but for the router (float weights on bf16 activations).
/// Saves for backward: x, w.   Throws ShapeError.
template <typename X, typename W, typename D>
Var<W, D> linear(const Var<X, D>& x, const Weight<W, D>& w) {
  Tape& tape = tape_of("linear", x, w);
  require(w.shape().rank() == 2 && w.shape().width() == x.shape().width(), "linear",
          "w needs one column per column of x", {{"x", x}, {"w", w}}, tape);
  const Index out = w.shape()[0];
  Tensor<W, D> y(x.device(), x.shape().with_width(out));
  linear_forward(x.device(), x.rows(), x.data(), out, w.data(), y.data());
  return tape.record("linear", y, [x, w = Weight<W, D>(w), out](const Tensor<W, D>& dy) {
    linear_backward_weight(x.device(), x.rows(), x.data(), out, dy.data(), w.sink());
    linear_backward_input(x.device(), x.rows(), out, w.data(), dy.data(), x.sink());
  });
}

}  // namespace mtpx
