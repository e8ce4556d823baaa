#pragma once

#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/swiglu.hpp>

namespace mtpx {

/// Tokens' choices sorted by expert. A slot is one choice of one token, n * K + k.
template <typename D>
struct ExpertPlan {
  Tensor<std::int32_t, D> offsets;  ///< [E + 1]: expert e owns sorted places offsets[e] .. offsets[e + 1)
  Tensor<std::int32_t, D> slot;     ///< [N * K]: the slot at each sorted place
  Tensor<std::int32_t, D> place;    ///< [N * K]: the sorted place of each slot
};

/// Sorts slots by expert, stably, so that an expert meets its tokens in order. No token is dropped.
///
/// ids: [..., K] in [0, experts)   load: [experts] or undefined; gains each expert's number of slots
template <typename A, typename D>
ExpertPlan<D> plan_experts(const Tensor<std::int32_t, D>& ids, Index experts, const Tensor<A, D>& load) {
  ExpertPlan<D> plan{Tensor<std::int32_t, D>(ids.device(), {experts + 1}),
                     Tensor<std::int32_t, D>(ids.device(), {ids.size()}),
                     Tensor<std::int32_t, D>(ids.device(), {ids.size()})};
  plan_experts(ids.device(), ids.size(), experts, ids.data(), plan.offsets.data(), plan.slot.data(),
               plan.place.data(), load.data_or_null());
  return plan;
}

namespace detail {
/// experts() with weights that have no values, to y; false where the three are not kept alike.
template <typename T, typename D>
[[gnu::noinline, gnu::cold]] bool experts_kept(const Var<T, D>& x, const Var<acc_t<T>, D>& weights,
                                               const ExpertPlan<D>& plan, const Weight<T, D>& gate,
                                               const Weight<T, D>& up, const Weight<T, D>& down,
                                               const ExpertsShape& s, const Tensor<T, D>& hidden_gate,
                                               const Tensor<T, D>& hidden_up, const Tensor<T, D>& y,
                                               bool recording) {
  if (gate.int8() != nullptr && up.int8() != nullptr && down.int8() != nullptr) {
    gate.int8()->template products<T>().experts(
        recording, s, plan.offsets.data(), plan.slot.data(), plan.place.data(), x.value(), weights.data(),
        *gate.int8(), *up.int8(), *down.int8(), hidden_gate.data(), hidden_up.data(), y.data());
    return true;
  }
  if (gate.packed() == nullptr || up.packed() == nullptr || down.packed() == nullptr) return false;
  check_inference("experts", "that is packed", recording);
  gate.packed()->experts(x.device(), s, plan.offsets.data(), plan.slot.data(), plan.place.data(), x.data(),
                         x.rows().stride, weights.data(), gate.packed()->matrix(), up.packed()->matrix(),
                         down.packed()->matrix(), hidden_gate.data(), hidden_up.data(), y.data());
  return true;
}
}  // namespace detail

/// The routed experts of a mixture (DeepSeek-V3 Eq. 12), each a SwiGLU network; weights are stacked by
/// expert.
///
///   y_n = sum_k weight_nk E_e(x_n),  e = id_nk,   E_e(x) = W_down,e (silu(W_gate,e x) * (W_up,e x))
///
/// x: [..., D], may be strided   weights: [..., K]   gate, up: [E, F, D]   down: [E, D, F]   returns [..., D]
/// Saves for backward: x, weights, the plan, and the two products before the gate, [N K, F] each.
/// Throws ShapeError; of weights in 8 bits or packed, all three, what linear() throws.
template <typename T, typename D>
Var<T, D> experts(const Var<T, D>& x, const Var<acc_t<T>, D>& weights, const ExpertPlan<D>& plan,
                  const Weight<T, D>& gate, const Weight<T, D>& up, const Weight<T, D>& down) {
  Tape& tape = tape_of("experts", x, weights, gate, up, down);
  const Shape w = gate.shape();
  require(w.rank() == 3 && up.shape() == w && down.shape() == Shape{w[0], w[2], w[1]} &&
              w[2] == x.shape().width(),
          "experts", "gate and up are [E, F, D], down is [E, D, F], D the width of x",
          {{"x", x}, {"gate", gate}, {"up", up}, {"down", down}}, tape);
  const ExpertsShape s{x.rows().count, w[2], w[1], w[0], weights.shape().width()};
  require(weights.rows().count == s.tokens && weights.value().contiguous() && plan.slot.size() == s.slots() &&
              plan.offsets.size() == s.experts + 1,
          "experts", "weights and plan need K slots per row of x",
          {{"x", x}, {"weights", weights}, {"plan", plan.slot}}, tape);
  Tensor<T, D> hidden_gate(x.device(), {s.slots(), s.inner});
  Tensor<T, D> hidden_up(x.device(), {s.slots(), s.inner});
  Tensor<T, D> y(x.device(), x.shape());
  if (gate.kept() &&
      detail::experts_kept(x, weights, plan, gate, up, down, s, hidden_gate, hidden_up, y, tape.recording()))
    return tape.constant(y);
  experts_forward(x.device(), s, plan.offsets.data(), plan.slot.data(), plan.place.data(), x.data(),
                  x.rows().stride, weights.data(), gate.data(), up.data(), down.data(), hidden_gate.data(),
                  hidden_up.data(), y.data());
  return tape.record("experts", y,
                     [s, plan, x, weights, gate = Weight<T, D>(gate), up = Weight<T, D>(up),
                      down = Weight<T, D>(down), hidden_gate, hidden_up](const Tensor<T, D>& dy) {
                       const Sink<acc_t<T>> dgate = gate.sink();  // before up's: the two may be the same Var
                       experts_backward(x.device(), s, plan.offsets.data(), plan.slot.data(),
                                        plan.place.data(), x.data(), x.rows().stride, weights.data(),
                                        gate.data(), up.data(), down.data(), hidden_gate.data(),
                                        hidden_up.data(), dy.data(), x.sink(), weights.sink(), dgate,
                                        up.sink(), down.sink());
                     });
}

/// experts() where the experts stand on several ranks. Of a model on one rank nothing of it is compiled: a
/// mixture has a handle to it, which whoever has ranks makes: ranked_experts().
template <typename T, typename D>
class RankedExperts {
 public:
  virtual ~RankedExperts() = default;
  /// See experts_across().
  virtual Var<T, D> operator()(const Var<T, D>& x, const Var<acc_t<T>, D>& weights,
                               const Tensor<std::int32_t, D>& ids, const ExpertPlan<D>& plan,
                               const Weight<T, D>& gate, const Weight<T, D>& up,
                               const Weight<T, D>& down) const = 0;
};

/// The same as experts() out of primitives, expert by expert.   T: float or double
template <typename T, typename D>
Var<T, D> experts_composed(const Var<T, D>& x, const Var<T, D>& weights, const ExpertPlan<D>& plan,
                           const Weight<T, D>& gate, const Weight<T, D>& up, const Weight<T, D>& down) {
  const Shape w = gate.shape();
  const Index count = x.rows().count, slots = weights.shape().size();
  const auto rows = reshape(contiguous(x), {count, w[2]}), of_slot = reshape(weights, {slots, 1});
  const auto offsets = plan.offsets.to_host();
  auto tokens = plan.slot.to_host();
  for (auto& slot : tokens) slot = static_cast<std::int32_t>(slot / weights.shape().width());
  const auto token = Tensor<std::int32_t, D>::from(x.device(), plan.slot.shape(), tokens);
  Var<T, D> y;
  for (Index e = 0; e < w[0]; ++e) {
    const auto mine = [&](const auto& all) {
      return all.slice_front(offsets[static_cast<std::size_t>(e)], offsets[static_cast<std::size_t>(e) + 1]);
    };
    const auto matrix = [&](const Weight<T, D>& all, Index out, Index in) {
      const auto id =
          Tensor<std::int32_t, D>::from(x.device(), {1}, std::vector{static_cast<std::int32_t>(e)});
      return reshape(gather(reshape(all, {w[0], out * in}), id), {out, in});
    };
    const auto w_gate = matrix(gate, w[1], w[2]), w_up = matrix(up, w[1], w[2]),
               w_down = matrix(down, w[2], w[1]);
    const auto x_e = gather(rows, mine(token)), weight = gather(of_slot, mine(plan.slot));
    const auto g = matmul(x_e, w_gate, {.b = true}), u = matmul(x_e, w_up, {.b = true});
    const auto y_e = matmul(swiglu_composed(g, u), w_down, {.b = true}) * weight;
    const auto part = scatter(y_e, mine(token), count);
    y = e == 0 ? part : y + part;
  }
  return reshape(y, x.shape());
}

}  // namespace mtpx
