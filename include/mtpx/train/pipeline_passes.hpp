#pragma once
// The micro-batches of a step through one stage of a pipeline.

#include <mtpx/comm/group.hpp>
#include <mtpx/model/stage.hpp>
#include <mtpx/train/pipeline.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace mtpx {

/// Forward and backward of all micro-batches of a step, in the order of one_f_one_b(), for the stage that
/// this rank of `stages` is. The model is that stage's slice; a group of one has the whole, and nothing
/// travels. Sends and receives are no ops: they stand at the ends of the tapes.
///
/// What is received to stands in memory of its own, from step to step: a state for each tape that lives at
/// once, and two gradients, one of which may still be handed on while the next one comes.
template <typename T, typename D>
class PipelinePasses {
 public:
  /// For so many micro-batches a step. The model must live as long. Throws ConfigError where it is not this
  /// rank's slice.
  PipelinePasses(const Transformer<T, D>& model, Index micros, const Group<D>& stages)
      : model_(model), stages_(stages) {
    const bool first = stages.rank() == 0, last = stages.rank() + 1 == stages.size();
    if (model.slice.embedding != first || model.slice.head != last) {
      throw ConfigError(cat("[pipeline] stage ", stages.rank(), " of ", stages.size(),
                            model.slice.embedding ? " has" : " lacks", " the embedding and",
                            model.slice.head ? " has" : " lacks",
                            " the output head: the first stage has the one, the last the other"));
    }
    list_ = one_f_one_b(stages.rank(), stages.size(), micros);
    passes_.resize(static_cast<std::size_t>(std::min<Index>(stages.size() - stages.rank(), micros)));
    states_.resize(passes_.size());
  }

  /// The ranks that have the model's parts.
  const Group<D>& stages() const { return stages_; }
  /// The schedule that run() follows.
  const std::vector<Action>& actions() const { return list_; }

  /// One step's passes: adds to the parameters' gradients.
  ///
  /// inputs: a batch per micro-batch, all of one shape   share: 1 over all micro-batches of the step
  /// before_each: see Tape::run(), of the backwards
  /// done(micro, pass) is called behind each backward, micro-batch by micro-batch in order
  template <typename Done>
  void run(const std::vector<Batch<D>>& inputs, const TaughtLossOptions& options, double share,
           const std::function<void()>& before_each, const Done& done) {
    reserve(inputs[0].batch(), inputs[0].time());
    std::vector<Transfer> group;
    std::vector<std::unique_ptr<StagePass<T, D>>> sent;  // whose gradients are on their way
    const auto exchange = [&] {
      stages_.send_receive(group);
      group.clear();
      sent.clear();
    };
    for (const Action& action : list_) {
      const std::size_t slot = slot_of(action.micro);
      auto& pass = passes_[slot];
      if (action.transfers()) {
        add(group, action);
        if (action.kind == Action::Kind::send_gradient) sent.push_back(std::move(pass));
        continue;
      }
      exchange();
      if (action.kind == Action::Kind::forward) {
        const Batch<D>& input = inputs[static_cast<std::size_t>(action.micro)];
        pass = std::make_unique<StagePass<T, D>>(model_, input, options, static_cast<acc_t<T>>(share));
        pass->forward(states_[slot]);
      } else {
        pass->backward(gradients_[static_cast<std::size_t>(action.micro % 2)], before_each);
        done(action.micro, *pass);
        if (model_.slice.embedding) pass.reset();
      }
    }
    exchange();
  }

  /// Makes now what run() makes when it is needed: the memory that is received to, how much depends on the
  /// model's switches. Before a step is recorded.   batch, time: of the inputs
  void reserve(Index batch, Index time) {
    if (stages_.size() == 1) return;
    if (!model_.slice.embedding && states_[0].x.empty()) {
      for (auto& state : states_) state = stage_state(model_, batch, time, model_.slice.begin);
    }
    if (model_.slice.head) return;
    const std::size_t wanted = model_.detach_depths ? 1 : 1 + relayed_depths(model_, time).size();
    for (auto& gradient : gradients_) {
      if (gradient.x.size() != wanted) gradient = stage_gradient(model_, batch, time);
    }
  }

  /// Drops what a run that threw has left.
  void forget() {
    for (auto& pass : passes_) pass.reset();
  }

 private:
  std::size_t slot_of(Index micro) const { return static_cast<std::size_t>(micro) % passes_.size(); }

  void add(std::vector<Transfer>& group, const Action& action) {
    const std::size_t slot = slot_of(action.micro);
    const auto peer = static_cast<int>(action.peer);
    const auto send = [&](const auto& tensor) {
      group.push_back(Transfer::send(peer, tensor.data(), tensor.bytes()));
    };
    const auto receive = [&](const auto& tensor) {
      group.push_back(Transfer::receive(peer, tensor.data(), tensor.bytes()));
    };
    switch (action.kind) {
      case Action::Kind::send_state:
        return passes_[slot]->made().for_each(send);
      case Action::Kind::receive_state:
        return states_[slot].for_each(receive);
      case Action::Kind::send_gradient:
        return passes_[slot]->given().for_each(send);
      default:
        return gradients_[static_cast<std::size_t>(action.micro % 2)].for_each(receive);
    }
  }

  const Transformer<T, D>& model_;
  Group<D> stages_;
  std::vector<Action> list_;
  std::vector<std::unique_ptr<StagePass<T, D>>> passes_;  // of the tapes that live, by micro-batch
  std::vector<StageState<T, D>> states_;                  // what their forwards read
  StageState<T, D> gradients_[2];
};

/// What the stages of a pipeline tell each other once a step, so that all of them clip, halt and report
/// alike.
template <typename D>
class StageFigures {
 public:
  explicit StageFigures(const Group<D>& stages) : stages_(stages) {}

  /// Makes the memory that joined() needs, before a step is recorded.   most: numbers that this stage has, at
  /// most
  void reserve(Index most) {
    if (stages_.size() == 1) return;
    const std::vector<Index> all = ask(most);
    const Index width = *std::max_element(all.begin(), all.end());
    if (all_.defined() && all_.shape().width() == width) return;
    all_ = Tensor<double, D>(stages_.device(), {static_cast<Index>(stages_.size()), width});
  }

  /// The numbers of all stages one behind the other, in the order of the stages. How many each has is asked
  /// for in the first call behind reserve() or forget(), and stays.
  Tensor<double, D> joined(const Tensor<double, D>& mine) {
    if (stages_.size() == 1) return mine;
    const D& device = stages_.device();
    const auto rank = static_cast<std::size_t>(stages_.rank());
    if (counts_.empty()) counts_ = ask(mine.size());
    const Index most = all_.shape().width();
    double* const place = all_.data() + static_cast<Index>(rank) * most;
    copy_on_device(device, place, mine.data(), mine.bytes());
    stages_.all_gather(place, all_.data(), static_cast<std::size_t>(most) * sizeof(double));
    Index total = 0;
    for (const Index count : counts_) total += count;
    const Tensor<double, D> joined(device, {total});
    double* to = joined.data();
    for (std::size_t s = 0; s < counts_.size(); ++s) {
      const auto count = static_cast<std::size_t>(counts_[s]);
      copy_on_device(device, to, all_.data() + static_cast<Index>(s) * most, count * sizeof(double));
      to += count;
    }
    return joined;
  }

  /// Makes these numbers of the last stage those of all.
  template <typename A>
  void take_from_last(const Tensor<A, D>& numbers) const {
    if (stages_.size() == 1) return;
    const Tensor<A, D> all(stages_.device(), {static_cast<Index>(stages_.size()), numbers.size()});
    stages_.all_gather(numbers.data(), all.data(), numbers.bytes());
    copy_on_device(stages_.device(), numbers.data(), all.data() + all.size() - numbers.size(),
                   numbers.bytes());
  }

  /// Asks again how many numbers each stage has.
  void forget() { counts_.clear(); }

 private:
  static bool plans(const D& device) {
    if constexpr (requires { device.planned(); }) return device.planned();
    return false;
  }
  /// How many each stage has.
  std::vector<Index> ask(Index mine) const {
    const D& device = stages_.device();
    const Tensor<double, D> counts(device, {static_cast<Index>(stages_.size())});
    double* const place = counts.data() + stages_.rank();
    fill_value(device, 1, static_cast<double>(mine), place);
    stages_.all_gather(place, counts.data(), sizeof(double));
    std::vector<Index> all;
    for (const double count : counts.to_host())  // where work is planned, nothing was said
      all.push_back(plans(device) ? mine : static_cast<Index>(count));
    return all;
  }

  Group<D> stages_;
  std::vector<Index> counts_;  // of each stage
  Tensor<double, D> all_;      // [stages, the most]
};

}  // namespace mtpx
