// mtpx train: text in, a model folder out.

#include "metrics.hpp"
#include "progress.hpp"
#include "run_folder.hpp"
#include "text.hpp"

#include <mtpx/io/train_state.hpp>

#include <csignal>
#include <iostream>
#include <optional>

namespace program {
namespace {

volatile std::sig_atomic_t caught = 0;      // SIGINT or SIGTERM: finish the step, save, end
volatile std::sig_atomic_t wants_save = 0;  // SIGUSR1: finish the step, save, go on
void on_end(int signal) {
  if (caught != 0) std::_Exit(128 + signal);
  caught = signal;
}
void on_save(int) { wants_save = 1; }

struct TrainFlags {
  std::vector<std::string> data, validation_data;
  std::string out;
  ModelSource init;
  ConfigSource config;
  std::string tokenizer;
  mtpx::Index vocabulary = 0;
  mtpx::Index depth = -1;
  mtpx::TrainOptions train;
  mtpx::BatchOptions batches{.seed = 1337};
  std::string heads;
  double lambda = -1;
  double lambda_late = -1;
  std::string reduction;
  double depth_decay = 1;
  bool freeze_main = false;
  bool detach_depths = false;
  std::string divisor = "valid";
  double validation = 0.1;
  mtpx::Index eval_every = 0;
  mtpx::Index eval_windows = 64;
  std::string prompt;
  bool activation_checkpointing = false;
  bool force = false;
  bool overfit = false;
  bool export_no_mtp = false;
  bool tensorboard = false;
  CheckpointFlags checkpoints;
  mtpx::Index text_memory = 256;
  mtpx::Json facts;
  DeviceOptions device;
};

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

/// Only windows of one fixed batch, for `--overfit-batch`: the same step again and again.
mtpx::Tokens first_windows(const mtpx::Tokens& all, mtpx::Index count) {
  std::vector<std::int32_t> ids;
  for (mtpx::Index i = 0; i < count; ++i) ids.push_back(all.at(i % all.size()));
  mtpx::Tokens tokens;
  tokens.add(ids);
  return tokens;
}

/// The start of a text, up to a space: what samples continue where nobody says what.
std::string first_words(const mtpx::Tokens& text, const mtpx::Tokenizer& tokenizer) {
  constexpr std::size_t enough = 48;
  const mtpx::TokenizerParts& parts = tokenizer.parts();
  std::string words;
  for (mtpx::Index i = 0; !text.empty() && i < text.length(0) && words.size() < enough; ++i) {
    const std::int32_t id = text.at(i);
    const auto is = [id](const std::vector<std::int32_t>& ids) {
      return std::count(ids.begin(), ids.end(), id) > 0;
    };
    if (!is(parts.before) && !is(parts.after)) words += tokenizer.text(id);
  }
  words.resize(std::min(words.size(), enough));
  words.resize(std::min(words.size(), words.find_last_of(" \n")));
  return mtpx::Utf8Stream::valid(words) ? words : "";
}

/// What a run writes beside its model, for whoever watches it.
struct Watchers {
  Progress progress;
  JsonLines metrics, times;
  std::optional<mtpx::EventFile> events;
};

template <typename T, typename D>
void report_evaluation(Watchers& to, const mtpx::Transformer<T, D>& model, const mtpx::Tokenizer& tokenizer,
                       const mtpx::ValidationWindows& windows, mtpx::Index step, const TrainFlags& o) {
  const mtpx::Evaluation e =
      mtpx::evaluate(model, windows, o.train.mask_documents, token_bytes(tokenizer, model.config));
  if (e.empty()) return;
  to.progress.say(
      mtpx::cat("  validation at step ", step, ": ", fixed(e.bits_per_byte(), 3), " bits per byte"));
  for (std::size_t k = 0; k < e.loss.size(); ++k) {
    std::string line =
        mtpx::cat("    ", k == 0 ? "main head" : mtpx::cat("depth ", k, "  "), "  loss ", fixed(e.loss[k], 4),
                  "  equals the label ", fixed(100 * e.accuracy[k], 1), " %");
    if (k > 0) line += mtpx::cat("  equals the main head's choice ", fixed(100 * e.agreement[k], 1), " %");
    to.progress.say(line);
  }
  const auto loads = expert_loads(model);
  const std::string more = o.prompt.empty() ? "" : sample(model, tokenizer, o.prompt);
  if (!more.empty()) to.progress.say(mtpx::cat("  sample: ", mtpx::Json(o.prompt + more).dump()));
  to.metrics.add(evaluation_row(step, e, more.empty() ? "" : o.prompt + more, loads));
  if (to.events) write_output([&] { add_events(*to.events, step, e, loads); });
}

/// The weights that the design was published with, where none are asked for.
void set_weights(TrainFlags& o, const mtpx::Config& config) {
  const mtpx::MtpDesign design = config.design();
  const mtpx::MtpLossOptions published = mtpx::published_weights(design);
  mtpx::MtpLossOptions& loss = o.train.step.loss;
  loss.reduction = o.reduction == "sum"    ? mtpx::LossReduction::sum
                   : o.reduction == "mean" ? mtpx::LossReduction::mean
                                           : published.reduction;
  loss.lambda = o.lambda < 0 ? published.lambda : o.lambda;
  o.train.lambda.late = o.lambda_late >= 0 ? o.lambda_late : loss.lambda / design.late_divisor;
}

template <typename T, typename D>
void run(TrainFlags o, const D& device) {
  using Model = mtpx::Transformer<T, D>;
  RunFolder out(o.out, o.checkpoints);
  const auto say = [](const std::string& line) { std::cout << line << std::endl; };
  const std::optional<mtpx::Checkpoint> from = out.find(say);
  mtpx::ModelConfig source = o.init.folder.empty() ? o.config.read() : o.init.config();
  if (o.depth >= 0) source.config.num_nextn_predict_layers = o.depth;
  if (!o.heads.empty()) source.config.mtpx_heads = heads_of(o.heads);
  if (o.vocabulary > 0) source.config.vocab_size = o.vocabulary;
  source.config.validate();
  const mtpx::Index depth = source.config.num_nextn_predict_layers;
  set_weights(o, source.config);
  if (o.depth_decay != 1) o.train.step.loss.depth_weights = mtpx::exponential_weights(depth, o.depth_decay);
  if (o.divisor == "all") o.train.step.loss.divisor = mtpx::LossDivisor::all_positions;
  o.train.lr.warmup = std::min(o.train.lr.warmup, o.train.steps / 10);
  if (!mtpx::Utf8Stream::valid(o.prompt)) throw mtpx::ConfigError("[train] --prompt is not valid UTF-8");

  const mtpx::Index needed = mtpx::Batches::minimum(o.batches.seq, depth);
  const bool anew = o.init.folder.empty(), own_validation = o.validation_data.empty() && !o.overfit;
  const std::string tokenizer_file =
      anew ? o.tokenizer : (std::filesystem::path(o.init.folder) / "tokenizer.json").string();
  out.check(o.force);
  TextData data(o.data, !o.init.no_verify, o.text_memory);
  const mtpx::Tokenizer tokenizer =
      from   ? tokenizer_of(from->folder.string(), source.config)
      : anew ? new_tokenizer(o.tokenizer, source.config, data, own_validation ? o.validation : 0)
             : tokenizer_of(o.init.folder, source.config);
  const auto ids_of = [&](TextData& text, const char* kept) {
    return text.ids(tokenizer, out / kept, [&](const std::string& line) {
      make_out("train", o.out);
      say(line);
    });
  };
  const TextIds ids = ids_of(data, "text.tokens");
  mtpx::TokenSplit parts =
      own_validation ? ids.tokens.split(o.validation, needed) : mtpx::TokenSplit{ids.tokens, {}};
  mtpx::Json facts = o.facts;
  facts["device"] = device_name(device);
  facts["model"] = mtpx::Json::parse(mtpx::config_json(source.config, source.extra));
  facts["data"] = {{"train", mtpx::checksum_text(ids.fingerprint)},
                   {"validation", own_validation ? "held out" : "none"},
                   {"tokenizer", tokenizer_fact(tokenizer_file)}};
  if (!own_validation && !o.overfit) {
    TextData validation(o.validation_data, !o.init.no_verify, o.text_memory);
    const TextIds others = ids_of(validation, "validation.tokens");
    parts.validation = others.tokens;
    facts["data"]["validation"] = mtpx::checksum_text(others.fingerprint);
  }
  if (from) check_facts(*from, facts, o.checkpoints.overrides);
  if (o.prompt.empty()) o.prompt = first_words(parts.validation, tokenizer);
  const std::string text =
      mtpx::cat(ids.bytes, " bytes in ", ids.tokens.documents(), " documents, ", ids.tokens.size(),
                " tokens of ", tokenizer.size(), ", ", parts.train.size(), " to train on");
  if (o.overfit) parts.train = first_windows(parts.train, std::max(needed, o.batches.batch * o.batches.seq));
  mtpx::BatchOptions windows_of = o.batches;
  windows_of.depth = depth;
  if (o.overfit) windows_of.seed = 0;
  mtpx::Batches batches(std::move(parts.train), windows_of);
  const mtpx::ValidationWindows windows(std::move(parts.validation),
                                        {o.batches.batch, o.batches.seq, o.eval_windows, depth});

  mtpx::LoadedModel<T, D> loaded = anew || from
                                       ? mtpx::LoadedModel<T, D>{Model(device, source.config), source.extra}
                                       : o.init.load<T>(device);
  Model& model = loaded.model;
  if (anew && !from) {
    mtpx::initialize(model, o.batches.seed);
  } else if (model.config != source.config) {  // another depth or design
    model = mtpx::with_depths(model, depth, source.config.mtpx_heads, o.batches.seed);
  }
  model.activation_checkpointing = o.activation_checkpointing;
  model.detach_depths = o.detach_depths;
  if (o.freeze_main) model.freeze_main();
  mtpx::Trainer<T, D> trainer(model, o.train, std::move(batches));
  mtpx::Index skipped = 0, saved = -1;
  if (from) {
    mtpx::load_training(*from, trainer, model, {!o.init.no_mmap});
    skipped = from->run["state"]["skipped"].get<mtpx::Index>();
    saved = from->step;
  }
  const mtpx::Index done = trainer.steps_done();
  out.prepare(from, say);
  write_output([&] {
    mtpx::OutputFile file("train", out / "run.json");
    file.write(facts.dump(1) + '\n');
    file.commit();
  });
  Watchers to{Progress(o.train.steps),
              JsonLines(out / "metrics.jsonl", done),
              JsonLines(out / "times.jsonl", done),
              {}};
  if (o.tensorboard) write_output([&] { to.events.emplace(mtpx::EventFile::name_in(o.out), done); });

  to.progress.say(mtpx::cat("model: ", source.config.num_hidden_layers, " layers, depth ", depth, ", ",
                            source.config.parameter_count(), " parameters; text: ", text, "; ",
                            device_text(device)));
  if (windows.windows() == 0) to.progress.say("notice: no text is left over for validation");
  if (from) to.progress.say(mtpx::cat("resumed from ", from->folder.string(), ", behind step ", done));
  std::signal(SIGINT, on_end);
  std::signal(SIGTERM, on_end);
  std::signal(SIGUSR1, on_save);

  const mtpx::Index every = o.eval_every > 0 ? o.eval_every : std::max<mtpx::Index>(1, o.train.steps / 4);
  const mtpx::Index save_every = o.checkpoints.every >= 0 ? o.checkpoints.every : every;
  const mtpx::Index step_tokens = o.batches.batch * o.batches.seq * o.train.accumulation;
  const auto begin = Clock::now();
  auto start = begin;
  Spikes spikes;
  to.progress.begin(done);
  const auto record = [&] {
    const std::vector<mtpx::StepReport> reports = trainer.reports();
    if (reports.empty()) return;
    const double rate =
        static_cast<double>(step_tokens) * static_cast<double>(reports.size()) / seconds_since(start);
    to.progress.show(reports.back(), step_tokens);
    for (const mtpx::StepReport& report : reports) {
      if (const auto z = spikes.add(report.total))
        to.progress.say(mtpx::cat("notice: the loss of step ", report.step, ", ", fixed(report.total, 3),
                                  ", is ", fixed(*z, 1),
                                  " standard deviations above the mean of those before it"));
      to.metrics.add(step_row(report));
      if (to.events) write_output([&] { add_events(*to.events, report); });
    }
    to.times.add(time_row(reports.back().step, rate));
    start = Clock::now();
  };
  const auto failed_save = [&](const mtpx::FileError& error) {
    if (o.checkpoints.stop_on_failed_save) throw OutputError(error.what());
    to.progress.say(mtpx::cat("notice: ", error.what(), "; the run goes on"));
    saved = -1;
  };
  const auto save = [&] {
    if (saved == trainer.steps_done()) return;
    to.metrics.sync();
    saved = trainer.steps_done();
    mtpx::Json state{{"facts", facts}, {"state", {{"skipped", skipped}}}};
    const auto asked = Clock::now();
    try {
      mtpx::save_training(out.checkpoints(), trainer, model, std::move(state), loaded.extra,
                          [&](mtpx::Checkpoints::Files& files) {
                            if (!tokenizer.is_bytes())
                              files.text("tokenizer.json", tokenizer_text(tokenizer, tokenizer_file));
                          });
      to.times.add({{"step", saved}, {"save_s", seconds_since(asked)}});
    } catch (const mtpx::FileError& error) {
      failed_save(error);
    }
  };
  const auto finish_save = [&] {
    try {
      out.checkpoints().wait();
    } catch (const mtpx::FileError& error) {
      failed_save(error);
    }
  };
  // Reads what steps showed. False where one was bad and is left out: the run goes on behind it.
  const auto catch_up = [&] {
    try {
      record();
      return true;
    } catch (const mtpx::NumericError& error) {
      record();  // those before it
      if (o.checkpoints.stop_on_bad_step || ++skipped > o.checkpoints.skips) {
        save();
        finish_save();
        throw;
      }
      to.progress.say(mtpx::cat("notice: ", error.what(), "; its batch is left out"));
      to.metrics.add({{"step", trainer.steps_done() + 1}, {"left_out", error.what()}});
      trainer.resume(trainer.steps_done() + 1);
      return false;
    }
  };
  while (trainer.steps_done() < o.train.steps && caught == 0) {
    trainer.advance();
    const mtpx::Index step = trainer.steps_done();
    const bool evaluate = step % every == 0 || step == o.train.steps;
    const bool saves = (save_every > 0 && step % save_every == 0) || wants_save != 0;
    // To read figures is to wait for the device: a GPU, which has steps queued, is asked now and then.
    const bool at_once = mtpx::HostMemory<D>;
    if ((at_once || evaluate || saves || to.progress.shows(step) || step % 50 == 0) && !catch_up()) continue;
    if (evaluate) report_evaluation(to, model, tokenizer, windows, step, o);
    if (saves) {
      wants_save = 0;
      save();
    }
    if (evaluate || saves) start = Clock::now();
  }
  while (!catch_up()) continue;
  if (caught != 0) save();
  finish_save();
  const double elapsed = seconds_since(begin);
  write_output([&] { save_tokenizer(tokenizer, tokenizer_file, o.out); });
  write_output([&] { mtpx::save_model(o.out, model, loaded.extra, !o.export_no_mtp); });
  to.progress.say(
      mtpx::cat("trained ", trainer.steps_done() - done, " steps in ", fixed(elapsed, 1), " s, ",
                fixed(static_cast<double>((trainer.steps_done() - done) * step_tokens) / elapsed, 0),
                " tokens/s with validation; peak of tensors ",
                fixed(static_cast<double>(device.peak_bytes()) / 1048576.0, 0), " MiB; model in ", o.out));
  if (caught != 0) throw CLI::RuntimeError(128 + caught);
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainFlags>();
  TrainFlags& o = *options;
  o.train.lr.peak = 3e-3;
  o.train.lr.warmup = 100;
  CLI::App* command = app.add_subcommand("train", "Train a model on text and write it to a folder");
  command->add_option("--data", o.data,
                      "Files or folders of text, or a token file; default: this repository's own");
  command
      ->add_option("--text-memory", o.text_memory,
                   "MiB of text that are held in memory; the tokens of more go to a file in --out first")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--out", o.out, "Folder for config.json, model.safetensors and metrics.jsonl")
      ->required();
  auto* init =
      o.init.add(*command, "--init",
                 "Model folder to start from; --depth and --heads may ask for other depths than it has");
  command->add_flag("--export-no-mtp", o.export_no_mtp,
                    "Write the main model alone, for programs that know no MTP layers");
  o.config.add(*command);
  command
      ->add_option(
          "--tokenizer", o.tokenizer,
          "tokenizer.json of a new model; default: bytes for a vocabulary of 256, else byte-level BPE "
          "learnt from the text")
      ->excludes(init);
  command->add_option("--vocab-size", o.vocabulary, "Ids of a new model, over the configuration's vocab_size")
      ->check(CLI::Range(256, 1 << 24))
      ->excludes(init);
  command
      ->add_option("--depth", o.depth,
                   "Depth D: tokens predicted after the next, over num_nextn_predict_layers")
      ->check(CLI::Range(0, 64));
  command->add_option("--steps", o.train.steps, "Optimiser steps")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--batch", o.batches.batch, "Windows per micro-batch")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--seq", o.batches.seq, "Tokens per window, T")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--accumulation", o.train.accumulation, "Micro-batches per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--lr", o.train.lr.peak, "Peak learning rate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--warmup", o.train.lr.warmup, "Steps of the linear rise, at most a tenth of all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--weight-decay", o.train.step.adamw.weight_decay, "Decay of matrices")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--clip", o.train.step.clip, "Largest gradient norm; 0 = any")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_heads(*command, o.heads);
  auto* freeze = command->add_flag("--freeze-trunk", o.freeze_main,
                                   "Train the depths alone; the main model of --init stays as it is");
  command->add_flag("--detach-depths", o.detach_depths,
                    "The depths' losses train the depths alone; the main model trains on its own loss");
  command
      ->add_option(
          "--lambda", o.lambda,
          "Weight of the depths' losses, for the first two thirds; default: 0.3 (Eq. 25), for parallel "
          "heads 1")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--lambda-late", o.lambda_late,
                   "The same later; default: a third of --lambda, for parallel heads the same")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--lambda-switch", o.train.lambda.switch_at, "Share of the steps before it is later")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option(
          "--reduction", o.reduction,
          "Lambda times the mean or the sum of the depths' losses; default: mean, for parallel heads sum")
      ->check(CLI::IsMember({"mean", "sum"}));
  auto* weights = command
                      ->add_option("--depth-weights", o.train.step.loss.depth_weights,
                                   "Weights of depths 1, 2, .., separated by commas; missing ones are 1")
                      ->delimiter(',')
                      ->check(CLI::NonNegativeNumber);
  command->add_option("--depth-decay", o.depth_decay, "Weight of depth k is this to the power k - 1")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->excludes(weights);
  command
      ->add_option("--divisor", o.divisor,
                   "Divide a depth's loss by its valid rows, or by all positions (Eq. 24)")
      ->check(CLI::IsMember({"valid", "all"}))
      ->capture_default_str();
  command->add_option("--bias-speed", o.train.step.bias_update_speed, "Gamma of the router biases")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--mask-documents", o.train.mask_documents, "Attention stays inside documents");
  command->add_flag("--checkpoint-activations", o.activation_checkpointing, "Less memory, one more forward");
  command->add_option("--validation", o.validation, "Share of the text held out")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  command->add_option(
      "--validation-data", o.validation_data,
      "Files or folders, or a token file, to validate on instead; then all of --data is trained on");
  command->add_option("--eval-every", o.eval_every, "Steps between validations; default: a quarter of all")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--eval-windows", o.eval_windows, "Most validation windows")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option(
      "--prompt", o.prompt,
      "Start of the text sample shown with each validation; default: that of the held-out text");
  command->add_flag("--overfit-batch", o.overfit, "Train on one fixed batch only: every loss must go to 0");
  command->add_flag("--force", o.force, "Replace the model in --out");
  command->add_option("--seed", o.batches.seed, "Seed of weights and shuffling")->capture_default_str();
  o.device.add(*command);
  o.checkpoints.add(*command);
  command->add_flag("--tensorboard", o.tensorboard,
                    "Write figures to an event file in --out, too: tensorboard --logdir shows them");
  freeze->needs(init);
  command->callback([options, command] {
    options->facts = run_facts(*command);
    with_numbers(options->device,
                 [&](auto number, const auto& device) { run<decltype(number)>(*options, device); });
  });
}

}  // namespace program
