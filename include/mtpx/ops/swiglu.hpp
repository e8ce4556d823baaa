#pragma once

#include <mtpx/ops/arithmetic.hpp>

namespace mtpx {

/// The gate of a SwiGLU network (Shazeer 2020, arXiv 2002.05202, eq. 5).
///
///   y = silu(gate) * up,   silu(g) = g / (1 + e^-g)
///
/// gate, up: [..., F] dense   returns [..., F]
/// Saves for backward: gate, up.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> swiglu(const Var<T, D>& gate, const Var<T, D>& up) {
  Tape& tape = tape_of("swiglu", gate, up);
  require(gate.shape() == up.shape() && gate.value().contiguous() && up.value().contiguous(), "swiglu",
          "gate and up need the same shape and dense rows", {{"gate", gate}, {"up", up}}, tape);
  Tensor<T, D> y(gate.device(), gate.shape());
  swiglu_forward(y.device(), y.size(), gate.data(), up.data(), y.data());
  return tape.record("swiglu", y, [gate, up](const Tensor<T, D>& dy) {
    const Sink<T> dgate = gate.sink();  // before up's: the two may be the same Var
    swiglu_backward(dy.device(), dy.size(), gate.data(), up.data(), dy.data(), dgate, up.sink());
  });
}

/// The same out of primitives.
template <typename T, typename D>
Var<T, D> swiglu_composed(const Var<T, D>& gate, const Var<T, D>& up) {
  return silu(gate) * up;
}

}  // namespace mtpx
