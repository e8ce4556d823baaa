#pragma once
// Experts that stand on several ranks: rows of tokens go there and back.

#include <mtpx/comm/group.hpp>
#include <mtpx/ops/experts.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

namespace mtpx {

/// The ranks that have the experts of a mixture, as many each: rank r has those from r E / ranks on. What
/// goes from one rank to another has room for `factor` times the mean; nothing is dropped: where a slot finds
/// no room the step counts for nothing, and is taken again with more.
template <typename A, typename D>
class ExpertExchange {
 public:
  /// factor: at least 1; as many as there are ranks always suffice
  ExpertExchange(Group<D> group, double factor)
      : group_(std::move(group)), factor_(factor), need_(Tensor<A, D>::zeros(group_.device(), {2})) {}

  /// Who has the experts.
  const Group<D>& group() const { return group_; }
  /// Room for what goes from one rank to another, over the mean.
  double factor() const { return factor_; }
  /// Rows of a rank's part of what is sent, of so many slots.
  Index capacity(Index slots) const {
    const double mean = static_cast<double>(slots) / group_.size();
    return std::clamp<Index>(static_cast<Index>(std::ceil(factor_ * mean)), 1, std::max<Index>(1, slots));
  }
  /// [2], of this rank: see plan_exchange().
  const Tensor<A, D>& need() const { return need_; }
  /// Begins to look at what is needed.
  void forget() { fill_value(group_.device(), 2, A(0), need_.data()); }

  /// Makes room for what was needed, on whatever rank, with a fourth to spare: true where it was not there.
  /// Every rank makes the call. What was recorded has the old sizes.
  bool make_room() {
    const Tensor<A, D> all(group_.device(), {group_.size()});
    group_.all_gather(need_.data(), all.data(), sizeof(A));
    double most = 0;
    for (const A need : all.to_host()) most = std::max(most, static_cast<double>(need));
    if (most <= factor_) return false;
    factor_ = std::min<double>(group_.size(), 1.25 * most);
    return true;
  }

 private:
  Group<D> group_;
  double factor_;
  Tensor<A, D> need_;
};

namespace detail {

/// Where the gradient of a rank's experts is gathered, apart for the micro-batch of each rank: [ranks, E /
/// ranks, ..]. So their sum has the order in which one rank adds them.
template <typename T, typename D>
Sink<acc_t<T>> sink_of_ranks(const Weight<T, D>& weight, Index ranks) {
  const auto& slot = weight.slot();
  if (slot == nullptr) return {};
  const Shape w = weight.shape(), all{ranks * w[0], w[1], w[2]};
  if (!slot->grad.defined() || slot->grad.shape() != all)
    slot->grad = Tensor<acc_t<T>, D>(weight.device(), all);
  return {slot->grad.data(), std::exchange(slot->filled, true)};
}

/// One call of experts_across(): where its rows went, and what a rank's own experts had to do.
template <typename T, typename D>
struct ExpertsAcross {
  using A = acc_t<T>;

  std::shared_ptr<ExpertExchange<A, D>> across;
  ExchangeShape s;
  Rows rows;                         // of y, dense
  Index top_k = 0;                   // K
  ExpertsShape own;                  // of what came from one rank: each row a token of one choice
  Tensor<std::int32_t, D> row;       // [slots]: where each stands in what is sent
  Tensor<std::int32_t, D> bounds;    // [ranks, own.experts + 1], of what came
  Tensor<std::int32_t, D> in_order;  // [capacity]: 0, 1, ..; rows come sorted
  Tensor<T, D> x, gate, up;          // [ranks, capacity, ..], of what came

  const std::int32_t* offsets(Index rank) const { return bounds.data() + rank * (own.experts + 1); }

  /// Part p of `from` to rank p, parts of `width` numbers a row.
  template <typename N>
  void exchange(const Tensor<N, D>& from, const Tensor<N, D>& to, Index width) const {
    across->group().all_to_all(from.data(), to.data(),
                               static_cast<std::size_t>(s.capacity * width) * sizeof(N));
  }

  /// `weights` and `dweights` are of this rank's tokens, the matrices and their gradients of its experts.
  void backward(const Tensor<T, D>& dy, const Tensor<A, D>& weights, const Weight<T, D>& w_gate,
                const Weight<T, D>& w_up, const Weight<T, D>& w_down, Sink<T> dx, Sink<A> dweights) const {
    const D& device = dy.device();
    const Index all = s.ranks * s.capacity, width = own.width, inner = own.inner;
    const Rows each{s.slots, 1, 1};
    const A* const no_weights = nullptr;
    const Tensor<T, D> sent(device, {all, width}), came(device, {all, width});
    const Tensor<A, D> sent_weights(device, {all}), came_weights(device, {all}), made(device, {all});
    spread_slots(device, rows, top_k, row.data(), dy.data(), sent.data());
    spread_slots(device, each, 1, row.data(), weights.data(), sent_weights.data());
    exchange(sent, came, width);
    exchange(sent_weights, came_weights, 1);
    const Sink<A> dgate = sink_of_ranks(w_gate, s.ranks), dup = sink_of_ranks(w_up, s.ranks),
                  ddown = sink_of_ranks(w_down, s.ranks);
    for (Index r = 0; r < s.ranks; ++r) {
      const Index first = r * s.capacity;
      const auto of_rank = [&](const Sink<A>& sink) {
        return sink ? Sink<A>{sink.data + r * own.experts * inner * width, sink.accumulate} : sink;
      };
      experts_backward(device, own, offsets(r), in_order.data(), in_order.data(), x.data() + first * width,
                       width, came_weights.data() + first, w_gate.data(), w_up.data(), w_down.data(),
                       gate.data() + first * inner, up.data() + first * inner, came.data() + first * width,
                       Sink<T>{sent.data() + first * width, false}, Sink<A>{made.data() + first, false},
                       of_rank(dgate), of_rank(dup), of_rank(ddown));
    }
    exchange(sent, came, width);
    exchange(made, sent_weights, 1);
    combine_slots(device, rows, top_k, row.data(), no_weights, came.data(), dx);
    combine_slots(device, each, 1, row.data(), no_weights, sent_weights.data(), dweights);
  }
};
}  // namespace detail

/// experts() where each rank has some of the experts, and tokens of its own:
///
///   y_n = sum_k weight_nk E_e(x_n),  e = id_nk   (DeepSeek-V3 Eq. 12)
///
/// Each row goes to the rank of its expert, all_to_all with as many rows for each (see ExpertExchange), and
/// E_e(x) comes back; backward the same with dy and the weights, for dx and the weights' gradients. Every
/// rank makes the same calls, with the same shapes. The bits are those of experts() in float and double:
/// a rank's rows meet an expert apart from other ranks' rows, and in their order. The experts' gradients stay
/// apart, too: see detail::sink_of_ranks().
///
/// x: [..., D], may be strided   weights, ids: [..., K]   plan: of ids, over all E   gate, up: [E / ranks, F,
/// D]   down: [E / ranks, D, F]   returns [..., D]
/// Saves for backward: weights, which row each slot had, and on the experts' rank what came, [ranks capacity,
/// D], and the two products before the gate. Throws ShapeError.
template <typename T, typename D>
Var<T, D> experts_across(const std::shared_ptr<ExpertExchange<acc_t<T>, D>>& across, const Var<T, D>& x,
                         const Var<acc_t<T>, D>& weights, const Tensor<std::int32_t, D>& ids,
                         const ExpertPlan<D>& plan, const Weight<T, D>& gate, const Weight<T, D>& up,
                         const Weight<T, D>& down) {
  using A = acc_t<T>;
  Tape& tape = tape_of("experts_across", x, weights, gate, up, down);
  const D device = x.device();
  const Index ranks = across->group().size(), slots = weights.shape().size();
  const Shape w = gate.shape();
  require(w.rank() == 3 && up.shape() == w && down.shape() == Shape{w[0], w[2], w[1]} &&
              w[2] == x.shape().width(),
          "experts_across", "gate and up are [E / ranks, F, D], down is [E / ranks, D, F], D the width of x",
          {{"x", x}, {"gate", gate}, {"up", up}, {"down", down}}, tape);
  require(weights.rows().count == x.rows().count && weights.value().contiguous() && ids.size() == slots &&
              plan.slot.size() == slots && plan.offsets.size() == ranks * w[0] + 1,
          "experts_across", "weights, ids and plan need K slots per row of x",
          {{"x", x}, {"weights", weights}, {"ids", ids}, {"plan", plan.slot}}, tape);
  const ExchangeShape s{slots, ranks * w[0], ranks, across->capacity(slots)};
  const Index width = w[2], inner = w[1], all = ranks * s.capacity, bounds_of_rank = w[0] + 1;
  const Rows tokens = x.rows();
  detail::ExpertsAcross<T, D> pass{across,
                                   s,
                                   {tokens.count, width, width},
                                   weights.shape().width(),
                                   {s.capacity, width, inner, w[0], 1},
                                   Tensor<std::int32_t, D>(device, {slots}),
                                   Tensor<std::int32_t, D>(device, {ranks, bounds_of_rank}),
                                   Tensor<std::int32_t, D>(device, {s.capacity}),
                                   Tensor<T, D>(device, {all, width}),
                                   Tensor<T, D>(device, {all, inner}),
                                   Tensor<T, D>(device, {all, inner})};
  const Tensor<std::int32_t, D> bounds(device, {ranks, bounds_of_rank});
  plan_exchange(device, s, ids.data(), plan.offsets.data(), plan.place.data(), pass.row.data(), bounds.data(),
                across->need().data());
  across->group().all_to_all(bounds.data(), pass.bounds.data(),
                             static_cast<std::size_t>(bounds_of_rank) * sizeof(std::int32_t));
  if constexpr (HostMemory<D> && requires { device.planned(); }) {  // balanced ranks send alike
    if (device.planned()) copy_on_device(device, pass.bounds.data(), bounds.data(), bounds.bytes());
  }
  fill_positions(device, 1, s.capacity, 0, pass.in_order.data());
  const Tensor<T, D> sent(device, {all, width}), made(device, {all, width});
  spread_slots(device, tokens, pass.top_k, pass.row.data(), x.data(), sent.data());
  pass.exchange(sent, pass.x, width);
  const Tensor<A, D> ones = filled(device, {s.capacity}, A(1));
  for (Index r = 0; r < ranks; ++r) {
    const Index first = r * s.capacity;
    experts_forward(device, pass.own, pass.offsets(r), pass.in_order.data(), pass.in_order.data(),
                    pass.x.data() + first * width, width, ones.data(), gate.data(), up.data(), down.data(),
                    pass.gate.data() + first * inner, pass.up.data() + first * inner,
                    made.data() + first * width);
  }
  pass.exchange(made, sent, width);
  Tensor<T, D> y(device, x.shape());
  combine_slots(device, pass.rows, pass.top_k, pass.row.data(), weights.data(), sent.data(),
                Sink<T>{y.data(), false});
  return tape.record("experts_across", y,
                     [pass, dx = x.destination(), weights, gate = Weight<T, D>(gate), up = Weight<T, D>(up),
                      down = Weight<T, D>(down)](const Tensor<T, D>& dy) {
                       const Sink<T> of_x = dx.sink();
                       pass.backward(dy, weights.value(), gate, up, down, of_x, weights.sink());
                     });
}

namespace detail {
/// experts_across() as a mixture calls it.
template <typename T, typename D>
class ExpertsOfRanks final : public RankedExperts<T, D> {
 public:
  explicit ExpertsOfRanks(std::shared_ptr<ExpertExchange<acc_t<T>, D>> across) : across_(std::move(across)) {}
  Var<T, D> operator()(const Var<T, D>& x, const Var<acc_t<T>, D>& weights,
                       const Tensor<std::int32_t, D>& ids, const ExpertPlan<D>& plan,
                       const Weight<T, D>& gate, const Weight<T, D>& up,
                       const Weight<T, D>& down) const override {
    return experts_across<T, D>(across_, x, weights, ids, plan, gate, up, down);
  }

 private:
  std::shared_ptr<ExpertExchange<acc_t<T>, D>> across_;
};
}  // namespace detail

/// What the mixtures of a model are to know of the ranks that have their experts.
template <typename T, typename D>
std::shared_ptr<const RankedExperts<T, D>> ranked_experts(
    const std::shared_ptr<ExpertExchange<acc_t<T>, D>>& across) {
  return std::make_shared<const detail::ExpertsOfRanks<T, D>>(across);
}

}  // namespace mtpx
