// mtpx generate: continue prompts, with or without drafts.

#include "writing.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>

namespace program {
namespace {

struct GenerateFlags : WritingFlags {
  ModelSource model;
  std::string prompt, prompts;
  mtpx::Index batch = 1;
  bool json = false;
  DeviceOptions device;
};

struct Prompt {
  std::string text;
  std::vector<std::int32_t> ids;
};

/// --prompt, or the lines of --prompts; each must be what can be tokenised and leaves room to generate.
std::vector<Prompt> read_prompts(const GenerateFlags& o, const mtpx::Config& config,
                                 const mtpx::Tokenizer& tokenizer) {
  std::vector<Prompt> prompts;
  std::vector<std::string> names;
  if (o.prompts.empty()) {
    prompts.push_back({o.prompt, {}});
    names.emplace_back("--prompt");
  } else {
    std::ifstream file(o.prompts);
    if (!file || std::filesystem::is_directory(o.prompts))
      throw mtpx::FileError(mtpx::cat("[generate] --prompts ", o.prompts, ": cannot be read"));
    mtpx::Index number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      if (line.ends_with('\r')) line.pop_back();
      if (line.empty()) continue;
      prompts.push_back({line, {}});
      names.push_back(mtpx::cat("--prompts ", o.prompts, " line ", number));
    }
    if (file.bad())
      throw mtpx::FileError(
          mtpx::cat("[generate] --prompts ", o.prompts, ": cannot be read behind line ", number));
    if (prompts.empty())
      throw mtpx::ConfigError(mtpx::cat("[generate] --prompts ", o.prompts, " has no line with text"));
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto fail = [&](const std::string& cause) {
      throw mtpx::ConfigError(mtpx::cat("[generate] ", names[i], cause));
    };
    if (prompts[i].text.empty()) fail(" is empty");
    if (!mtpx::Utf8Stream::valid(prompts[i].text)) fail(" is not valid UTF-8");
    prompts[i].ids = prompt_ids(prompts[i].text, tokenizer);
    if (static_cast<mtpx::Index>(prompts[i].ids.size()) >= config.max_position_embeddings) {
      fail(mtpx::cat(" has ", prompts[i].ids.size(),
                     " tokens; max_position_embeddings = ", config.max_position_embeddings,
                     " leaves room for ", config.max_position_embeddings - 1));
    }
  }
  return prompts;
}

mtpx::Json report(const mtpx::DecodeStatistics& s, mtpx::Index prompts) {
  std::vector<double> acceptance;
  for (std::size_t i = 0; i < s.accepted.size(); ++i) acceptance.push_back(s.acceptance(i));
  mtpx::Json line{{"tokens", s.tokens},
                  {"prompt_tokens", s.prompt_tokens},
                  {"prefill_seconds", s.prefill_seconds},
                  {"prefill_tokens_per_s", per_second(s.prompt_tokens, s.prefill_seconds)},
                  {"seconds", s.decode_seconds},
                  {"tokens_per_s", per_second(s.tokens - prompts, s.decode_seconds)},
                  {"passes", s.passes},
                  {"tokens_per_pass", s.tokens_per_pass()},
                  {"drafts", s.drafts},
                  {"drafted", s.drafted},
                  {"accepted", s.accepted},
                  {"acceptance", acceptance},
                  {"mean_length", s.mean_length()},
                  {"histogram", s.histogram}};
  add_draft_counts(line, s);
  return line;
}

template <typename T, typename D>
void run(GenerateFlags o, const D& device) {
  o.read(o.model.config().config, o.model.folder);
  auto loaded = o.model.load<T>(device);
  o.draft_vocabulary.set(loaded.model);
  const mtpx::Config& config = loaded.model.config;
  const mtpx::Tokenizer tokenizer = tokenizer_of(o.model.folder, config, o.model.options());
  o.generate.validate(config.num_nextn_predict_layers, config.design());
  const std::vector<Prompt> prompts = read_prompts(o, config, tokenizer);

  // One prompt streams; several are written in their order, once all have ended.
  const bool stream = prompts.size() == 1 && !o.json;
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<Written> texts;
  for (const Prompt& prompt : prompts) {
    tokens.push_back(prompt.ids);
    texts.push_back({Decoded(tokenizer), mtpx::StopText(o.stop), prompt.text});
  }
  const auto write = [&](const std::string& part) {
    std::cout << part << std::flush;
    return written();  // a closed pipe ends the run
  };
  if (stream && !write(prompts[0].text)) return;
  const mtpx::DecodeStatistics s =
      mtpx::generate_batch(loaded.model, tokens, o.batch, o.generate, [&](std::size_t i, std::int32_t token) {
        const std::string part = texts[i].push(token);
        return (!stream || write(part)) && !texts[i].stop.found();
      });
  if (stream) {
    if (!write(texts[0].finish() + '\n')) return;
  } else {
    for (Written& text : texts) text.finish();
  }
  const auto count = static_cast<mtpx::Index>(prompts.size());
  const auto say_more = [&] {
    mtpx::Index longest = 0;
    for (std::size_t i = 0; i < texts.size(); ++i)
      longest = std::max(longest, static_cast<mtpx::Index>(tokens[i].size()) + texts[i].tokens);
    say_if_past(config, longest);
  };
  if (!o.json) {
    for (std::size_t i = 0; !stream && i < texts.size(); ++i) {
      if (!write(texts[i].all + '\n')) return;
    }
    say_more();
    std::map<std::string, int> ends;
    for (const Written& text : texts) ++ends[text.ended(o.generate)];
    print_statistics(s, count, ends);
    return;
  }
  mtpx::Json line = report(s, count);
  if (o.prompts.empty()) {
    line["text"] = texts[0].all;
    line["ended"] = texts[0].ended(o.generate);
  } else {
    for (const Written& text : texts) {
      line["texts"].push_back(text.all);
      line["ended"].push_back(text.ended(o.generate));
    }
  }
  line["draft"] = o.generate.draft == mtpx::GenerateOptions::automatic ? mtpx::Json("auto")
                                                                       : mtpx::Json(o.generate.draft);
  if (config.mtpx_draft_vocabulary > 0) line["draft_vocabulary"] = config.mtpx_draft_vocabulary;
  std::cout << line.dump() << std::endl;
  if (written()) say_more();
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateFlags>();
  GenerateFlags& o = *options;
  o.generate.max_tokens = 256;
  o.model.decodes = true;
  CLI::App* command =
      app.add_subcommand("generate", "Continue prompts; text on standard output, figures on standard error");
  o.model.add_mtp(*command, o.model.add(*command)->required());
  auto* input = command->add_option_group("Input", "What to continue");
  auto* prompt = input->add_option("--prompt", o.prompt, "Text to continue");
  input->add_option("--prompts", o.prompts, "File with a prompt a line; prompt i is sampled with --seed + i")
      ->excludes(prompt);
  input->require_option(1);
  command->add_option("--batch", o.batch, "Prompts to decode side by side; their texts do not depend on it")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  o.add(*command, "Most tokens to generate, per prompt");
  command->add_flag("--json", o.json, "One JSON line with texts and figures instead");
  o.device.add(*command);
  command->callback([options] {
    with_numbers(options->device,
                 [&](auto number, const auto& device) { run<decltype(number)>(*options, device); });
  });
}

}  // namespace program
