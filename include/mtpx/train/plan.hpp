#pragma once
// What a training takes, before it takes anything: its steps on a device that plans.

#include <mtpx/train/layout.hpp>
#include <mtpx/train/trainer.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// Bytes of a training, from the steps themselves: see plan_training().
struct TrainingPlan {
  /// Bytes of one part.
  struct Part {
    std::string name;       ///< of a layer, as its weights are named
    std::size_t bytes = 0;  ///< that it takes
  };

  Index parameters = 0;       ///< numbers that train, frozen ones included
  Index trained = 0;          ///< those that are not frozen
  std::size_t weights = 0;    ///< the model's tensors, as they are saved
  std::size_t gradients = 0;  ///< of trained parameters, in the accumulation type; twice, see GradientSums
  std::size_t moments = 0;    ///< AdamW's; of several ranks one's share
  std::size_t masters = 0;    ///< of bf16 parameters
  std::size_t other = 0;      ///< what else lasts: tables of rotations, batches, figures, rounding up
  /// The most that a step holds beside all these; on a device that records steps, with what an evaluation
  /// holds, whose memory is another pool's.
  std::size_t step = 0;
  /// What each layer keeps of one micro-batch's forward for its backward, in the order of the forward;
  /// `step` has these at once, unless depths do not chain (then one of them), and what works on them.
  std::vector<Part> layers;
  std::size_t peak = 0;      ///< pool's peak_bytes() of the whole run
  std::size_t reserved = 0;  ///< what the pool takes from the system for it
  std::size_t saved = 0;     ///< weights and the optimiser's whole state, as a checkpoint has them
  std::size_t largest = 0;   ///< tensor of those that are saved

  /// What lasts from step to step.
  std::size_t state() const { return weights + gradients + moments + masters + other; }
};

namespace detail {

/// Windows that note what the device holds before each block.
template <typename T, typename D>
struct CountedWindows {
  Windows<T, D> windows;
  const D& device;
  std::vector<std::pair<Index, std::size_t>> held;  // layer, bytes

  Tensor<std::int32_t, D> tokens(Index k) const { return windows.tokens(k); }
  Var<T, D> front(const Var<T, D>& h, Index k) const { return windows.front(h, k); }
  typename Block<T, D>::Output run(Index layer, const Block<T, D>& block, const Var<T, D>& x) {
    held.emplace_back(layer, device.pool().bytes_in_use());
    return windows.run(layer, block, x);
  }
};

/// What each layer keeps for backward.
template <typename T, typename D>
std::vector<TrainingPlan::Part> kept_by_layers(const Transformer<T, D>& model, const Batch<D>& batch) {
  Tape tape;
  CountedWindows<T, D> way{model.windows(batch), model.device(), {}};
  const auto out =
      model.forward(tape, way, std::min(model.config.num_nextn_predict_layers, batch.time() - 1));
  way.held.emplace_back(-1, model.device().pool().bytes_in_use());
  std::vector<TrainingPlan::Part> layers;
  for (std::size_t i = 0; i + 1 < way.held.size(); ++i) {
    const std::size_t before = way.held[i].second, after = way.held[i + 1].second;
    layers.push_back({cat("model.layers.", way.held[i].first), after > before ? after - before : 0});
  }
  return layers;
}

/// Ranks that are not there: nothing moves.
struct PlannedWire {
  int own = 0, ranks = 1;
  int rank() const { return own; }
  int size() const { return ranks; }
  template <typename D>
  void all_to_all(const D&, const void*, void*, std::size_t) {}
  template <typename D>
  void all_gather(const D&, const void*, void*, std::size_t) {}
  template <typename D>
  void send_receive(const D&, std::span<const Transfer>) {}
  template <typename D>
  void barrier(const D&) {}
  template <typename D>
  void check(const D&) {}
};

/// One of so many ranks.
template <typename D>
Group<D> planned_group(const D& device, int rank, int ranks) {
  return ranks == 1 ? Group<D>(device)
                    : Group<D>(device, std::make_shared<PlannedWire>(PlannedWire{rank, ranks}));
}

/// What lasts of a model and its trainer, of which `stays` bytes are held, and what a step held beside it.
template <typename T, typename D>
TrainingPlan plan_of(Transformer<T, D>& model, Trainer<T, D>& trainer, std::size_t stays) {
  TrainingPlan plan;
  plan.peak = model.device().peak_bytes();
  plan.reserved = model.device().reserved_bytes();
  for_each_parameter(model, [&](const std::string&, auto& parameter) {
    plan.parameters += parameter.shape().size();
    if (parameter.frozen()) return;
    plan.trained += parameter.shape().size();
    const std::size_t buffers = trainer.group().size() == 1 && trainer.options().accumulation > 1 ? 2 : 1;
    if (parameter.slot()->grad.defined()) plan.gradients += buffers * parameter.slot()->grad.bytes();
  });
  const auto saved = [&](std::size_t& sum, std::size_t bytes) {
    sum += bytes;
    plan.saved += bytes;
    plan.largest = std::max(plan.largest, bytes);
  };
  for_each_tensor(model,
                  [&](const std::string&, const auto& tensor) { saved(plan.weights, tensor.bytes()); });
  trainer.optimizer().for_each_state(model, [&](const std::string& name, const auto& tensor) {
    saved(std::string_view(name).ends_with(".master") ? plan.masters : plan.moments, tensor.bytes());
  });
  if (const Shards<T, D>* const shards = trainer.optimizer().shards()) {
    plan.moments = shards->moment_bytes();
    plan.masters = shards->master_bytes();
  }
  plan.other = stays - plan.weights - plan.gradients - plan.moments - plan.masters;
  plan.step = plan.peak - stays;
  return plan;
}

/// The first batch of windows, whose size all others have, and the last, which may be smaller.
template <typename Windows>
struct FirstAndLast {
  const Windows& all;
  Index size() const { return std::min<Index>(2, all.size()); }
  HostBatch at(Index i) const { return all.at(i == 0 ? 0 : all.size() - 1); }
};

}  // namespace detail

/// What a training of `options` will take: nothing of it is a formula. A model is made on `device`, which
/// plans (see Planned), two steps are taken, and batches of `validation` are evaluated, as they will be: the
/// same ops, kernels and workspaces in the same order. Batches are asked for as usual.
///
/// Assumed: routers in balance, where the host's products of experts depend on it; and that nothing else that
/// the program does with the device, such as sampling a text, holds more than a step does.
///
/// ranks: how many train together; the figures are one's
/// prepare(model) sets the model's switches; look(model, trainer) sees both after the steps, before they go.
/// Throws Error unless the device plans, and what Trainer throws.
template <typename T, typename D, typename Windows, typename Prepare, typename Look>
TrainingPlan plan_training(const D& device, const Config& config, const TrainOptions& options,
                           const BatchSource& batches, const Windows& validation, const Prepare& prepare,
                           const Look& look, int ranks = 1) {
  if (!device.planned()) throw Error("[plan] the device would do the work: make it with Planned{}");
  Transformer<T, D> model(device, config);
  prepare(model);
  const Group<D> group = detail::planned_group(device, 0, ranks);
  Trainer<T, D> trainer(model, options, batches, group);
  for (Index step = 0; step < std::min<Index>(2, options.steps); ++step) trainer.advance();
  const std::size_t stays = device.pool().bytes_in_use();
  evaluate(model, detail::FirstAndLast<Windows>{validation}, options.mask_documents);

  TrainingPlan plan = detail::plan_of(model, trainer, stays);
  const HostBatch first = batches(0);
  plan.layers = detail::kept_by_layers(model, upload(device, first, options.mask_documents));
  look(model, trainer);
  return plan;
}

/// What stage `stage` of a pipeline of `layout` takes, in the same way, without an evaluation: two of its
/// steps are taken, among stages that are not there. Its layers are not listed one by one.
///
/// copies: ranks that have the same stage, of whose state it has its share
/// share_experts: and each of them a part of the experts of every mixture, the first its first
template <typename T, typename D, typename Prepare>
TrainingPlan plan_stage(const D& device, const Config& config, const TrainOptions& options,
                        const BatchSource& batches, const Layout& layout, Index stage, int copies,
                        const Prepare& prepare, bool share_experts = false) {
  if (!device.planned()) throw Error("[plan] the device would do the work: make it with Planned{}");
  layout.check(config);
  Transformer<T, D> model(device, config, config.design(),
                          layout.slice(stage).with_experts(0, share_experts ? copies : 1));
  prepare(model);
  const auto stages = static_cast<int>(layout.stages());
  Trainer<T, D> trainer(model, options, batches, detail::planned_group(device, 0, copies),
                        detail::planned_group(device, static_cast<int>(stage), stages));
  for (Index step = 0; step < std::min<Index>(2, options.steps); ++step) trainer.advance();
  return detail::plan_of(model, trainer, device.pool().bytes_in_use());
}

}  // namespace mtpx
