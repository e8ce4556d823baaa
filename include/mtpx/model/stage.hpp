#pragma once
// One micro-batch through a model or a slice of one: forward, and later back.

#include <mtpx/model/loss.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace mtpx {

/// What a slice of a model hands to the slice behind it, or the gradient of that, which it gets back.
template <typename T, typename D>
struct StageState {
  /// [0]: the state behind the last layer, [B, T, hidden]; then the embeddings of relayed_depths(), [B, T -
  /// k, hidden]. Nothing: there is no other slice.
  std::vector<Tensor<T, D>> x;
  /// The balance losses of the layers so far, [layers that have one]; undefined: none, or a gradient.
  Tensor<acc_t<T>, D> balance;

  /// Calls visit(tensor) for what travels, in order.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const auto& one : x) visit(one);
    if (balance.defined()) visit(balance);
  }
};

/// The depths, from 1, whose tokens are looked up by the slice that has the embedding, for windows of T
/// inputs: all that read one, but for modules with an embedding of their own.
template <typename T, typename D>
std::vector<Index> relayed_depths(const Transformer<T, D>& model, Index time) {
  const std::vector<Index>& own = model.config.mtpx_own_embeddings;
  std::vector<Index> all;
  if (!model.design.reads_token) return all;
  for (Index k = 1; k <= std::min(model.config.num_nextn_predict_layers, time - 1); ++k) {
    const Index owner = static_cast<Index>(model.design.module(k)) + 1;
    if (std::find(own.begin(), own.end(), owner) == own.end()) all.push_back(k);
  }
  return all;
}

/// Memory for what slices hand on behind layer `end` - 1.
template <typename T, typename D>
StageState<T, D> stage_state(const Transformer<T, D>& model, Index batch, Index time, Index end) {
  const Config& c = model.config;
  StageState<T, D> state;
  state.x.emplace_back(model.device(), Shape{batch, time, c.hidden_size});
  for (const Index k : relayed_depths(model, time))
    state.x.emplace_back(model.device(), Shape{batch, time - k, c.hidden_size});
  Index balances = 0;
  for (Index layer = 0; layer < end; ++layer) balances += c.is_moe(layer) && c.aux_loss_alpha > 0 ? 1 : 0;
  if (balances > 0) state.balance = Tensor<acc_t<T>, D>(model.device(), {balances});
  return state;
}

/// Memory for the gradient of that: of detached depths nothing comes back.
template <typename T, typename D>
StageState<T, D> stage_gradient(const Transformer<T, D>& model, Index batch, Index time) {
  StageState<T, D> state = stage_state(model, batch, time, 0);
  if (model.detach_depths) state.x.resize(1);
  return state;
}

/// One micro-batch through a slice: forward(), then backward(). A whole model is the slice that is handed
/// nothing. Slices one after the other give the gradients and losses of the whole to the last bit: they
/// record the same ops, and a state's gradient is gathered whole before it is handed back. Of the embedding,
/// whose owner looks up the depths' tokens behind its layers, the order of the sum is the whole model's, too:
/// from the last depth to the trunk.
///
/// Depths that do not chain run one after the other (Gloeckle et al. 2024, sec. 2 and fig. 2): the trunk runs
/// forward once; each head runs forward and back, adds to the gradient of the trunk's state, and is gone
/// before the next one starts; then the trunk runs back. Activations and logits of one head at a time, for
/// the same operations. Heads go from the last to the first, as the backward of a common tape would: the
/// gradients are the same to the last bit. (But for a tied embedding that depths read, whose uses take
/// turns.) Where depths learn from the main head, that one runs forward first, and stays.
///
/// Model and batch must live until backward is done.
template <typename T, typename D>
class StagePass {
 public:
  using A = acc_t<T>;  ///< type of losses

  /// share: 1 over the number of micro-batches that make a step
  StagePass(const Transformer<T, D>& model, const Batch<D>& batch, const TaughtLossOptions& options, A share)
      : model_(model), batch_(batch), options_(options), share_(share) {}
  /// Forward alone: then a slice with the head has all losses behind that, and slices hand on no balance
  /// losses.
  StagePass(const Transformer<T, D>& model, const Batch<D>& batch)
      : model_(model), batch_(batch), share_(1), tape_(Mode::inference) {}

  /// Runs the slice forward.   before: what the slice before it made
  void forward(const StageState<T, D>& before) {
    model_.check(tape_, batch_);
    depths_ = relayed_depths(model_, batch_.time());
    take(before);
    way_.emplace(model_.windows(batch_, received_));
    if (model_.slice.head && (model_.design.chains || !tape_.recording())) {
      Forward<T, D> out = model_.forward(tape_, *way_, last());
      out.balance.insert(out.balance.begin(), earlier_.begin(), earlier_.end());
      loss_ = mtp_loss(model_, out, batch_, options_);
    } else {
      z_ = model_.shared_state(tape_, *way_, balance_);
      if (!model_.slice.head) make(before);
    }
  }

  /// What forward() hands to the slice behind; nothing of a slice with the head.
  const StageState<T, D>& made() const { return made_; }

  /// Runs the slice back and adds `share` times the gradients to the parameters'.
  ///
  /// gradient: of made()   before_each: see Tape::run()
  void backward(const StageState<T, D>& gradient, const std::function<void()>& before_each = {}) {
    if (!model_.slice.head) {
      tape_.seed(z_, gradient.x[0]);
      if (!model_.detach_depths) {
        for (std::size_t i = 0; i < looked_up_.size(); ++i) tape_.seed(looked_up_[i], gradient.x[i + 1]);
      }
      seed_balance(tape_, balance_);
      tape_.run(before_each);
    } else if (model_.design.chains) {
      tape_.seed(loss_.total, share_of(1));
      tape_.run(before_each);
    } else {
      head_by_head(before_each);
    }
    give_back(gradient);
  }

  /// The gradient of what forward() was given; nothing of a slice with the embedding.
  const StageState<T, D>& given() const { return given_; }

  /// The losses, as constants, of a slice with the head, behind backward() or the forward that is alone.
  MtpLoss<T, D> loss() {
    using Loss = Var<A, D>;
    loss_.total = Loss(loss_.total.value());
    for (auto& depth : loss_.depths) depth.loss = Loss(depth.loss.value());
    return std::move(loss_);
  }

 private:
  Index last() const { return std::min(model_.config.num_nextn_predict_layers, batch_.time() - 1); }
  Tensor<A, D> share_of(double weight) const {
    return filled(model_.device(), {1}, static_cast<A>(weight) * share_);
  }
  void seed_balance(Tape& tape, const BalanceLosses<T, D>& balance) const {
    for (const auto& one : balance) tape.seed(one, share_of(1));
  }

  /// What came from the slice before, on the tape.
  void take(const StageState<T, D>& before) {
    if (model_.slice.embedding) return;
    received_.resize(static_cast<std::size_t>(last()) + 1);
    received_[0] = tape_.input(before.x[0]);
    for (std::size_t i = 0; i < depths_.size(); ++i) {
      const Tensor<T, D>& e = before.x[i + 1];
      received_[static_cast<std::size_t>(depths_[i])] =
          model_.detach_depths ? tape_.constant(e) : tape_.input(e);
    }
    for (Index i = 0; before.balance.defined() && i < before.balance.size(); ++i)
      earlier_.push_back(tape_.constant(before.balance.slice_front(i, i + 1)));
  }

  void make(const StageState<T, D>& before) {
    made_.x.push_back(z_.value());
    for (std::size_t i = 0; i < depths_.size(); ++i) {
      if (!model_.slice.embedding) {
        made_.x.push_back(before.x[i + 1]);
        continue;
      }
      looked_up_.push_back(
          embedding<T, D>(tape_, way_->tokens(depths_[i]), model_.for_depths(model_.embed_tokens)));
      made_.x.push_back(looked_up_.back().value());
    }
    BalanceLosses<T, D> all = earlier_;
    all.insert(all.end(), balance_.begin(), balance_.end());
    if (all.empty()) return;
    made_.balance = Tensor<A, D>(model_.device(), {static_cast<Index>(all.size())});
    for (std::size_t i = 0; i < all.size(); ++i)
      copy_on_device(model_.device(), made_.balance.data() + i, all[i].data(), sizeof(A));
  }

  void give_back(const StageState<T, D>& gradient) {
    if (model_.slice.embedding) return;
    const auto of = [&](Index k) {
      const Var<T, D>& x = received_[static_cast<std::size_t>(k)];
      const Tensor<T, D> dx = x.grad();
      return dx.defined() ? dx : Tensor<T, D>::zeros(x.device(), x.shape());
    };
    given_.x.push_back(of(0));
    if (model_.detach_depths) return;
    for (std::size_t i = 0; i < depths_.size(); ++i)
      given_.x.push_back(model_.slice.head ? of(depths_[i]) : gradient.x[i + 1]);
  }

  void head_by_head(const std::function<void()>& before_each) {
    const Index depth = model_.config.num_nextn_predict_layers;
    const auto heads = static_cast<std::size_t>(last()) + 1;
    std::vector<BalanceLosses<T, D>> balance(heads);
    std::vector<CrossEntropy<A, D>> losses(heads);
    Tape main_head;
    Var<T, D> main;
    const bool taught = options_.distill > 0;
    if (taught) main = model_.parallel_state(main_head.adopt(z_), 0, *way_, balance[0]);
    for (Index k = last(); k >= 0; --k) {
      const auto i = static_cast<std::size_t>(k);
      Tape own;
      Tape& head = taught && k == 0 ? main_head : own;
      const Var<T, D> normed =
          taught && k == 0 ? main : model_.parallel_state(head.adopt(z_), k, *way_, balance[i]);
      losses[i] = head_loss(model_, normed, k, taught ? main.value() : Tensor<T, D>(), batch_, options_);
      const Var<A, D>& loss = losses[i].loss;
      if (loss.wants_grad()) head.seed(loss, share_of(options_.weight(k, depth)));
      seed_balance(head, balance[i]);
      head.run(before_each);
    }
    seed_balance(tape_, balance_);
    tape_.run(before_each);

    Tape sum(Mode::inference);
    BalanceLosses<T, D> all;
    for (auto& one : losses) one.loss = sum.constant(one.loss.value());
    for (const auto* group : {&earlier_, &balance_}) {
      for (const auto& b : *group) all.push_back(sum.constant(b.value()));
    }
    for (const auto& group : balance) {
      for (const auto& b : group) all.push_back(sum.constant(b.value()));
    }
    loss_ = sum_losses<T, D>(std::move(losses), all, options_, depth);
  }

  const Transformer<T, D>& model_;
  const Batch<D>& batch_;
  TaughtLossOptions options_;
  A share_;
  std::vector<Index> depths_;  // that are relayed
  Tape tape_;
  std::vector<Var<T, D>> received_;        // by depth, see Windows::received()
  std::optional<Windows<T, D>> way_;       // which reads the batch
  BalanceLosses<T, D> earlier_, balance_;  // of slices before, of its own trunk layers
  Var<T, D> z_;                            // behind its layers, but for the main head's own
  std::vector<Var<T, D>> looked_up_;       // embeddings of the depths' tokens
  StageState<T, D> made_, given_;
  MtpLoss<T, D> loss_;
};

}  // namespace mtpx
