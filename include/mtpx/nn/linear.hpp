#pragma once

#include <mtpx/nn/module.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/linear.hpp>

namespace mtpx {

/// Says to Linear that it has a bias: `Linear<float, Cpu> up(cpu, 2, 4, with_bias);`
struct WithBias {};
inline constexpr WithBias with_bias{};  ///< the only one

/// y = x W^T, and + b of one made `with_bias`; a language model's have none.   NaN until it is initialised
/// (see Parameter)
template <typename T, typename D>
struct Linear {
  Parameter<T, D> weight;          ///< [out, in]
  Optional<Parameter<T, D>> bias;  ///< [out], or absent

  Linear() = default;
  Linear(const D& device, Index in, Index out) : weight(device, {out, in}) {}
  /// Of a weight that nothing but this product reads.   int8_run: 0, or how many columns share a scale of a
  /// weight in 8 bits (see Parameter)
  Linear(const D& device, Index in, Index out, const Int8Run& int8_run)
      : weight(device, {out, in}, int8_run) {}
  Linear(const D& device, Index in, Index out, WithBias) : Linear(device, in, out) {
    bias.emplace(device, Shape{out});
  }

  /// x: [..., in]   returns [..., out]
  template <typename X>
  Var<T, D> operator()(const Var<X, D>& x) const {
    const Var<T, D> y = linear<X, T, D>(x, weight);
    return bias ? mtpx::bias<T, D>(y, *bias) : y;
  }

  static void members(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

}  // namespace mtpx
