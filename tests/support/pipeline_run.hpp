#pragma once
// A short training by the stages of a pipeline, and all that it leaves on each rank.

#include <mtpx/comm/grid.hpp>
#include <mtpx/train/layout.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"

namespace mtpx::test {

/// What a run leaves: tensors and the optimiser's state by name, and what its steps showed.
struct PipelineEnd {
  std::map<std::string, Numbers> tensors;
  std::vector<StepReport> reports;
};

struct PipelineCase {
  Config config;
  Index micros = 3, steps = 4;
  MtpLossOptions loss{};
  bool detached = false;
  double clip = 0.5;  // below the first norms
};

/// Random tokens, a function of the micro-batch alone.
inline BatchSource random_text(const Config& config) {
  return [vocab = config.vocab_size](Index micro) {
    HostBatch batch;
    batch.batch = 2;
    batch.seq = 7;
    batch.tokens = random_ids<Cpu>({2, 8}, static_cast<std::uint64_t>(micro), 0, vocab).to_host();
    return batch;
  };
}

template <typename T>
PipelineEnd train_stage(const PipelineCase& c, const ModelSlice& slice, const Grid<Cpu>& grid) {
  Transformer<T, Cpu> model(grid.stages.device(), c.config, c.config.design(), slice);
  initialize(model, 7, 0.3);
  model.detach_depths = c.detached;
  TrainOptions o{.steps = c.steps, .accumulation = c.micros, .lr = {.peak = 1e-2, .warmup = 1}};
  o.step.loss = c.loss;
  o.step.clip = c.clip;
  Trainer<T, Cpu> trainer(model, o, random_text(c.config), grid.data, grid.stages);
  PipelineEnd end;
  trainer.run([&](const StepReport& report) { end.reports.push_back(report); });
  const auto keep = [&](const std::string& name, const auto& tensor) { end.tensors[name] = host(tensor); };
  for_each_tensor(model, keep);
  trainer.optimizer().for_each_state(model, keep);
  return end;
}

/// A run of one process.
template <typename T>
PipelineEnd train_alone(const PipelineCase& c) {
  return train_stage<T>(c, ModelSlice::whole(c.config.num_hidden_layers), Grid<Cpu>(Group<Cpu>(Cpu(1)), 1));
}

inline bool same_report(const StepReport& a, const StepReport& b) {
  return a.step == b.step && a.loss == b.loss && a.total == b.total && a.lr == b.lr &&
         a.gradient_norm == b.gradient_norm;
}

/// That a rank is left with its part of what one process has; returns how many tensors that are.
inline std::size_t check_rank(const PipelineEnd& end, const PipelineEnd& want) {
  for (const auto& [name, numbers] : end.tensors) check_bits(numbers, want.tensors.at(name), name);
  REQUIRE(end.reports.size() == want.reports.size());
  for (std::size_t i = 0; i < want.reports.size(); ++i) CHECK(same_report(end.reports[i], want.reports[i]));
  return end.tensors.size();
}

/// A run of one of the ranks of `all`, which are copies of the layout's stages.
template <typename T>
PipelineEnd train_rank(const PipelineCase& c, const std::string& text, const Group<Cpu>& all) {
  const Layout layout = Layout::parse(text);
  layout.check(c.config);
  const Grid<Cpu> grid(all, static_cast<int>(layout.stages()));
  return train_stage<T>(c, layout.slice(grid.stages.rank()), grid);
}

}  // namespace mtpx::test
