#pragma once

#include <mtpx/nn/linear.hpp>
#include <mtpx/ops/swiglu.hpp>

namespace mtpx {

/// A gated feed-forward network (Shazeer 2020, eq. 6):  y = W_down (silu(W_gate x) * (W_up x))
template <typename T, typename D>
struct SwiGlu {
  Linear<T, D> gate_proj, up_proj, down_proj;  ///< [inner, hidden] twice, [hidden, inner]

  SwiGlu() = default;
  SwiGlu(const D& device, Index hidden, Index inner, const Int8Run& int8_run = {})
      : gate_proj(device, hidden, inner, int8_run),
        up_proj(device, hidden, inner, int8_run),
        down_proj(device, inner, hidden, int8_run) {}

  /// x: [..., hidden]   returns [..., hidden]
  Var<T, D> operator()(const Var<T, D>& x) const {
    // Two locals: of two arguments, compilers choose which to record first, and with it the order of x's
    // gradient.
    const Var<T, D> gate = gate_proj(x);
    const Var<T, D> up = up_proj(x);
    return down_proj(swiglu(gate, up));
  }

  /// Adds what the call computes to the description of a fused decoding pass.
  void describe(DecodeFeedForward<T>& p) const {
    p.shared_inner = gate_proj.weight.shape()[0];
    p.shared_gate = gate_proj.weight.data();
    p.shared_up = up_proj.weight.data();
    p.shared_down = down_proj.weight.data();
  }

  static void members(auto& self, auto&& visit) {
    visit("gate_proj", self.gate_proj);
    visit("up_proj", self.up_proj);
    visit("down_proj", self.down_proj);
  }
};

}  // namespace mtpx
