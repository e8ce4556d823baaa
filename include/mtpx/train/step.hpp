#pragma once
// One optimiser step, which a device that can record it does without the host.

#include <mtpx/core/recorded.hpp>
#include <mtpx/ops/experts_across.hpp>
#include <mtpx/train/adamw.hpp>
#include <mtpx/train/gradient_sums.hpp>
#include <mtpx/train/pipeline_passes.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace mtpx {

/// What a step does with a batch.
struct StepOptions {
  TaughtLossOptions loss{};         ///< weights of the depths
  AdamWOptions adamw{};             ///< constants of the optimiser
  double clip = 1.0;                ///< of the global gradient norm; 0: none
  double bias_update_speed = 1e-3;  ///< gamma of the router biases; 0: they stay
  double expert_room = 1.5;         ///< of ranks that share experts out, see ExpertExchange
  Index bucket = usual_bucket;      ///< of ranks that share the optimiser's state, see Shards
};

/// Forward, backward, clip, AdamW, router biases. Micro-batches' gradients are added one after the other, see
/// GradientSums. The same kernels on the same addresses every time: a device
/// that records (see Recorded) takes two steps by launching them, then replays. Calls return before the step
/// is done.
///
/// Where the total loss or the gradient norm of a step is not finite, this step and all steps behind it
/// change nothing: not the weights, the moments or the biases.
///
/// Nor does a step that throws, for memory ran out, and the next one is what it would have been. Should it
/// throw while weights and moments are being changed, all steps after it throw Error, until they have been
/// loaded again and rewind() says so.
template <typename T, typename D>
class TrainStep {
 public:
  using A = acc_t<T>;  ///< type of losses

  /// inputs: a batch per micro-batch, all of one shape. Steps read what stands in their memory: assign to it.
  /// Throws ShapeError for none, or of several shapes.
  TrainStep(Transformer<T, D>& model, std::vector<Batch<D>> inputs, const StepOptions& options)
      : TrainStep(model, std::move(inputs), options, Group<D>(model.device())) {}
  /// One of as many as the group has ranks, each with as many inputs. Input i of rank r is the step's
  /// micro-batch i * ranks + r; the step has the bits that one rank with all of them would give it. The
  /// optimiser's state is shared out, see Shards. Every rank makes the same calls. A model that has a part of
  /// the experts of every mixture is rank r's r-th of as many parts as there are ranks.
  TrainStep(Transformer<T, D>& model, std::vector<Batch<D>> inputs, const StepOptions& options,
            const Group<D>& group)
      : TrainStep(model, std::move(inputs), options, group, Group<D>(model.device())) {}
  /// The same of a stage of a pipeline, whose slice the model is. `group` are those that have that slice,
  /// too; `stages` those that have the others, each with the same inputs as this rank. All see the same
  /// losses and norm, and weights have the bits that the whole model would have. Throws what PipelinePasses
  /// throws.
  TrainStep(Transformer<T, D>& model, std::vector<Batch<D>> inputs, const StepOptions& options,
            const Group<D>& group, const Group<D>& stages)
      : model_(model),
        inputs_(std::move(inputs)),
        options_(options),
        group_(group),
        optimizer_(options.adamw, group, options.bucket),
        passes_(model, static_cast<Index>(inputs_.size()), stages),
        figures_(stages) {
    require(!inputs_.empty(), "train", "a step takes at least one batch");
    for (const Batch<D>& input : inputs_) {
      require(input.tokens.shape() == inputs_[0].tokens.shape(), "train", "batches of a step have one shape",
              {{"first", inputs_[0].tokens}, {"another", input.tokens}});
    }
    const Index depths = std::min(model.config.num_nextn_predict_layers, inputs_[0].time() - 1);
    losses_ = Tensor<A, D>(model.device(), {micros(), 2 + depths});
    if (model.slice.expert_parts > 1) {
      if (model.slice.expert_parts != group.size() || model.slice.expert_part != group.rank()) {
        throw ConfigError(cat("[train] rank ", group.rank(), " of ", group.size(), " has part ",
                              model.slice.expert_part, " of ", model.slice.expert_parts,
                              " of the experts: ranks that share a step's micro-batches have one part each"));
      }
      across_ = std::make_shared<ExpertExchange<A, D>>(group, options.expert_room);
      model.share_experts(ranked_experts<T, D>(across_));
    }
    if (group.size() > 1)
      own_losses_ = Tensor<A, D>(model.device(), {static_cast<Index>(inputs_.size()), 2 + depths});
    norm_ = Tensor<double, D>(model.device(), {1});
    halted_ = Tensor<double, D>(model.device(), {1});
    fill_value(model.device(), 1, 0.0, halted_.data());
  }

  /// Queues one step.
  void operator()(double lr) {
    if (begun_) forget();
    begun_ = true;
    const Constants constants{options_.loss.lambda, model_.activation_checkpointing, model_.detach_depths,
                              model_.main_frozen(), across_ ? across_->factor() : 0};
    if (constants_ != constants) {
      if (constants.main_frozen && passes_.stages().size() > 1)
        throw ConfigError("[train] the main model is frozen: all stages but the last have nothing to train");
      constants_ = constants;
      record_.forget();
      figures_.forget();
      if (optimizer_.shards() != nullptr) optimizer_.shards()->forget_order();
      passes_.reserve(inputs_[0].batch(), inputs_[0].time());
      Index parameters = 0;
      for_each_parameter(model_, [&](const std::string&, auto&) { ++parameters; });
      figures_.reserve(parameters + 1);  // and what is watched
      if constexpr (!HostMemory<D>) {
        optimizer_.reserve(model_);
        sums_.reserve(model_, static_cast<Index>(inputs_.size()));
      }
    }
    const Index steps = optimizer_.steps();
    try {
      optimizer_.begin_step(model_.device(), lr);
      record_(model_.device(), [this] { run(); });
    } catch (...) {
      if (!changing_) optimizer_.set_steps(steps);
      throw;
    }
    model_.config.mtpx_trained_window = std::max(model_.config.mtpx_trained_window, inputs_[0].time());
    begun_ = false;
  }

  /// Another weight of the depths' losses from the next step on, which is recorded anew, as it is where the
  /// model's switches are turned.
  void set_lambda(double lambda) { options_.loss.lambda = lambda; }

  /// Goes back over steps that changed nothing, or whose state has been loaded: `steps` were taken before
  /// them.
  void rewind(Index steps) {
    changing_ = false;
    optimizer_.set_steps(steps);
    fill_value(model_.device(), 1, 0.0, halted_.data());
    if (across_) across_->forget();
  }
  /// Whether a step counted for nothing because experts of another rank had too little room, and that they
  /// have more now: then the steps from that one on can be taken again, behind rewind(). Every rank makes the
  /// call.
  bool make_room() {
    if (!across_) return false;
    const Tensor<double, D> all(model_.device(), {stages().size()});
    const bool made = across_->make_room();
    fill_value(model_.device(), 1, made ? 1.0 : 0.0, all.data() + stages().rank());
    stages().all_gather(all.data() + stages().rank(), all.data(), sizeof(double));
    const std::vector<double> any = all.to_host();
    if (std::find(any.begin(), any.end(), 1.0) == any.end()) return false;
    across_->forget();
    return true;
  }

  /// What steps read: assign the next batch to their tensors.
  const std::vector<Batch<D>>& inputs() const { return inputs_; }
  /// The ranks that share the step, each with the same part of the model.
  const Group<D>& group() const { return group_; }
  /// The ranks that have the model's parts.
  const Group<D>& stages() const { return passes_.stages(); }
  /// As they were given; the loss's lambda is the latest.
  const StepOptions& options() const { return options_; }
  /// The optimiser with its moments, to save them or to go on from saved ones.
  AdamW<T, D>& optimizer() { return optimizer_; }
  /// [micro-batches, 1 + heads] of the step that was queued last: the total loss, then those of the main head
  /// and of depths 1, 2, ..; of all ranks' micro-batches, in their order.
  const Tensor<A, D>& losses() const { return losses_; }
  /// [1], of the step that was queued last, before clipping.
  const Tensor<double, D>& norm() const { return norm_; }

 private:
  /// What a record has baked in and may change between steps.
  struct Constants {
    double lambda;
    bool activation_checkpointing, detach_depths, main_frozen;
    double expert_room;
    bool operator==(const Constants&) const = default;
  };

  /// Of all ranks.
  Index micros() const { return static_cast<Index>(inputs_.size()) * group_.size(); }

  void run() {
    const D& device = model_.device();
    Shards<T, D>* const shards = optimizer_.shards();
    const Index all = micros(), width = losses_.shape().width();
    const double share = 1.0 / static_cast<double>(all);
    std::function<void()> before_each;
    if (shards != nullptr) {
      shards->reserve(model_);
      before_each = [shards] { shards->send_ready(); };
    }
    passes_.run(inputs_, options_.loss, share, before_each, [&](Index micro, StagePass<T, D>& pass) {
      if (model_.slice.head) keep(pass.loss(), micro);
      if (shards != nullptr) {
        shards->add(model_);
      } else {
        sums_.add(model_);
      }
    });
    if (shards != nullptr) {
      if (model_.slice.head) gather_losses();
      add_up_loads();
    } else {
      sums_.finish(model_);
    }
    Tensor<A, D> totals;  // which the stage that has them watches
    if (model_.slice.head) {
      totals = Tensor<A, D>(device, {all});
      copy_rows(device, all, 1, losses_.data(), width, totals.data(), 1, false);
    }
    figures_.take_from_last(losses_);
    const Tensor<double, D> own_squares = optimizer_.squares(model_, totals);
    if (across_) watch_room(own_squares);
    const Tensor<double, D> squares = figures_.joined(own_squares);
    const GradientClip<D> clip = detail::clip_by(device, squares, options_.clip, halted_);
    copy_rows(device, 1, 1, clip.norm.data(), 1, norm_.data(), 1, false);
    const auto parameters = optimizer_.gather(model_);
    changing_ = true;
    optimizer_.move(device, parameters, clip);
    model_.update_bias(options_.bias_update_speed, clip.scale.data());
    changing_ = false;
  }

  /// Where a slot found no room among the experts of any rank, the norm is NaN on all. Added to the first of
  /// the squares, which it leaves as it is otherwise: a number more would be another order of their sum.
  void watch_room(const Tensor<double, D>& squares) const {
    const D& device = model_.device();
    const Tensor<A, D> rooms(device, {group_.size()});
    group_.all_gather(across_->need().data() + 1, rooms.data(), sizeof(A));
    const Tensor<double, D> nothing(device, {1});
    detail::watch(device, rooms, nothing.data());
    scale_into(device, 1, 1.0, nothing.data(), Sink<double>{squares.data(), true});
  }

  /// Writes the losses of one of this rank's micro-batches.
  void keep(const MtpLoss<T, D>& loss, Index micro) {
    const Tensor<A, D>& rows = group_.size() > 1 ? own_losses_ : losses_;
    A* to = rows.data() + micro * rows.shape().width();
    const auto write = [&](const Var<A, D>& number) {
      copy_rows(model_.device(), 1, 1, number.data(), 1, to++, 1, false);
    };
    write(loss.total);
    for (const auto& depth : loss.depths) write(depth.loss);
  }
  /// The losses of all ranks' micro-batches, in the order of these.
  void gather_losses() {
    const Index ranks = group_.size(), width = losses_.shape().width();
    const Tensor<A, D> all(model_.device(), {ranks, own_losses_.size()});
    group_.all_gather(own_losses_.data(), all.data(), own_losses_.bytes());
    for (Index rank = 0; rank < ranks; ++rank)
      copy_rows(model_.device(), micros() / ranks, width, all.data() + rank * own_losses_.size(), width,
                losses_.data() + rank * width, ranks * width, false);
  }

  /// The experts' loads of all ranks: counts, whose sums are exact in any order.
  void add_up_loads() {
    std::vector<Tensor<A, D>> loads;
    Index count = 0;
    model_.for_each_load([&](const Tensor<A, D>& load) {
      loads.push_back(load);
      count += load.size();
    });
    if (count == 0) return;
    const D& device = model_.device();
    Tensor<A, D> own(device, {count}), all(device, {group_.size(), count});
    const auto each = [&](const auto& copy) {
      A* at = own.data();
      for (const Tensor<A, D>& load : loads) {
        copy(load, at);
        at += load.size();
      }
    };
    each([&](const Tensor<A, D>& load, A* to) { copy_on_device(device, to, load.data(), load.bytes()); });
    group_.all_gather(own.data(), all.data(), own.bytes());
    fold_parts(device, count, group_.size(), all.data(), Sink<A>{own.data(), false});
    each([&](const Tensor<A, D>& load, A* from) { copy_on_device(device, load.data(), from, load.bytes()); });
  }

  /// What a step that threw has left behind: gradients, loads of experts, half a record.
  void forget() {
    if (changing_)
      throw Error("[train] a step has thrown while it changed weights and moments: load them again");
    passes_.forget();
    figures_.forget();
    sums_.forget(model_);
    if (optimizer_.shards() != nullptr) optimizer_.shards()->forget();
    model_.zero_grad();
    model_.update_bias(0);
    record_.forget();
    constants_.reset();
    begun_ = false;
  }

  Transformer<T, D>& model_;
  std::vector<Batch<D>> inputs_;
  StepOptions options_;
  Group<D> group_;
  AdamW<T, D> optimizer_;
  std::shared_ptr<ExpertExchange<A, D>> across_;  // of ranks that share experts out
  PipelinePasses<T, D> passes_;
  StageFigures<D> figures_;
  GradientSums<T, D> sums_;
  Tensor<A, D> losses_, own_losses_;
  Tensor<double, D> norm_, halted_;
  std::optional<Constants> constants_;
  Recorded<D> record_;
  bool begun_ = false, changing_ = false;  // of a step that threw: whether it began, and changed weights
};

}  // namespace mtpx
