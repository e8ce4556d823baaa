#pragma once

#include "swiglu.hpp"

namespace mtpx {

/// Sorts slots (choice k of token n: n K + k) by expert: expert e has places offsets[e] .. offsets[e + 1),
/// and place[slot[p]] = p. Adds each expert's number of slots to load [E], unless that is null.
template <typename T>
void plan_experts(const Reference&, Index slots, Index experts, const std::int32_t* ids,
                  std::int32_t* offsets, std::int32_t* slot, std::int32_t* place, T* load) {
  std::int32_t next = offsets[0] = 0;
  for (Index e = 0; e < experts; ++e) {
    for (Index i = 0; i < slots; ++i) {
      if (ids[i] != e) continue;
      slot[next] = static_cast<std::int32_t>(i);
      place[i] = next++;
    }
    offsets[e + 1] = next;
    if (load != nullptr) load[e] += static_cast<T>(offsets[e + 1] - offsets[e]);
  }
}

namespace eigen {

/// Expert e, a SwiGLU network, and the tokens that chose it.
template <typename T>
struct Expert {
  Eigen::Map<const Eigen::ArrayXi> slots;
  Eigen::ArrayXi tokens;
  Matrix<T> W_gate, W_up, W_down;  // [F, D], [F, D], [D, F]

  Expert(ExpertsShape s, Index e, const std::int32_t* offsets, const std::int32_t* slot, const T* wg,
         const T* wu, const T* wd)
      : slots(slot + offsets[e], offsets[e + 1] - offsets[e]),
        tokens(slots / static_cast<std::int32_t>(s.top_k)),
        W_gate(matrix(wg + e * s.inner * s.width, s.inner, s.width)),
        W_up(matrix(wu + e * s.inner * s.width, s.inner, s.width)),
        W_down(matrix(wd + e * s.inner * s.width, s.width, s.inner)) {}
};

/// The part of a stack of weights that is expert e's.
template <typename T>
Sink<T> part(Sink<T> all, Index e, ExpertsShape s) {
  return {all ? all.data + e * s.inner * s.width : nullptr, all.accumulate};
}

}  // namespace eigen

/// y_n = sum over the chosen experts of g_ne E_e(x_n) (DeepSeek-V3 Eq. 12),   E(x) = W_down (silu(W_gate x) *
/// W_up x)
///   x: [N, D], rows apart   weights: [N, K]   wg, wu: [E, F, D]   wd: [E, D, F]   y: [N, D]
///   gate, up: [N K, F], W_gate x and W_up x in the order of the plan, for backward
template <typename T>
void experts_forward(const Reference&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                     const std::int32_t*, const T* x, Index x_stride, const T* weights, const T* wg,
                     const T* wu, const T* wd, T* gate, T* up, T* y) {
  const auto X = as_matrix(x, Rows{s.tokens, s.width, x_stride});
  auto Y = eigen::matrix(y, s.tokens, s.width);
  Y.setZero();
  for (Index e = 0; e < s.experts; ++e) {
    const eigen::Expert<T> expert(s, e, offsets, slot, wg, wu, wd);
    const eigen::Matrix<T> X_e = X(expert.tokens, Eigen::all);
    const eigen::Matrix<T> G = X_e * expert.W_gate.transpose(), U = X_e * expert.W_up.transpose();
    const eigen::Matrix<T> H = eigen::Silu<T>(G.array()).value * U.array();
    const eigen::Matrix<T> E_x = H * expert.W_down.transpose();
    for (Index i = 0; i < E_x.rows(); ++i) Y.row(expert.tokens(i)) += weights[expert.slots(i)] * E_x.row(i);
    eigen::put(gate + offsets[e] * s.inner, G);
    eigen::put(up + offsets[e] * s.inner, U);
  }
}

/// The same with weights in 8 bits.
template <typename T>
void experts_int8_forward(const Reference& device, ExpertsShape s, const std::int32_t* offsets,
                          const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                          const T* weights, const Int8Weights& wg, const Int8Weights& wu,
                          const Int8Weights& wd, T* gate, T* up, T* y) {
  const eigen::Matrix<T> G = eigen::whole<T>(wg, s.experts), U = eigen::whole<T>(wu, s.experts),
                         W_d = eigen::whole<T>(wd, s.experts);
  experts_forward(device, s, offsets, slot, place, x, x_stride, weights, G.data(), U.data(), W_d.data(), gate,
                  up, y);
}

/// The same with packed weights.
template <typename T>
void experts_packed_forward(const Reference& device, ExpertsShape s, const std::int32_t* offsets,
                            const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                            const T* weights, const PackedWeights<T>& wg, const PackedWeights<T>& wu,
                            const PackedWeights<T>& wd, T* gate, T* up, T* y) {
  const eigen::Matrix<T> G = eigen::whole<T>(wg, s.experts), U = eigen::whole<T>(wu, s.experts),
                         W_d = eigen::whole<T>(wd, s.experts);
  experts_forward(device, s, offsets, slot, place, x, x_stride, weights, G.data(), U.data(), W_d.data(), gate,
                  up, y);
}

/// With h = silu(gate) * up and dh = W_down^T dy:   dg = dh . h,   dup = g dh silu(gate),
/// dgate = g dh up silu'(gate),   dx = W_gate^T dgate + W_up^T dup, summed over the chosen experts;
/// dW_down = dy (g h)^T,   dW_gate = dgate x^T,   dW_up = dup x^T, summed over the expert's tokens.
template <typename T>
void experts_backward(const Reference&, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                      const std::int32_t*, const T* x, Index x_stride, const T* weights, const T* wg,
                      const T* wu, const T* wd, const T* gate, const T* up, const T* dy, Sink<T> dx,
                      Sink<T> dweights, Sink<T> dwg, Sink<T> dwu, Sink<T> dwd) {
  const auto X = as_matrix(x, Rows{s.tokens, s.width, x_stride});
  const auto dY = eigen::matrix(dy, s.tokens, s.width);
  const auto g = eigen::column(weights, s.slots());
  eigen::Matrix<T> dX = eigen::Matrix<T>::Zero(s.tokens, s.width);
  eigen::Array<T> dg(s.slots(), 1);
  for (Index e = 0; e < s.experts; ++e) {
    const eigen::Expert<T> expert(s, e, offsets, slot, wg, wu, wd);
    const eigen::Matrix<T> X_e = X(expert.tokens, Eigen::all), dY_e = dY(expert.tokens, Eigen::all);
    const eigen::Silu<T> silu(eigen::array(gate + offsets[e] * s.inner, X_e.rows(), s.inner));
    const auto U = eigen::array(up + offsets[e] * s.inner, X_e.rows(), s.inner);
    const eigen::Array<T> H = silu.value * U;
    const eigen::Matrix<T> dH = dY_e * expert.W_down;
    dg(expert.slots, 0) = (dH.array() * H).rowwise().sum();
    const eigen::Array<T> gdH = dH.array().colwise() * g(expert.slots);
    const eigen::Matrix<T> dG = gdH * U * silu.slope, dU = gdH * silu.value;
    const eigen::Matrix<T> gH = H.colwise() * g(expert.slots);
    const eigen::Matrix<T> by_gate = dG * expert.W_gate, by_up = dU * expert.W_up;
    for (Index i = 0; i < dG.rows(); ++i) dX.row(expert.tokens(i)) += by_gate.row(i) + by_up.row(i);
    eigen::put(eigen::part(dwd, e, s), dY_e.transpose() * gH);
    eigen::put(eigen::part(dwg, e, s), dG.transpose() * X_e);
    eigen::put(eigen::part(dwu, e, s), dU.transpose() * X_e);
  }
  eigen::put(dweights, dg);
  eigen::put(dx, dX);
}

}  // namespace mtpx
