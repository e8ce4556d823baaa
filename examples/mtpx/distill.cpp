// mtpx distill: depths that learn to say what a finished main model says, which stays as it is.

#include "progress.hpp"
#include "train.hpp"

#include <mtpx/io/token_writer.hpp>

#include <algorithm>
#include <iostream>

namespace program {
namespace {

using mtpx::Index;

struct DistillFlags {
  TrainFlags train;
  Index generate = 0;  ///< tokens of the model's own text; 0: --data as it is
  Index prompt = 16;   ///< tokens of --data that each of its texts goes on from
  Index side_by_side = 16;
  double temperature = 1;
  std::uint64_t seed = 1;
};

/// The starts of `count` texts, evenly spaced over what --data has to train on.
std::vector<std::vector<std::int32_t>> prompts_of(const DistillFlags& o, const mtpx::Tokenizer& tokenizer,
                                                  Index count) {
  const TrainFlags& t = o.train;
  mtpx::Tokens text = TextData(t.data, !t.init.no_verify).ids(tokenizer).tokens;
  if (t.validation_data.empty()) text = text.split(t.validation, o.prompt).train;
  if (text.size() <= o.prompt)
    throw mtpx::ConfigError(
        mtpx::cat("[distill] --prompt-tokens ", o.prompt, ": the text has ", text.size(), " tokens"));
  std::vector<std::vector<std::int32_t>> prompts(static_cast<std::size_t>(count));
  for (Index i = 0; i < count; ++i) {
    auto& ids = prompts[static_cast<std::size_t>(i)];
    ids.resize(static_cast<std::size_t>(o.prompt));
    text.read(i * (text.size() - o.prompt) / count, ids);
  }
  return prompts;
}

/// What the model writes, as a token file: documents as long as a window of the training, each the model's
/// own but for its first tokens.
template <typename T, typename D>
void write_own_text(const DistillFlags& o, const D& device, const std::filesystem::path& file) {
  const TrainFlags& t = o.train;
  const auto model = t.init.load<T>(device).model;
  const mtpx::Tokenizer tokenizer = tokenizer_of(t.init.folder, model.config, t.init.options());
  const Index length = std::min(t.batches.seq + 1, model.config.max_position_embeddings);
  mtpx::GenerateOptions options;
  options.max_tokens = length - o.prompt;
  if (options.max_tokens < 1)
    throw mtpx::ConfigError(
        mtpx::cat("[distill] --prompt-tokens ", o.prompt, ": a window has ", length, " tokens"));
  options.sampling.temperature = o.temperature;
  options.seed = o.seed;
  if (model.config.eos_token_id >= 0) options.stop = {static_cast<std::int32_t>(model.config.eos_token_id)};
  for (const Index id : model.config.more_eos_token_ids)
    options.stop.push_back(static_cast<std::int32_t>(id));
  const Index count = (o.generate + options.max_tokens - 1) / options.max_tokens;
  const auto prompts = prompts_of(o, tokenizer, count);
  std::optional<mtpx::TokenFileWriter> writer;
  write_output([&] { writer.emplace(file, tokenizer.size(), tokenizer.fingerprint()); });
  const auto start = Clock::now();
  Index written_tokens = 0, said = 0;
  const Index at_once = 16 * o.side_by_side;
  for (Index first = 0; first < count; first += at_once) {
    std::vector<std::vector<std::int32_t>> texts(prompts.begin() + first,
                                                 prompts.begin() + std::min(count, first + at_once));
    const auto starts = texts;
    mtpx::generate_batch(model, starts, o.side_by_side, options, [&](std::size_t i, std::int32_t token) {
      const bool known = token < tokenizer.size();
      if (known) texts[i].push_back(token);
      return known;
    });
    options.seed += starts.size();
    for (const auto& ids : texts) {
      std::string text;
      for (const std::int32_t id : ids) text += tokenizer.text(id);
      write_output([&] {
        writer->begin_document(text.size());
        writer->text(text);
        writer->add(ids);
        writer->end_document();
      });
      written_tokens += static_cast<Index>(ids.size()) - o.prompt;
    }
    if (written_tokens < said + o.generate / 10 && first + at_once < count) continue;
    said = written_tokens;
    std::cout << "own text: " << written_tokens << " tokens of " << count * options.max_tokens << ", "
              << fixed(static_cast<double>(written_tokens) / seconds_since(start), 0) << " tokens/s"
              << std::endl;
  }
  write_output([&] { writer->finish(); });
}

void run(DistillFlags o, const mtpx::World& world) {
  TrainFlags& t = o.train;
  if (o.generate > 0 && world.size() > 1)
    throw mtpx::ConfigError(
        "[distill] --generate writes its text in one process: train on that text with several");
  t.freeze_main = true;
  if (o.generate > 0 && !t.dry_run) {
    refuse_int8(t.init.config().config, t.init.folder);
    const RunFolder out(t.out, t.checkpoints, false);
    out.check(t.force);
    make_out("distill", t.out);
    const std::filesystem::path file = out / "own.tokens";
    if (t.checkpoints.resume.empty() || !mtpx::TokenFile::is(file)) {
      with_numbers(t.device, [&](auto number, const auto& device) {
        write_own_text<decltype(number)>(o, device, file);
      });
    }
    t.data = {file.string()};
  }
  run_training(t, world);
}

}  // namespace

void add_distill(CLI::App& app) {
  auto options = std::make_shared<DistillFlags>();
  DistillFlags& o = *options;
  TrainFlags& t = o.train;
  t.train.lr.peak = 1e-3;
  t.train.lr.warmup = 100;
  t.distill = "tv";
  CLI::App* command = app.add_subcommand(
      "distill", "Train the MTP layers of a finished model to say what its main head says; that one stays");
  add_training_flags(*command, t);
  t.init.add_mtp(*command, t.init.add(*command)->required());
  command->add_option("--out", t.out, "Folder for the model, or the sidecar, and metrics.jsonl")->required();
  command->add_flag("--sidecar", t.sidecar,
                    "Write the MTP layers alone, to mtp.safetensors in --out, for --mtp of other commands");
  command->add_flag("--copy", t.copy_modules,
                    "Modules that --depth adds, or --heads, begin as copies of the last; default: at random");
  auto* generate = command
                       ->add_option("--generate", o.generate,
                                    "Train on so many tokens that the model writes, instead of --data")
                       ->check(CLI::Range(1, 1 << 30));
  command->add_option("--prompt-tokens", o.prompt, "Of --data, that each of its texts goes on from")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(generate)
      ->capture_default_str();
  command->add_option("--temperature", o.temperature, "Of the texts that it writes; 0 = greedy")
      ->check(CLI::NonNegativeNumber)
      ->needs(generate)
      ->capture_default_str();
  command->add_option("--text-seed", o.seed, "Seed of these texts")->needs(generate)->capture_default_str();
  command->add_option("--side-by-side", o.side_by_side, "Texts that are written at a time")
      ->check(CLI::Range(1, 1 << 16))
      ->needs(generate)
      ->capture_default_str();
  command->callback([options, command] {
    options->train.facts = run_facts(*command);
    run(*options, join_world());
  });
}

}  // namespace program
