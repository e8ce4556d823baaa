#pragma once
// A training of a program's own that survives whatever ends it: Trainer with checkpoints between its steps.

#include <mtpx/io/train_state.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace mtpx {

/// Where a run keeps what it goes on from, and when it does what.
struct TrainRun {
  std::filesystem::path folder;  ///< locked while it runs; checkpoints are in folder/checkpoints
  Index save_every = 0;          ///< steps between checkpoints; 0: one behind the last step alone
  Index eval_every = 0;          ///< steps between calls of on_eval; 0: one behind the last step alone
  Json facts = Json::object();   ///< what decides the run's bits: another one's checkpoints are refused
  CheckpointOptions kept{};      ///< which checkpoints stay
  Json extra = Json::object();   ///< beside the model in checkpoints, as save_model() takes it
  std::optional<TokenizerFiles> tokenizer{};  ///< the same
};

/// What a program does between the steps of a run; what it leaves out is not done.
struct TrainCallbacks {
  /// Each step, in order. False ends the run behind the steps that were taken by then, with a checkpoint.
  std::function<bool(const StepReport& report)> on_step{};
  std::function<void(Index step)> on_eval{};                 ///< the model is that of the step
  std::function<void(Index step)> on_save{};                 ///< a checkpoint is being written
  std::function<void(const std::string& text)> on_notice{};  ///< a checkpoint that is not whole, leftovers
};

/// Takes the trainer's steps that are left: all of a new run's or, where folder/checkpoints has one, those
/// behind the newest whole checkpoint, with the bits of a run that was not interrupted. Checkpoints are
/// written by a thread beside the training. True when all steps were taken.
///
/// GPU: steps are queued between two saves, validations or sixteenth steps, and reported of together.
///
/// Throws ConfigError, field by field, where the checkpoint is another run's; FileError where another process
/// has the folder, and what saving fails with; NumericError for a step that is not finite, when the step
/// before has been saved.
template <typename T, typename D>
bool train_and_save(Trainer<T, D>& trainer, Transformer<T, D>& model, const TrainRun& run,
                    const TrainCallbacks& callbacks) {
  std::filesystem::create_directories(run.folder);
  const FolderLock lock(run.folder);
  Checkpoints checkpoints(run.folder / "checkpoints", run.kept);
  const auto notice = [&](const std::string& text) {
    if (callbacks.on_notice) callbacks.on_notice(text);
  };
  for (const auto& path : remove_stale(checkpoints.folder()))
    notice(cat("removed ", path.string(), ", which a process that is gone left half written"));
  Index saved = -1;
  if (const auto found = checkpoints.newest(notice)) {
    if (const std::string text = json_differences_text(found->run, run.facts); !text.empty())
      throw ConfigError(
          cat("[train] ", found->folder.string(), ": this is not the run that was saved", text));
    load_training(*found, trainer, model);
    saved = found->step;
  }
  const auto save = [&] {
    if (trainer.steps_done() == saved) return;
    saved = trainer.steps_done();
    save_training(checkpoints, trainer, model, run.facts, run.extra, run.tokenizer);
    if (callbacks.on_save) callbacks.on_save(saved);
  };
  const Index steps = trainer.options().steps, every = HostMemory<D> ? 1 : 16;
  const auto due = [&](Index period) {
    const Index step = trainer.steps_done();
    return step == steps || (period > 0 && step % period == 0);
  };
  bool goes_on = true;
  try {
    while (goes_on && trainer.steps_done() < steps) {
      trainer.advance();
      if (!due(every) && !due(run.save_every) && !due(run.eval_every)) continue;
      for (const StepReport& report : trainer.reports())
        if (callbacks.on_step && !callbacks.on_step(report)) goes_on = false;
      if (due(run.eval_every) && callbacks.on_eval) callbacks.on_eval(trainer.steps_done());
      if (!goes_on || due(run.save_every)) save();
    }
  } catch (const NumericError&) {
    for (const StepReport& report : trainer.reports())
      if (callbacks.on_step) callbacks.on_step(report);
    save();
    checkpoints.wait();
    throw;
  }
  checkpoints.wait();
  return trainer.steps_done() == steps;
}

}  // namespace mtpx
