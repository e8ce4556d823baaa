#pragma once

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/reduce.hpp>

namespace mtpx {

/// Root-mean-square normalisation (Zhang & Sennrich 2019, eq. 4; DeepSeek-V3 sec. 2.1).
///
///   y_rj = x_rj / sqrt(mean_k x_rk^2 + eps) * gain_j
///
/// x: [..., D], may be strided   gain: [D]   returns [..., D]
/// Saves for backward: x, gain, and one number per row (rstd).   Throws ShapeError.
template <typename T, typename D>
Var<T, D> rms_norm(const Var<T, D>& x, const Weight<acc_t<T>, D>& gain, acc_t<T> eps) {
  Tape& tape = tape_of("rms_norm", x, gain);
  require(gain.shape() == Shape{x.shape().width()}, "rms_norm", "gain needs one number per column of x",
          {{"x", x}, {"gain", gain}}, tape);
  Tensor<T, D> y(x.device(), x.shape());
  Tensor<acc_t<T>, D> rstd(x.device(), {x.rows().count});
  rms_norm_forward(x.device(), x.rows(), x.data(), gain.data(), eps, y.data(), rstd.data());
  return tape.record("rms_norm", y, [x, gain = Weight<acc_t<T>, D>(gain), rstd](const Tensor<T, D>& dy) {
    rms_norm_backward(x.device(), x.rows(), x.data(), gain.data(), rstd.data(), dy.data(), x.sink(),
                      gain.sink());
  });
}

/// The same out of primitives.
template <typename T, typename D>
Var<T, D> rms_norm_composed(const Var<T, D>& x, const Weight<acc_t<T>, D>& gain, acc_t<T> eps) {
  const auto wide = cast<acc_t<T>>(x);
  const auto root = sqrt(mean_last(wide * wide) + eps);
  return cast<T>(wide / root * gain);
}

/// The residual add and the norm after it in one pass over memory.
///
///   total = x + f,   y = rms_norm(total)
///
/// x, f: [..., D] dense   gain: [D]   returns {total, y}, each [..., D]
/// Saves for backward: total, gain, rstd.   Throws ShapeError.
template <typename T, typename D>
std::tuple<Var<T, D>, Var<T, D>> add_rms_norm(const Var<T, D>& x, const Var<T, D>& f,
                                              const Weight<acc_t<T>, D>& gain, acc_t<T> eps) {
  Tape& tape = tape_of("add_rms_norm", x, f, gain);
  require(x.shape() == f.shape() && x.value().contiguous() && f.value().contiguous(), "add_rms_norm",
          "x and f need the same shape and dense rows", {{"x", x}, {"f", f}}, tape);
  require(gain.shape() == Shape{x.shape().width()}, "add_rms_norm", "gain needs one number per column of x",
          {{"x", x}, {"gain", gain}}, tape);
  const Index width = x.shape().width();
  const Index count = x.rows().count;
  Tensor<T, D> total(x.device(), x.shape());
  Tensor<T, D> y(x.device(), x.shape());
  Tensor<acc_t<T>, D> rstd(x.device(), {count});
  add_rms_norm_forward(x.device(), count, width, x.data(), f.data(), gain.data(), eps, total.data(), y.data(),
                       rstd.data());
  return tape.record("add_rms_norm", std::tuple(total, y),
                     [total, gain = Weight<acc_t<T>, D>(gain), rstd, dx = x.destination(),
                      df = f.destination()](const Tensor<T, D>& dtotal, const Tensor<T, D>& dy) {
                       const Rows rows = total.rows();
                       const Sink<T> to_x = dx.sink();  // before f's: the two may be the same Var
                       add_rms_norm_backward(total.device(), rows.count, rows.width, total.data(),
                                             gain.data(), rstd.data(), dtotal.data(), dy.data(), to_x,
                                             df.sink(), gain.sink());
                     });
}

/// The same out of primitives.
template <typename T, typename D>
std::tuple<Var<T, D>, Var<T, D>> add_rms_norm_composed(const Var<T, D>& x, const Var<T, D>& f,
                                                       const Weight<acc_t<T>, D>& gain, acc_t<T> eps) {
  const auto total = x + f;
  return {total, rms_norm_composed(total, gain, eps)};
}

}  // namespace mtpx
