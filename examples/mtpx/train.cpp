// mtpx train: text in, a model folder out.

#include "train_loop.hpp"
#include "train_needs.hpp"

#include <mtpx/comm/grid.hpp>
#include <mtpx/io/sidecar.hpp>

namespace program {
namespace {

/// The model that a run begins with: a new one, that of --init, or one that a checkpoint is to be read into.
/// slice: what of it this rank has
template <typename T, typename D>
mtpx::LoadedModel<T, D> first_model(const TrainFlags& o, const TrainInput& in, const D& device,
                                    bool from_checkpoint, const mtpx::ModelSlice& slice) {
  using Model = mtpx::Transformer<T, D>;
  mtpx::Config config = in.source.config;
  const bool anew = o.init.folder.empty();
  std::optional<mtpx::ModelSlice> part;  // of the folder, where depths stay as they are
  if (!anew && !from_checkpoint) {
    mtpx::Config there = o.init.config().config;
    there.mtpx_draft_vocabulary = config.mtpx_draft_vocabulary;
    if (there == config) part = slice;
  }
  mtpx::LoadedModel<T, D> loaded =
      anew || from_checkpoint
          ? mtpx::LoadedModel<T, D>{Model(device, config, config.design(), slice), in.source.extra}
          : o.init.load<T>(device, part);
  config.mtpx_draft_vocabulary = loaded.model.config.mtpx_draft_vocabulary;
  if (anew && !from_checkpoint) {
    mtpx::initialize(loaded.model, o.batches.seed);
  } else if (loaded.model.config != config) {  // another depth or design
    loaded.model = mtpx::with_depths(loaded.model, in.depth(), config.mtpx_heads, o.batches.seed,
                                     o.copy_modules, config.mtpx_markov_rank);
  }
  if (loaded.model.slice != slice) loaded.model = mtpx::slice_of(loaded.model, slice);
  if (in.draft_ids) loaded.model.draft_from(*in.draft_ids);
  o.set_switches(loaded.model);
  return loaded;
}

/// Reads, one rank first, for it may write the text's ids, and makes sure that all were told the same.
TrainInput read_together(TrainFlags& o, const char* device, const std::optional<mtpx::Checkpoint>& from,
                         const RunFolder& out, const std::function<void(const std::string&)>& say,
                         const mtpx::World& world) {
  if (world.rank() != 0) world.host().barrier();
  TrainInput in = read_input(o, from, device, out, say);
  if (world.rank() == 0) world.host().barrier();
  mtpx::Json told = in.facts;
  told["from step"] = from ? from->step : 0;
  told["layout"] = o.layout;
  told["share-experts"] = o.share_experts;
  told["save-every"] = o.save_every();
  told["eval-every"] = o.evaluate_every();
  world.require_same("run", told.dump(1));
  return in;
}

/// Reads, plans and, unless it is a dry run, makes sure that all fits.
template <typename T, typename D>
TrainInput read_and_plan(TrainFlags& o, const D& device, const std::optional<mtpx::Checkpoint>& from,
                         const RunFolder& out, const std::function<void(const std::string&)>& say,
                         const mtpx::World& world, const std::optional<mtpx::Layout>& layout) {
  TrainInput in = read_together(o, device_name(device), from, out, say, world);
  TrainNeeds needs;
  if (layout || o.share_experts) {
    const mtpx::Config& config = in.source.config;
    const mtpx::Layout parts =
        layout ? *layout
               : mtpx::Layout::of_counts({config.num_hidden_layers}, config.num_nextn_predict_layers);
    parts.check(config);
    const auto stages = static_cast<int>(parts.stages());
    needs = needs_of_stage<T>(planned(device), o, in, parts, world.rank() % stages, world.size() / stages);
  } else {
    needs = needs_of<T>(planned(device), o, in, from.has_value(), world.size());
  }
  add_room(needs, o, from ? from->step : 0, memory_free(device));
  if (o.dry_run && world.rank() == 0) {
    std::cout << in.facts.dump(1) << '\n'
              << "text: " << in.text << '\n'
              << needs_text(needs, o) << std::flush;
  }
  require_room(needs, o);
  return in;
}

template <typename T, typename D>
void run(TrainFlags o, const D& device, const mtpx::World& world) {
  const bool leads = world.rank() == 0, writes = leads && !o.dry_run;
  std::optional<mtpx::Layout> layout;
  if (!o.layout.empty()) layout = mtpx::Layout::parse(o.layout);
  const mtpx::Grid<D> grid(group_of(world, device), layout ? static_cast<int>(layout->stages()) : 1);
  RunFolder out(o.out, o.checkpoints, writes);
  const auto say = [&](const std::string& line) {
    if (leads) std::cout << line << std::endl;
  };
  const std::optional<mtpx::Checkpoint> from = out.find(say);
  if (writes) out.check(o.force);
  const TrainInput in = read_and_plan<T>(o, device, from, out, say, world, layout);
  if (o.dry_run) return;

  const std::string main_model =
      o.sidecar ? mtpx::main_fingerprint(o.init.folder, o.init.options()) : std::string();
  mtpx::ModelSlice slice = layout ? layout->slice(grid.stages.rank())
                                  : mtpx::ModelSlice::whole(in.source.config.num_hidden_layers);
  if (o.share_experts) slice = slice.with_experts(grid.data.rank(), grid.data.size());
  mtpx::LoadedModel<T, D> loaded = first_model<T>(o, in, device, from.has_value(), slice);
  mtpx::Trainer<T, D> trainer(loaded.model, o.train, in.source_of_batches(), grid.data, grid.stages);
  mtpx::Index skipped = 0, saved = -1;
  if (from) {
    mtpx::load_training(*from, trainer, loaded.model, {!o.init.no_mmap});
    skipped = from->run["state"]["skipped"].get<mtpx::Index>();
    saved = from->step;
  }
  const mtpx::Index done = trainer.steps_done();
  world.host().barrier();  // all have read what is now replaced
  Watchers to{Progress(o.train.steps, leads), {}, {}, {}};
  if (leads) {
    out.prepare(from, say);
    write_output([&] {
      mtpx::OutputFile file("train", out / "run.json");
      file.write(in.facts.dump(1) + '\n');
      file.commit();
    });
    to.metrics = JsonLines(out / "metrics.jsonl", done);
    to.times = JsonLines(out / "times.jsonl", done);
    if (o.tensorboard) write_output([&] { to.events.emplace(mtpx::EventFile::name_in(o.out), done); });
  }

  const mtpx::Config& config = in.source.config;
  to.progress.say(mtpx::cat(
      "model: ", config.num_hidden_layers, " layers, depth ", in.depth(), ", ", config.parameter_count(),
      " parameters; text: ", in.text, "; ", device_text(device),
      world.size() > 1 ? mtpx::cat(", ", world.size(), " ranks") : std::string(),
      layout ? ", layout " + layout->text() : std::string(), o.share_experts ? ", experts shared out" : ""));
  if (in.windows.windows() == 0) to.progress.say("notice: no text is left over for validation");
  if (from) to.progress.say(mtpx::cat("resumed from ", from->folder.string(), ", behind step ", done));
  Signals::watch();
  const auto train_and_write = [&] {
    const double seconds = TrainLoop<T, D>(o, in, out, to, loaded, trainer, skipped, saved, world).run();
    if (!o.sidecar) {
      write_output([&] {
        mtpx::save_trained(o.out, trainer, loaded.model, loaded.extra, !o.export_no_mtp, in.tokenizer_files);
      });
      return seconds;
    }
    with_whole_model(trainer, loaded.model, [&](const auto& model) {
      write_output([&] { mtpx::save_sidecar(o.out, model, main_model); });
    });
    return seconds;
  };
  const double elapsed = while_all_live(device, train_and_write, [&] {
    try {
      out.checkpoints().wait();  // what is being written was copied before
    } catch (const mtpx::FileError& error) {
      say(error.what());
    }
  });
  to.times.add(memory_row(trainer.steps_done(), device.peak_bytes(), host_memory_peak()));
  const auto tokens = static_cast<double>((trainer.steps_done() - done) * o.batches.batch * o.batches.seq *
                                          o.train.accumulation);
  to.progress.say(mtpx::cat("trained ", trainer.steps_done() - done, " steps in ", fixed(elapsed, 1), " s, ",
                            fixed(tokens / elapsed, 0), " tokens/s with validation; peak of tensors ",
                            fixed(static_cast<double>(device.peak_bytes()) / 1048576.0, 0), " MiB; model in ",
                            o.out));
  world.host().barrier();  // who leaves first would look lost
  if (Signals::caught != 0) throw CLI::RuntimeError(128 + Signals::caught);
}

}  // namespace

void run_training(TrainFlags flags, const mtpx::World& world) {
  take_share(flags.device, world);
  with_numbers(flags.device,
               [&](auto number, const auto& device) { run<decltype(number)>(flags, device, world); });
}

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainFlags>();
  TrainFlags& o = *options;
  o.train.lr.peak = 3e-3;
  o.train.lr.warmup = 100;
  CLI::App* command = app.add_subcommand("train", "Train a model on text and write it to a folder");
  add_training_flags(*command, o);
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
      ->add_flag("--tie-word-embeddings", o.tie_word_embeddings,
                 "One matrix is embedding and output head of a new model, over the configuration's key")
      ->excludes(init);
  command
      ->add_option("--draft-vocabulary", o.draft_vocabulary,
                   "Drafts are picked from so many tokens, the most frequent of the text that is trained on, "
                   "over mtpx_draft_vocabulary; 0 = from all. No text changes")
      ->check(CLI::Range(0, 1 << 24));
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
  command
      ->add_option("--divisor", o.divisor,
                   "Divide a depth's loss by its valid rows, or by all positions (Eq. 24)")
      ->check(CLI::IsMember({"valid", "all"}))
      ->capture_default_str();
  command->add_option("--layout", o.layout,
                      "Stages of a pipeline, as Etttt|tttt|tttt|mL; its copies are the ranks that `mtpx "
                      "launch` started. See `mtpx plan`");
  command->add_flag(
      "--share-experts", o.share_experts,
      "Ranks that share a step's micro-batches have a part of the experts of every mixture each, "
      "and send tokens to them");
  command->add_flag("--overfit-batch", o.overfit, "Train on one fixed batch only: every loss must go to 0");
  freeze->needs(init);
  command->callback([options, command] {
    options->facts = run_facts(*command);
    run_training(*options, join_world());
  });
}

}  // namespace program
