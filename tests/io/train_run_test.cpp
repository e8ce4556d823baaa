// train_and_save: a run in a program's own hands, ended and taken up again, with what it calls on the way.

#include <mtpx/io/instances.hpp>
#include <mtpx/io/train_run.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("train run");

namespace {

/// A run of 12 steps in a folder of this test's own; `log` is what was called, in order.
struct SavedRun {
  std::filesystem::path folder;
  Transformer<float, Cpu> model{device<Cpu>(), mixture_config(1)};
  Trainer<float, Cpu> trainer;
  TrainRun run;
  std::string log;

  static HostBatch batch(Index n) {
    HostBatch batch{2, 9, {}, {}};
    for (Index i = 0; i < 20; ++i) batch.tokens.push_back(static_cast<std::int32_t>((7 * n + i * i) % 11));
    return batch;
  }
  static TrainOptions options(double lr) { return {.steps = 12, .lr = {.peak = lr, .warmup = 2}}; }
  explicit SavedRun(const char* name, double lr = 1e-2)
      : folder(std::filesystem::temp_directory_path() / cat("mtpx-train-run-", ::getpid(), '-', name)),
        trainer(model, options(lr), batch),
        run{.folder = folder,
            .save_every = 5,
            .eval_every = 4,
            .facts = {{"lr", lr}},
            .kept = {},
            .tokenizer = TokenizerFiles{"ids", ""}} {
    initialize(model, 3);
  }
  bool go(Index until = 12) {
    TrainCallbacks callbacks;
    callbacks.on_step = [this, until](const StepReport& report) {
      log += cat(report.step, ' ');
      return report.step < until;
    };
    callbacks.on_eval = [this](Index step) { log += cat("eval@", step, ' '); };
    callbacks.on_save = [this](Index step) { log += cat("save@", step, ' '); };
    callbacks.on_notice = [](const std::string& text) { CHECK(text.starts_with("removed ")); };
    return train_and_save(trainer, model, run, callbacks);
  }
  std::string bytes() const {
    std::string all;
    for_each_tensor(model, [&](const std::string&, const auto& tensor) {
      all.append(reinterpret_cast<const char*>(tensor.data()), tensor.bytes());
    });
    return all;
  }
};

struct Gone {
  std::filesystem::path folder;
  ~Gone() { std::filesystem::remove_all(folder); }
};

}  // namespace

TEST_CASE("train_and_save: ended and taken up again, the bytes are those of a run that was not interrupted") {
  SavedRun whole("whole"), first("parts");
  const Gone a{whole.folder}, b{first.folder};
  CHECK(whole.go());
  CHECK(whole.log == "1 2 3 4 eval@4 5 save@5 6 7 8 eval@8 9 10 save@10 11 12 eval@12 save@12 ");
  CHECK_FALSE(first.go(7));
  CHECK(first.log == "1 2 3 4 eval@4 5 save@5 6 7 save@7 ");
  const auto half =
      first.folder / "checkpoints" / "step-00000009.tmp-2147483647";  // of a process that is gone
  std::filesystem::create_directories(half);
  SavedRun second("parts");
  CHECK(second.go());
  CHECK_FALSE(std::filesystem::exists(half));
  CHECK(second.log == "8 eval@8 9 10 save@10 11 12 eval@12 save@12 ");
  CHECK(second.bytes() == whole.bytes());
  SavedRun third("parts");  // nothing is left to do
  CHECK(third.go());
  CHECK(third.log.empty());
  CHECK(third.bytes() == whole.bytes());

  // A checkpoint is a model folder, whose weights know what belongs to them.
  const auto last = whole.folder / "checkpoints" / "step-00000012";
  CHECK(read_model_config(last).config == whole.model.config);
  CHECK(tokenizer_path(last) == last / "tokenizer.json");
  std::ofstream(last / "tokenizer.json") << "others";
  CHECK_THROWS_AS(tokenizer_path(last), FileError);
  Config other = whole.model.config;
  other.rope_theta *= 2;
  write_config(last / "config.json", other);
  CHECK_THROWS_AS(read_model_config(last), FileError);
}

TEST_CASE("train_and_save: another run's checkpoint, a folder in use and a step that is not finite") {
  SavedRun first("refused");
  const Gone a{first.folder};
  CHECK_FALSE(first.go(6));
  SavedRun other("refused", 2e-2);
  const std::string want = cat("[train] ", (first.folder / "checkpoints" / "step-00000006").string(),
                               ": this is not the run that was saved\n  lr: 0.01 then, 0.02 now");
  CHECK_THROWS_WITH_AS(other.go(), want.c_str(), ConfigError);
  {
    const FolderLock lock(first.folder);
    CHECK_THROWS_AS(SavedRun("refused").go(), FileError);
  }
  SavedRun bad("bad", 1e30);
  const Gone b{bad.folder};
  CHECK_THROWS_AS(bad.go(), NumericError);
  CHECK(bad.log.ends_with(cat("save@", bad.trainer.steps_done(), ' ')));
  CHECK(Checkpoints(bad.folder / "checkpoints").steps() == std::vector{bad.trainer.steps_done()});
}

TEST_SUITE_END();
