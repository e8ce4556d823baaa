#pragma once
// Sums and means, along each row or over everything. A row's numbers are added as docs/numerics.md says.

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

namespace detail {
template <typename T, typename D>
Var<T, D> reduce(std::string_view op, const Var<T, D>& x, bool over_all, Index divisor) {
  Tape& tape = tape_of(op, x);
  Tensor<T, D> y(x.device(), over_all ? Shape{1} : x.shape().with_width(1));
  sum_forward(y.device(), x.rows(), over_all, divisor, x.data(), y.data());
  return tape.record(op, y, [over_all, divisor, dx = x.destination()](const Tensor<T, D>& dy) {
    const Shape& shape = dx.shape();
    sum_backward(dy.device(), Rows{shape.rows(), shape.width(), shape.width()}, over_all, divisor, dy.data(),
                 dx.sink());
  });
}
}  // namespace detail

/// y = sum of all numbers of x
///
/// x: any shape, may be strided   returns [1]   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> sum(const Var<T, D>& x) {
  return detail::reduce("sum", x, true, 1);
}

/// y_r = sum_c x_rc
///
/// x: [..., D], may be strided   returns [..., 1]: a column, as arithmetic takes it
/// Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> sum_last(const Var<T, D>& x) {
  return detail::reduce("sum_last", x, false, 1);
}

/// y = sum of all numbers of x, divided by how many there are
///
/// x: any shape, may be strided   returns [1]   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> mean(const Var<T, D>& x) {
  return detail::reduce("mean", x, true, x.shape().size());
}

/// y_r = sum_c x_rc / D
///
/// x: [..., D], may be strided   returns [..., 1]   Saves for backward: nothing.
template <typename T, typename D>
Var<T, D> mean_last(const Var<T, D>& x) {
  return detail::reduce("mean_last", x, false, x.shape().width());
}

}  // namespace mtpx
