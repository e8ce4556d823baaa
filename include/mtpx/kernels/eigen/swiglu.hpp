#pragma once

#include "views.hpp"

namespace mtpx {

namespace eigen {

/// silu(g) = g s with s = 1 / (1 + e^-g), and its slope, s (1 + g (1 - s)) (Shazeer 2020, Eq. 5: Swish_1).
template <typename T>
struct Silu {
  Array<T> value, slope;

  template <typename G>
  explicit Silu(const G& g) {
    const Array<T> s = sigmoid(g);
    value = g * s;
    slope = s * (1 + g * (1 - s));
  }
};

}  // namespace eigen

/// y = silu(gate) * up
template <typename T>
void swiglu_forward(const Reference&, Index count, const T* gate, const T* up, T* y) {
  eigen::array(y, 1, count) = eigen::Silu<T>(eigen::array(gate, 1, count)).value * eigen::array(up, 1, count);
}

/// dgate = dy up silu'(gate),   dup = dy silu(gate)
template <typename T>
void swiglu_backward(const Reference&, Index count, const T* gate, const T* up, const T* dy, Sink<T> dgate,
                     Sink<T> dup) {
  const eigen::Silu<T> silu(eigen::array(gate, 1, count));
  const auto dY = eigen::array(dy, 1, count);
  eigen::put(dgate, dY * eigen::array(up, 1, count) * silu.slope);
  eigen::put(dup, dY * silu.value);
}

}  // namespace mtpx
