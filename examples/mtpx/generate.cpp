// mtpx generate: continue prompts, with or without drafts.

#include "drafting.hpp"
#include "text.hpp"

#include <mtpx/io/stop_text.hpp>

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>

namespace program {
namespace {

struct GenerateFlags {
  ModelSource model;
  std::string prompt, prompts;
  mtpx::Index batch = 1;
  std::string draft = "auto";
  DraftVocabulary draft_vocabulary;
  std::vector<std::string> stop;
  mtpx::GenerateOptions generate;
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

/// A prompt and what came after it, as whole characters.
struct Written {
  Decoded characters;
  mtpx::StopText stop;
  std::string all;
  mtpx::Index tokens = 0;  // that came
  std::int32_t last = -1;  // of them

  /// Adds a token; returns what it completed.
  std::string push(std::int32_t token) {
    ++tokens;
    last = token;
    return add(stop.push(characters.push(token)));
  }
  std::string finish() {
    if (stop.found()) return "";
    const std::string last_part = stop.push(characters.finish());
    return add(last_part + (stop.found() ? "" : stop.finish()));
  }

  /// Why nothing more came.
  const char* ended(const mtpx::GenerateOptions& options) const {
    if (stop.found()) return "stop text";
    if (std::find(options.stop.begin(), options.stop.end(), last) != options.stop.end()) return "end token";
    return tokens == options.max_tokens ? "max tokens" : "end of the context";
  }

 private:
  std::string add(std::string part) {
    all += part;
    return part;
  }
};

double per_second(mtpx::Index count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

/// ends: how many texts ended by what
void print_statistics(const mtpx::DecodeStatistics& s, mtpx::Index prompts,
                      const std::map<std::string, int>& ends) {
  const auto rate = [](double value) {
    std::cerr << std::fixed << std::setprecision(value < 100 ? 1 : 0) << value << " tokens/s";
  };
  std::cerr << "prompt: " << s.prompt_tokens << " tokens, ";
  rate(per_second(s.prompt_tokens, s.prefill_seconds));
  std::cerr << "; " << s.tokens << " tokens in " << std::setprecision(2) << s.decode_seconds << " s, ";
  rate(per_second(s.tokens - prompts, s.decode_seconds));
  std::cerr << "; " << s.passes << " forward passes, " << std::setprecision(2) << s.tokens_per_pass()
            << " tokens per pass; ended by";
  for (const auto& [why, times] : ends)
    std::cerr << ' ' << why << (prompts > 1 ? mtpx::cat(" (", times, ")") : "");
  std::cerr << '\n';
  if (s.drafts == 0) return;
  std::cerr << s.drafts << " drafts; acceptance per position (accepted_i / drafts):" << std::setprecision(1);
  for (std::size_t i = 0; i < s.accepted.size(); ++i) std::cerr << ' ' << 100 * s.acceptance(i) << " %";
  std::cerr << "; mean length " << std::setprecision(2) << s.mean_length() << '\n';
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
  if (o.draft != "auto") o.generate.draft = std::stoll(o.draft);
  o.generate.sampling.validate();
  auto loaded = o.model.load<T>(device);
  o.draft_vocabulary.set(loaded.model);
  const mtpx::Config& config = loaded.model.config;
  const mtpx::Tokenizer tokenizer = tokenizer_of(o.model.folder, config, o.model.options());
  o.generate.validate(config.num_nextn_predict_layers, config.design());
  const std::vector<Prompt> prompts = read_prompts(o, config, tokenizer);
  if (config.eos_token_id >= 0) o.generate.stop.push_back(static_cast<std::int32_t>(config.eos_token_id));
  for (const mtpx::Index id : config.more_eos_token_ids)
    o.generate.stop.push_back(static_cast<std::int32_t>(id));

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

/// "auto" or a number from 0 to 1024.
std::string check_draft(const std::string& text) {
  const bool number = !text.empty() && text.size() <= 4 &&
                      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text == "auto" || (number && std::stoi(text) <= 1024)) return "";
  return "must be auto or a number from 0 to 1024, not " + text;
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateFlags>();
  GenerateFlags& o = *options;
  o.generate.max_tokens = 256;
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
  command->add_option("--max-tokens", o.generate.max_tokens, "Most tokens to generate, per prompt")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--stop", o.stop, "Text at which to end; it is not printed. May be given again")
      ->check([](const std::string& text) {
        return text.empty() || !mtpx::Utf8Stream::valid(text) ? std::string("must be text, and not empty")
                                                              : "";
      })
      ->allow_extra_args(false);
  command
      ->add_option("--draft", o.draft,
                   "Tokens to draft per pass; 0 = plain decoding, auto = as many as were measured to pay")
      ->check(check_draft)
      ->capture_default_str();
  o.draft_vocabulary.add(*command, "so many of the lowest ids");
  add_verification(*command, o.generate);
  command->add_option("--temperature", o.generate.sampling.temperature, "0 = greedy")->capture_default_str();
  command->add_option("--top-k", o.generate.sampling.top_k, "Sample among the k most likely; 0 = all")
      ->capture_default_str();
  command
      ->add_option("--top-p", o.generate.sampling.top_p, "Sample among the most likely that together reach p")
      ->capture_default_str();
  command->add_option("--seed", o.generate.seed, "Seed of the samples")->capture_default_str();
  command->add_flag("--json", o.json, "One JSON line with texts and figures instead");
  o.device.add(*command);
  command->callback([options] {
    with_numbers(options->device,
                 [&](auto number, const auto& device) { run<decltype(number)>(*options, device); });
  });
}

}  // namespace program
