#pragma once

#include <mtpx/nn/swiglu.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/fill.hpp>
#include <mtpx/ops/router.hpp>
#include <mtpx/ops/softmax.hpp>

namespace mtpx {

/// Sizes and rules of a mixture of experts.
struct MoeOptions {
  Index hidden = 0;          ///< width of x and y
  Index inner = 0;           ///< of one expert
  Index shared = 0;          ///< experts that every token goes through; run as one of shared * inner
  Routing routing;           ///< how a token chooses
  double balance_alpha = 0;  ///< weight of the sequence-wise balance loss; 0 = none
  Index part = 0;            ///< which part of the experts this rank has
  Index parts = 1;           ///< of how many equal ones; see Moe::across
  Int8Run int8_run{};        ///< of the experts' weights (see Parameter); the router's are numbers

  /// Experts of this rank.
  Index own() const { return routing.n_experts / parts; }
};

/// The router's parameters: gate.weight and, of sigmoids, the bias that steers selection.
template <typename T, typename D>
struct Gate {
  Linear<acc_t<T>, D> linear;  ///< W_gate, [E, hidden]
  /// [E], moved by counting, never by a gradient
  Optional<State<acc_t<T>, D>> e_score_correction_bias;

  static void members(auto& self, auto&& visit) {
    visit("", self.linear);
    visit("e_score_correction_bias", self.e_score_correction_bias);
  }
};

/// Weights of the routed experts, stacked.
template <typename T, typename D>
struct Experts {
  StackedWeight<T, D> gate_proj, up_proj;  ///< [E, inner, hidden]
  StackedWeight<T, D> down_proj;           ///< [E, hidden, inner]

  static void members(auto& self, auto&& visit) {
    visit("gate_proj", self.gate_proj);
    visit("up_proj", self.up_proj);
    visit("down_proj", self.down_proj);
  }
};

/// A mixture of experts (DeepSeek-V3 sec. 2.1.2, Eq. 12-20; DeepSeek-V2 sec. 2.2), without the residual:
///
///   s = sigmoid(W_gate x), V2: softmax(W_gate x),   y = sum over the chosen experts of g_i E_i(x) +
///   shared(x)
template <typename T, typename D>
struct Moe {
  MoeOptions options;                     ///< sizes and rules
  Gate<T, D> gate;                        ///< the router
  Experts<T, D> experts;                  ///< those that are chosen among
  Optional<SwiGlu<T, D>> shared_experts;  ///< what every token goes through; absent where shared = 0
  /// Where the other experts are, if this rank has not all.
  std::shared_ptr<const RankedExperts<T, D>> across;
  Tensor<acc_t<T>, D> load;       ///< [E]: slots each expert received since the last update_bias()
  Tensor<acc_t<T>, D> last_load;  ///< [E]: what update_bias() forgot last: the load of the latest step

  /// What a call gives.
  struct Output {
    Var<T, D> y;               ///< the shape of x
    Var<acc_t<T>, D> balance;  ///< [1], or undefined without balance_alpha and in inference
  };

  Moe() = default;
  [[gnu::cold]] Moe(const D& device, const MoeOptions& o)
      : options(o),
        gate{Linear<acc_t<T>, D>(device, o.hidden, o.routing.n_experts), {}},
        experts{stacked(device, o, o.inner, o.hidden), stacked(device, o, o.inner, o.hidden),
                stacked(device, o, o.hidden, o.inner)},
        load(Tensor<acc_t<T>, D>::zeros(device, {o.routing.n_experts})),
        last_load(Tensor<acc_t<T>, D>::zeros(device, {o.routing.n_experts})) {
    if (o.routing.scoring == ScoringFunc::sigmoid)
      gate.e_score_correction_bias.emplace(
          State<acc_t<T>, D>{Tensor<acc_t<T>, D>::zeros(device, {o.routing.n_experts})});
    if (o.shared > 0) shared_experts.emplace(device, o.hidden, o.shared * o.inner, o.int8_run);
  }

  /// x: [B, T, hidden], normed   returns y: [B, T, hidden]
  Output operator()(const Var<T, D>& x) const {
    Tape& tape = tape_of("moe", x);
    const auto affinities = gate.linear(x);
    const auto scores =
        options.routing.scoring == ScoringFunc::sigmoid ? sigmoid(affinities) : softmax(affinities);
    const auto chosen = route(scores, bias(), options.routing);
    const auto plan =
        plan_experts(chosen.ids, options.routing.n_experts, tape.statistics() ? load : Tensor<acc_t<T>, D>());
    Output out;
    const auto& [gate_proj, up_proj, down_proj] = experts;
    if (options.parts == 1) {
      out.y =
          mtpx::experts<T, D>(x, chosen.weights, plan, gate_proj.weight, up_proj.weight, down_proj.weight);
    } else {
      if (across == nullptr)
        throw Error("[moe] other ranks have experts, and it was not said which: share_experts()");
      out.y =
          (*across)(x, chosen.weights, chosen.ids, plan, gate_proj.weight, up_proj.weight, down_proj.weight);
    }
    if (shared_experts) out.y = add(out.y, (*shared_experts)(x));
    // Part of a training pass even where nothing is recorded: in the first run under checkpoint().
    if (options.balance_alpha > 0 && (tape.recording() || tape.statistics())) {
      out.balance = balance_loss(scores, options.routing.top_k, static_cast<acc_t<T>>(options.balance_alpha));
    }
    return out;
  }

  /// Adds what the call computes to the description of a fused decoding pass.
  void describe(DecodeFeedForward<T>& p) const {
    p.routing = options.routing;
    p.inner = options.inner;
    p.router = gate.linear.weight.data();
    p.bias = bias().data_or_null();
    p.gate = experts.gate_proj.weight.data();
    p.up = experts.up_proj.weight.data();
    p.down = experts.down_proj.weight.data();
    if (shared_experts) shared_experts->describe(p);
  }

  /// After an optimiser step: b_i += speed * sign(mean load - load_i) over the whole batch since the last
  /// call, micro-batches included; then forgets the load, which last_load keeps for whoever watches. Without
  /// a bias it forgets alone.
  ///
  /// scale: null, or that of the step's clip_norm(): where it is NaN, no bias moves
  void update_bias(double speed, const double* scale = nullptr) {
    copy_on_device(load.device(), last_load.data(), load.data(), load.bytes());
    if (!bias().defined()) return fill(load, 0);
    mtpx::update_bias(load, bias(), static_cast<acc_t<T>>(speed), scale);
  }

  static void members(auto& self, auto&& visit) {
    visit("gate", self.gate);
    visit("experts", self.experts);
    visit("shared_experts", self.shared_experts);
  }

 private:
  static StackedWeight<T, D> stacked(const D& device, const MoeOptions& o, Index out, Index in) {
    return {Parameter<T, D>(device, {o.own(), out, in}, o.int8_run), o.part * o.own(), o.routing.n_experts};
  }
  Tensor<acc_t<T>, D> bias() const {
    return gate.e_score_correction_bias ? gate.e_score_correction_bias->value : Tensor<acc_t<T>, D>();
  }
};

}  // namespace mtpx
