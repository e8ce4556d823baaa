#pragma once
// What generate and chat share: how text is to be written, what came of it so far, and the figures behind it.

#include "drafting.hpp"
#include "text.hpp"

#include <mtpx/io/generation_config.hpp>
#include <mtpx/io/stop_text.hpp>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <map>

namespace program {

/// "auto" or a number from 0 to 1024.
inline std::string check_draft(const std::string& text) {
  const bool number = !text.empty() && text.size() <= 4 &&
                      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text == "auto" || (number && std::stoi(text) <= 1024)) return "";
  return "must be auto or a number from 0 to 1024, not " + text;
}

/// How long a text gets, how its tokens are picked and drafted, and what ends it.
struct WritingFlags {
  std::string draft = "auto";
  DraftVocabulary draft_vocabulary;
  std::vector<std::string> stop;
  mtpx::GenerateOptions generate;
  std::vector<const CLI::Option*> asked{};  ///< --temperature, --top-k, --top-p

  void add(CLI::App& command, const char* max_tokens) {
    command.add_option("--max-tokens", generate.max_tokens, max_tokens)
        ->check(CLI::Range(1, 1 << 30))
        ->capture_default_str();
    command.add_option("--stop", stop, "Text at which to end; it is not printed. May be given again")
        ->check([](const std::string& text) {
          return text.empty() || !mtpx::Utf8Stream::valid(text) ? std::string("must be text, and not empty")
                                                                : "";
        })
        ->allow_extra_args(false);
    command
        .add_option("--draft", draft,
                    "Tokens to draft per pass; 0 = plain decoding, auto = as many as were measured to pay")
        ->check(check_draft)
        ->capture_default_str();
    draft_vocabulary.add(command, "so many of the lowest ids");
    add_verification(command, generate);
    const char* const of_folder = "; default: the model's generation_config.json, or ";
    const auto sampling = [&](const char* name, auto& value, const char* help, const char* otherwise) {
      asked.push_back(command.add_option(name, value, mtpx::cat(help, of_folder, otherwise)));
    };
    sampling("--temperature", generate.sampling.temperature, "0 = greedy", "0");
    sampling("--top-k", generate.sampling.top_k, "Sample among the k most likely, 0 = all", "0");
    sampling("--top-p", generate.sampling.top_p, "Sample among the most likely that together reach p", "1");
    command.add_option("--seed", generate.seed, "Seed of the samples")->capture_default_str();
  }

  /// --draft, the sampling, and what ends a text, as decoding takes them. What no flag says of the sampling
  /// is as the model's generation_config.json has it, which is told.
  void read(const mtpx::Config& config, const std::filesystem::path& folder) {
    if (draft != "auto") generate.draft = std::stoll(draft);
    const mtpx::GenerationConfig makers = mtpx::read_generation_config(folder);
    mtpx::SamplingOptions& mine = generate.sampling;
    if (makers.sampling) {
      std::string said;
      const auto take = [&](std::size_t flag, const char* name, auto& value, const auto& theirs) {
        if (asked[flag]->count() > 0 || value == theirs) return;
        value = theirs;
        said += mtpx::cat(said.empty() ? "" : ", ", name, ' ', value);
      };
      take(0, "temperature", mine.temperature, makers.sampling->temperature);
      if (!mine.greedy()) {
        take(1, "top-k", mine.top_k, makers.sampling->top_k);
        take(2, "top-p", mine.top_p, makers.sampling->top_p);
      }
      if (!said.empty())
        std::cerr << "notice: " << said << ", as generation_config.json says; flags come before it"
                  << std::endl;
    }
    mine.validate();
    if (config.eos_token_id >= 0) add_end(config.eos_token_id);
    for (const mtpx::Index id : config.more_eos_token_ids) add_end(id);
    for (const std::int32_t id : makers.end) add_end(id);
  }

  /// One more token that ends a text.
  void add_end(mtpx::Index id) {
    const auto token = static_cast<std::int32_t>(id);
    if (std::find(generate.stop.begin(), generate.stop.end(), token) == generate.stop.end())
      generate.stop.push_back(token);
  }
};

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

inline double per_second(mtpx::Index count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

/// prompts: that were decoded   ends: how many texts ended by what; empty: is not said
inline void print_statistics(const mtpx::DecodeStatistics& s, mtpx::Index prompts,
                             const std::map<std::string, int>& ends) {
  const auto rate = [](double value) {
    std::cerr << std::fixed << std::setprecision(value < 100 ? 1 : 0) << value << " tokens/s";
  };
  std::cerr << "prompt: " << s.prompt_tokens << " tokens, ";
  rate(per_second(s.prompt_tokens, s.prefill_seconds));
  std::cerr << "; " << s.tokens << " tokens in " << std::setprecision(2) << s.decode_seconds << " s, ";
  rate(per_second(s.tokens - prompts, s.decode_seconds));
  std::cerr << "; " << s.passes << " forward passes, " << std::setprecision(2) << s.tokens_per_pass()
            << " tokens per pass" << (ends.empty() ? "" : "; ended by");
  for (const auto& [why, times] : ends)
    std::cerr << ' ' << why << (prompts > 1 ? mtpx::cat(" (", times, ")") : "");
  std::cerr << '\n';
  if (s.drafts == 0) return;
  std::cerr << s.drafts << " drafts; acceptance per position (accepted_i / drafts):" << std::setprecision(1);
  for (std::size_t i = 0; i < s.accepted.size(); ++i) std::cerr << ' ' << 100 * s.acceptance(i) << " %";
  std::cerr << "; mean length " << std::setprecision(2) << s.mean_length() << '\n';
}

}  // namespace program
