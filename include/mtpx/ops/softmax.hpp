#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

namespace detail {
template <typename T, typename D>
Var<T, D> softmax(std::string_view op, const Var<T, D>& x, bool log) {
  Tape& tape = tape_of(op, x);
  Tensor<T, D> y(x.device(), x.shape());
  softmax_forward(y.device(), x.rows(), log, x.data(), y.data());
  return tape.record(op, y, [log, y, dx = x.destination()](const Tensor<T, D>& dy) {
    softmax_backward(dy.device(), dy.rows(), log, y.data(), dy.data(), dx.sink());
  });
}
}  // namespace detail

/// Softmax along the last axis.
///
///   y_rc = e^(x_rc - top_r) / sum_j e^(x_rj - top_r),   top_r = max_j x_rj
///
/// -inf gives 0; a row of nothing but -inf gives NaN.
/// x: [..., D], may be strided   returns the same shape   Saves for backward: y.
template <typename T, typename D>
Var<T, D> softmax(const Var<T, D>& x) {
  return detail::softmax("softmax", x, false);
}

/// Its logarithm, which has the digits that log(softmax(x)) loses.
///
///   y_rc = x_rc - top_r - log sum_j e^(x_rj - top_r)
///
/// x: [..., D], may be strided   returns the same shape   Saves for backward: y.
template <typename T, typename D>
Var<T, D> log_softmax(const Var<T, D>& x) {
  return detail::softmax("log_softmax", x, true);
}

}  // namespace mtpx
