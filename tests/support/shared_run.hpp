#pragma once
// A short training that several ranks share, and all that it leaves.

#include <mtpx/train/across_stages.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"

namespace mtpx::test {

/// All that a run leaves: weights, optimiser's state, reports.
using Everything = std::map<std::string, Numbers>;

struct SharedRun {
  Config config;
  TrainOptions options{.steps = 20, .accumulation = 4, .lr = {.peak = 1e-2, .warmup = 2}};
  Index steps = 20;
  bool frozen = false;
  Index freezes = -1, thaws = -1;  // steps before which the main model is frozen, and trains again
  bool experts = false;            // each rank has a part of them, and ends with that part of everything

  static HostBatch batch(Index n) {
    HostBatch batch;
    batch.batch = 2, batch.seq = 9;
    for (Index i = 0; i < 20; ++i)
      batch.tokens.push_back(static_cast<std::int32_t>(
          Philox::block(3, static_cast<std::uint64_t>(n), static_cast<std::uint64_t>(i))[0] % 11));
    return batch;
  }

  template <typename T>
  Everything on(const Group<Cpu>& group) const {
    Transformer<T, Cpu> whole(group.device(), config);
    randomize(whole, 1);
    const Index parts = experts ? group.size() : 1;
    Transformer<T, Cpu> model = slice_of(whole, whole.slice.with_experts(experts ? group.rank() : 0, parts));
    if (frozen) model.freeze_main();
    Trainer<T, Cpu> trainer(model, options, &SharedRun::batch, group);
    Everything all;
    for (Index step = 0; step < steps; ++step) {
      if (step == freezes || step == thaws) model.freeze_main(step == freezes);
      const StepReport report = trainer.step();
      Numbers& to = all[cat("report ", step)];
      to = {report.total, report.gradient_norm};
      to.insert(to.end(), report.loss.begin(), report.loss.end());
    }
    for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
    trainer.optimizer().for_each_state(
        model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
    return all;
  }
};

/// That a rank is left with its part of what one process has, bit by bit.
inline void check_part(const Everything& got, const Everything& want) {
  for (const auto& [name, numbers] : got) check_bits(numbers, want.at(name), name);
}

/// A run for each kind of model: visit(name, run). The mixture at several depths, dense layers, heads that do
/// not chain.
template <typename Visit>
void each_shared_run(const Visit& visit) {
  for (const Index depth : {0, 1, 2}) visit(cat("mixture, D = ", depth), SharedRun{mixture_config(depth)});
  visit("dense", SharedRun{dense_config(1)});
  Config parallel = mixture_config(2);
  parallel.mtpx_heads = MtpHeads::parallel;
  visit("parallel heads", SharedRun{parallel});
}

}  // namespace mtpx::test
