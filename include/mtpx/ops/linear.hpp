#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// Whether D multiplies with weights in 8 bits, of activations of type X, to results of type Y.
template <typename X, typename Y, typename D>
inline constexpr bool multiplies_int8 =
    std::is_same_v<acc_t<Y>, float>&& requires(const D& device, const X* x, const Int8Weights& w, Y* y) {
  linear_int8_forward(device, Rows{}, x, w, y);
};

namespace detail {
/// Throws where an op with a weight that is `kept` so, and not as it is trained, would be recorded.
inline void check_inference(std::string_view op, std::string_view kept, bool recording) {
  if (recording)
    throw Error(cat("[", op, "] a weight ", kept, " has no backward; use a tape in inference mode"));
}

/// Throws what is to be said of an op with a weight in 8 bits that is not for it.
template <bool multiplies>
void check_int8(std::string_view op, bool recording) {
  if (!multiplies)
    throw DeviceError(cat("[", op, "] a weight in 8 bits: this device has no products with them"));
  check_inference(op, "in 8 bits", recording);
}

/// y = x W^T with a weight in 8 bits, into memory of any such type.
template <typename X, typename Y, typename D>
void multiply_int8(std::string_view op, const Tensor<X, D>& x, const Int8Weight<D>& w, const Tensor<Y, D>& y,
                   bool recording) {
  constexpr bool can = multiplies_int8<X, Y, D>;
  check_int8<can>(op, recording);
  if constexpr (can) linear_int8_forward(x.device(), x.rows(), x.data(), w.matrix(), y.data());
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
  if (w.int8() != nullptr) {
    detail::multiply_int8("linear", x.value(), *w.int8(), y, tape.recording());
    return tape.constant(y);
  }
  if constexpr (std::is_same_v<X, W>) {
    if (const PackedWeight<W, D>* const packed = w.packed()) {
      detail::check_inference("linear", "that is packed", tape.recording());
      packed->linear(x.device(), x.rows(), x.data(), packed->matrix(), y.data());
      return tape.constant(y);
    }
  }
  linear_forward(x.device(), x.rows(), x.data(), out, w.data(), y.data());
  return tape.record("linear", y, [x, w = Weight<W, D>(w), out](const Tensor<W, D>& dy) {
    linear_backward_weight(x.device(), x.rows(), x.data(), out, dy.data(), w.sink());
    linear_backward_input(x.device(), x.rows(), out, w.data(), dy.data(), x.sink());
  });
}

}  // namespace mtpx
