#pragma once

#include <mtpx/nn/linear.hpp>
#include <mtpx/ops/swiglu.hpp>

namespace mtpx {

/// A gated feed-forward network (Shazeer 2020, eq. 6):  y = W_down (silu(W_gate x) * (W_up x))
template <typename T, typename D>
struct SwiGlu {
  Linear<T, D> gate_proj, up_proj, down_proj;

  SwiGlu() = default;
  SwiGlu(const D& device, Index hidden, Index inner)
      : gate_proj(device, hidden, inner), up_proj(device, hidden, inner), down_proj(device, inner, hidden) {}

  /// x: [..., hidden]   returns [..., hidden]
  Var<T, D> operator()(const Var<T, D>& x) const { return down_proj(swiglu(gate_proj(x), up_proj(x))); }

  static void members(auto& self, auto&& visit) {
    visit("gate_proj", self.gate_proj);
    visit("up_proj", self.up_proj);
    visit("down_proj", self.down_proj);
  }
};

}  // namespace mtpx
