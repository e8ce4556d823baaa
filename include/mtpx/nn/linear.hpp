#pragma once

#include <mtpx/nn/module.hpp>
#include <mtpx/ops/linear.hpp>

namespace mtpx {

/// y = x W^T, no bias.   weight: [out, in], NaN until it is initialised (see Parameter)
template <typename T, typename D>
struct Linear {
  Parameter<T, D> weight;  ///< [out, in]

  Linear() = default;
  Linear(const D& device, Index in, Index out) : weight(device, {out, in}) {}

  /// x: [..., in]   returns [..., out]
  template <typename X>
  Var<T, D> operator()(const Var<X, D>& x) const {
    return linear<X, T, D>(x, weight);
  }

  static void members(auto& self, auto&& visit) { visit("weight", self.weight); }
};

}  // namespace mtpx
