#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"
#include "support/thread_ranks.hpp"

#include <mutex>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/sharded.hpp");

namespace {

/// All that a run leaves: weights, optimiser's state, reports.
using Everything = std::map<std::string, Numbers>;

struct SharedRun {
  Config config;
  TrainOptions options{.steps = 20, .accumulation = 4, .lr = {.peak = 1e-2, .warmup = 2}};
  Index steps = 20;
  bool frozen = false;

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
    Transformer<T, Cpu> model(group.device(), config);
    randomize(model, 1);
    if (frozen) model.freeze_main();
    Trainer<T, Cpu> trainer(model, options, &SharedRun::batch, group);
    Everything all;
    for (Index step = 0; step < steps; ++step) {
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

  /// Every rank of 1, 2 and 4 ends with the same bytes.
  template <typename T>
  void check() const {
    const Everything want = on<T>(Group<Cpu>(Cpu(1)));
    for (const int ranks : {2, 4}) {
      CAPTURE(ranks);
      std::mutex one_at_a_time;
      on_ranks(
          ranks, [] { return Cpu(1); },
          [&](const Group<Cpu>& group) {
            const Everything got = on<T>(group);
            const std::lock_guard lock(one_at_a_time);
            CAPTURE(group.rank());
            check_bits(got, want);
          });
    }
  }
};

Config with_heads(Config config, MtpHeads heads) {
  config.mtpx_heads = heads;
  return config;
}

}  // namespace

TEST_CASE_TEMPLATE("Shards: 4 ranks, 2 and 1 have the same bytes after 20 steps", T, float, double, bf16) {
  for (const Index depth : {0, 1, 2}) {
    CAPTURE(depth);
    SharedRun{mixture_config(depth)}.check<T>();
  }
  SharedRun{dense_config(1)}.check<T>();
  SharedRun{with_heads(mixture_config(2), MtpHeads::parallel)}.check<T>();
}

TEST_SUITE_END();
