#pragma once

#include <mtpx/nn/module.hpp>
#include <mtpx/ops/fill.hpp>
#include <mtpx/ops/rms_norm.hpp>

namespace mtpx {

/// Root-mean-square norm with a gain; gain and statistics in the accumulation type.   weight: [width], 1 at
/// first
template <typename T, typename D>
struct RmsNorm {
  Parameter<acc_t<T>, D> weight;  ///< [D], the gains
  acc_t<T> eps{};                 ///< added to the mean square

  RmsNorm() = default;
  RmsNorm(const D& device, Index width, double epsilon)
      : weight(device, {width}), eps(static_cast<acc_t<T>>(epsilon)) {
    fill(weight.value(), 1);
  }

  /// x: [..., D], may be strided   returns [..., D]; see rms_norm()
  Var<T, D> operator()(const Var<T, D>& x) const { return rms_norm<T, D>(x, weight, eps); }

  /// {x + f, norm(x + f)} in one pass.
  auto add(const Var<T, D>& x, const Var<T, D>& f) const { return add_rms_norm<T, D>(x, f, weight, eps); }

  static void members(auto& self, auto&& visit) { visit("weight", self.weight); }
};

}  // namespace mtpx
