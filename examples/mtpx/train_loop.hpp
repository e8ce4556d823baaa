#pragma once
// The loop of `mtpx train`: steps, figures, validations, checkpoints.

#include "metrics.hpp"
#include "operations.hpp"
#include "progress.hpp"
#include "roofs.hpp"
#include "train.hpp"

#include <mtpx/io/train_state.hpp>
#include <mtpx/train/evaluate_parts.hpp>

#include <csignal>
#include <iostream>
#include <optional>
#include <string>

namespace program {

/// What comes after the prompt: some 120 bytes; nothing if the prompt leaves no room.
template <typename T, typename D>
std::string sample(const mtpx::Transformer<T, D>& model, const mtpx::Tokenizer& tokenizer,
                   const std::string& prompt) {
  constexpr std::size_t enough = 120;
  const std::vector<std::int32_t> ids = prompt_ids(prompt, tokenizer);
  mtpx::GenerateOptions options;
  options.max_tokens = std::min(static_cast<mtpx::Index>(enough),
                                model.config.max_position_embeddings - static_cast<mtpx::Index>(ids.size()));
  if (options.max_tokens < 1) return "";
  options.sampling = {0.7, 0, 0.95};
  Decoded text(tokenizer);
  std::string out;
  mtpx::generate(model, ids, options, [&](std::int32_t token) {
    out += text.push(token);
    return out.size() < enough;
  });
  return out + text.finish();
}

/// What a run writes beside its model, for whoever watches it.
struct Watchers {
  Progress progress;
  JsonLines metrics, times;
  std::optional<mtpx::EventFile> events;
};

/// more: what the model writes behind the prompt   loads: expert_loads() of the model
inline void report_evaluation(Watchers& to, const mtpx::Evaluation& e, mtpx::Index step,
                              const std::string& prompt, const std::string& more,
                              const std::vector<std::vector<double>>& loads) {
  to.progress.say(
      mtpx::cat("  validation at step ", step, ": ", fixed(e.bits_per_byte(), 3), " bits per byte"));
  for (std::size_t k = 0; k < e.loss.size(); ++k) {
    std::string line =
        mtpx::cat("    ", k == 0 ? "main head" : mtpx::cat("depth ", k, "  "), "  loss ", fixed(e.loss[k], 4),
                  "  equals the label ", fixed(100 * e.accuracy[k], 1), " %");
    if (k > 0) line += mtpx::cat("  equals the main head's choice ", fixed(100 * e.agreement[k], 1), " %");
    to.progress.say(line);
  }
  if (!more.empty()) to.progress.say(mtpx::cat("  sample: ", mtpx::Json(prompt + more).dump()));
  to.metrics.add(evaluation_row(step, e, more.empty() ? "" : prompt + more, loads));
  if (to.events) write_output([&] { add_events(*to.events, step, e, loads); });
}

/// What signals ask of the loop. Of one process, as signals are.
struct Signals {
  inline static volatile std::sig_atomic_t caught = 0;      // SIGINT or SIGTERM: finish the step, save, end
  inline static volatile std::sig_atomic_t wants_save = 0;  // SIGUSR1: finish the step, save, go on

  static void watch() {
    std::signal(SIGINT, on_end);
    std::signal(SIGTERM, on_end);
    std::signal(SIGUSR1, on_save);
  }

 private:
  static void on_end(int signal) {
    if (caught != 0) std::_Exit(128 + signal);
    caught = signal;
  }
  static void on_save(int) { wants_save = 1; }
};

/// Operations a second that a share of is shown: on the host those that are measured, on a GPU those that are
/// known.
template <typename T>
double peak_of(const mtpx::Cpu& cpu) {
  return fma_peak(cpu, 2);
}
#ifdef MTPX_CUDA
template <typename T>
double peak_of(const mtpx::Cuda& gpu) {
  return known_peak<T>(gpu);
}
#endif

/// Calls use(model) with the whole model on the rank that leads; of a pipeline's stages it is put together
/// there, for as long as the call takes.
template <typename T, typename D, typename Use>
void with_whole_model(const mtpx::Trainer<T, D>& trainer, const mtpx::Transformer<T, D>& part,
                      const Use& use) {
  const bool parts = part.slice.expert_parts > 1;
  if (trainer.group().rank() != 0 && !parts) return;
  if (trainer.stages().size() == 1 && !parts) return use(part);
  if (const auto whole = mtpx::collect_model(part, trainer.stages(), trainer.group())) use(*whole);
}

/// One run, from its first step or from a checkpoint.
template <typename T, typename D>
class TrainLoop {
 public:
  /// skipped, saved: bad steps left out before, and the step of the checkpoint that it goes on from, or -1
  TrainLoop(const TrainFlags& flags, const TrainInput& in, RunFolder& out, Watchers& to,
            mtpx::LoadedModel<T, D>& loaded, mtpx::Trainer<T, D>& trainer, mtpx::Index skipped,
            mtpx::Index saved, const mtpx::World& world)
      : o_(flags),
        in_(in),
        out_(out),
        to_(to),
        loaded_(loaded),
        trainer_(trainer),
        skipped_(skipped),
        saved_(saved),
        world_(world),
        step_tokens_(flags.batches.batch * flags.batches.seq * flags.train.accumulation) {}

  /// Takes the steps that are left, unless a signal ends it. Returns the seconds that it took.
  double run() {
    const mtpx::Index every = o_.evaluate_every(), save_every = o_.save_every();
    const double work = static_cast<double>(o_.train.accumulation) *
                        operations(loaded_.model.config, o_.batches.batch, o_.batches.seq, o_.freeze_main);
    const bool leads = world_.rank() == 0;
    const double peak = leads ? static_cast<double>(world_.size()) * peak_of<T>(loaded_.model.device()) : 0;
    const auto begin = Clock::now();
    start_ = begin;
    to_.progress.begin(trainer_.steps_done(), step_tokens_, peak > 0 ? work / peak : 0);
    Asked asked;
    while (trainer_.steps_done() < o_.train.steps && !(asked = agree_on_signals()).ends) {
      trainer_.advance();
      const mtpx::Index step = trainer_.steps_done();
      const bool evaluate = step % every == 0 || step == o_.train.steps;
      const bool saves = (save_every > 0 && step % save_every == 0) || asked.saves;
      // To read figures is to wait for the device: a GPU, which has steps queued, is asked now and then.
      const bool at_once = mtpx::HostMemory<D>;
      const bool reads = at_once || evaluate || saves || to_.progress.shows(step) || step % 50 == 0;
      if (reads && !catch_up()) continue;
      if (evaluate) validate(step);
      if (saves) {
        Signals::wants_save = 0;
        save();
      }
      if (evaluate || saves) start_ = Clock::now();
    }
    while (!catch_up()) continue;
    if (asked.ends) save();
    finish_save();
    return seconds_since(begin);
  }

 private:
  /// Ranks share the windows, stages and parts of the experts the model; the rank that leads has it whole
  /// only to write a sample.
  void validate(mtpx::Index step) {
    const mtpx::Transformer<T, D>& part = loaded_.model;
    const mtpx::Evaluation e = mtpx::evaluate(trainer_, part, in_.windows, o_.train.mask_documents,
                                              token_bytes(in_.tokenizer, part.config), world_.host());
    if (e.empty()) return;
    const auto loads = loads_of_all();
    std::string more;
    if (!o_.prompt.empty())
      with_whole_model(trainer_, part,
                       [&](const auto& model) { more = sample(model, in_.tokenizer, o_.prompt); });
    if (world_.rank() == 0) report_evaluation(to_, e, step, o_.prompt, more, loads);
  }

  /// Those of the first copy's stages, one behind the other; rank 0 has them.
  std::vector<std::vector<double>> loads_of_all() const {
    const auto own = expert_loads(loaded_.model);
    const auto stages = static_cast<std::size_t>(trainer_.stages().size());
    if (stages == 1) return own;
    std::vector<std::vector<double>> all;
    const std::vector<std::string> texts = world_.exchange(mtpx::Json(own).dump());
    for (std::size_t stage = 0; stage < stages; ++stage) {
      for (const auto& layer : mtpx::Json::parse(texts[stage])) all.push_back(layer);
    }
    return all;
  }

  /// What signals ask for: to end, to save.
  struct Asked {
    bool ends = false, saves = false;
  };
  /// Makes what signals ask one rank what all are asked. One that comes while ranks agree is for the next
  /// time, or ranks would not do the same.
  Asked agree_on_signals() const {
    const int own[] = {Signals::caught, Signals::wants_save};
    std::vector<int> all(2 * static_cast<std::size_t>(world_.size()));
    world_.host().all_gather(own, all.data(), sizeof own);
    Asked asked;
    for (std::size_t i = 0; i < all.size(); i += 2) {
      if (all[i] != 0) Signals::caught = all[i];
      asked.ends = asked.ends || all[i] != 0;
      asked.saves = asked.saves || all[i + 1] != 0;
    }
    return asked;
  }

  void record() {
    const std::vector<mtpx::StepReport> reports = trainer_.reports();
    if (reports.empty()) return;
    const double rate =
        static_cast<double>(step_tokens_) * static_cast<double>(reports.size()) / seconds_since(start_);
    to_.progress.show(reports.back());
    for (const mtpx::StepReport& report : reports) {
      if (const auto z = spikes_.add(report.total))
        to_.progress.say(mtpx::cat("notice: the loss of step ", report.step, ", ", fixed(report.total, 3),
                                   ", is ", fixed(*z, 1),
                                   " standard deviations above the mean of those before it"));
      to_.metrics.add(step_row(report));
      if (to_.events) write_output([&] { add_events(*to_.events, report); });
    }
    to_.times.add(time_row(reports.back().step, rate));
    start_ = Clock::now();
  }

  void failed_save(const mtpx::FileError& error) {
    if (o_.checkpoints.stop_on_failed_save) throw OutputError(error.what());
    to_.progress.say(mtpx::cat("notice: ", error.what(), "; the run goes on"));
    saved_ = -1;
  }

  /// The step of the last checkpoint: as the rank that writes them knows it, for a save may fail there alone.
  mtpx::Index agreed_saved() const {
    std::vector<mtpx::Index> all{saved_};
    all.resize(static_cast<std::size_t>(world_.size()));
    world_.host().all_gather(&saved_, all.data(), sizeof saved_);
    return all[0];
  }

  void save() {
    if (agreed_saved() == trainer_.steps_done()) return;
    to_.metrics.sync();
    saved_ = trainer_.steps_done();
    mtpx::Json state{{"facts", in_.facts}, {"state", {{"skipped", skipped_}}}};
    const auto asked = Clock::now();
    try {
      mtpx::save_training(out_.checkpoints(), trainer_, loaded_.model, std::move(state), loaded_.extra,
                          in_.tokenizer_files);
      to_.times.add({{"step", saved_}, {"save_s", seconds_since(asked)}});
    } catch (const mtpx::FileError& error) {
      failed_save(error);
    }
  }

  void finish_save() {
    try {
      out_.checkpoints().wait();
    } catch (const mtpx::FileError& error) {
      failed_save(error);
    }
  }

  /// Reads what steps showed. False where one was bad and is left out: the run goes on behind it.
  bool catch_up() {
    try {
      record();
      return true;
    } catch (const mtpx::NumericError& error) {
      record();  // those before it
      if (o_.checkpoints.stop_on_bad_step || ++skipped_ > o_.checkpoints.skips) {
        save();
        finish_save();
        throw;
      }
      to_.progress.say(mtpx::cat("notice: ", error.what(), "; its batch is left out"));
      to_.metrics.add({{"step", trainer_.steps_done() + 1}, {"left_out", error.what()}});
      trainer_.resume(trainer_.steps_done() + 1);
      return false;
    }
  }

  const TrainFlags& o_;
  const TrainInput& in_;
  RunFolder& out_;
  Watchers& to_;
  mtpx::LoadedModel<T, D>& loaded_;
  mtpx::Trainer<T, D>& trainer_;
  mtpx::Index skipped_, saved_;
  const mtpx::World& world_;
  mtpx::Index step_tokens_;
  Spikes spikes_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace program
