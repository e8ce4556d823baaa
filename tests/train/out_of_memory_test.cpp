// Memory that runs out in a training step, at every place in turn.

#include <mtpx/train/trainer.hpp>

#include "support/allocations.hpp"
#include "support/model.hpp"

#include <algorithm>
#include <new>
#include <optional>

using namespace mtpx;
using namespace mtpx::test;

namespace {

using SmallModel = Transformer<float, Cpu>;

std::vector<std::vector<float>> numbers_of(const SmallModel& model) {
  std::vector<std::vector<float>> all;
  for_each_tensor(model, [&](const std::string&, const auto& tensor) { all.push_back(tensor.to_host()); });
  return all;
}

/// A model that trains on windows without a pattern, two micro-batches a step.
struct SmallRun {
  Cpu cpu{1};
  SmallModel model = initial(cpu);
  Trainer<float, Cpu> trainer{
      model, {.steps = 10, .accumulation = 2, .lr = {.peak = 1e-2, .warmup = 2}}, &windows};

  static Config config() {
    Config c = mixture_config(1);
    c.num_hidden_layers = 2;
    return c;
  }
  static SmallModel initial(const Cpu& cpu) {
    SmallModel fresh(cpu, config());
    randomize(fresh, 1);
    return fresh;
  }
  static HostBatch windows(Index n) {
    HostBatch host = mtpx::detail::empty_batch(2, 5);
    for (Index i = 0; i < 12; ++i) {
      host.tokens.push_back(static_cast<std::int32_t>((7 * n + 5 * i + i * i) % 11));
      host.positions.push_back(static_cast<std::int32_t>(i % 6));
    }
    return host;
  }
};

}  // namespace

TEST_CASE("Trainer: a step whose memory runs out changes nothing, and can be taken again") {
  SmallRun whole;
  std::vector<StepReport> reports;
  for (int i = 0; i < 3; ++i) reports.push_back(whole.trainer.step());
  int thrown = 0, done = 0;
  for (const bool all : {false, true}) {
    // In its first step a trainer makes its state, later ones take less.
    for (const Index before : {Index{0}, Index{1}}) {
      SmallRun measured;
      for (Index i = 0; i < before; ++i) measured.trainer.step();
      const std::size_t start = allocations();
      measured.trainer.step();
      const std::size_t count = allocations() - start;
      // Some of the places, and all of the last ones, where the weights have been changed.
      for (std::size_t n = 0; n < count; n += n + 16 < count ? std::min(1 + n / 16, count - 16 - n) : 1) {
        CAPTURE(n);
        SmallRun run;
        for (Index i = 0; i < before; ++i) run.trainer.step();
        const auto weights = numbers_of(run.model);
        bool threw = false;
        std::optional<StepReport> report;
        fail_allocation(n, all);
        try {
          report = run.trainer.step();
        } catch (const std::bad_alloc&) {
          threw = true;
        }
        CHECK(stop_failing());
        thrown += threw;
        const Index steps = run.trainer.steps_done();
        CHECK(run.trainer.optimizer().steps() == steps);
        CHECK((steps == before || steps == before + 1));
        // A step that was taken, though its figures found no memory, is reported later.
        if (steps == before) {
          CHECK(numbers_of(run.model) == weights);
        } else {
          done += threw;
        }
        std::vector<StepReport> later = run.trainer.reports();
        if (report) later.insert(later.begin(), *report);
        while (run.trainer.steps_done() < 3) later.push_back(run.trainer.step());
        REQUIRE(later.size() == 3 - static_cast<std::size_t>(before));
        for (std::size_t i = 0; i < later.size(); ++i) {
          const StepReport& want = reports[i + static_cast<std::size_t>(before)];
          CHECK(later[i].step == want.step);
          CHECK(later[i].loss == want.loss);
          CHECK(later[i].gradient_norm == want.gradient_norm);
        }
        CHECK(numbers_of(run.model) == numbers_of(whole.model));
      }
    }
  }
  CHECK(thrown > 100);
  CHECK(done > 0);
}
