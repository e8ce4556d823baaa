// mtpx generate: continue a prompt, with or without drafts.

#include "model.hpp"

#include <mtpx/io/utf8.hpp>

#include <chrono>
#include <cstdio>
#include <iomanip>
#include <iostream>

namespace program {
namespace {

struct Options {
  ModelSource model;
  std::string prompt;
  mtpx::GenerateOptions generate;
  bool json = false;
  int threads = 0;
};

/// What can be tokenised, and leaves room to generate.
std::vector<std::int32_t> tokenize(const Options& o, const mtpx::Config& config) {
  if (o.prompt.empty()) throw mtpx::ConfigError("[generate] --prompt is empty");
  if (!mtpx::Utf8Stream::valid(o.prompt)) throw mtpx::ConfigError("[generate] --prompt is not valid UTF-8");
  if (static_cast<mtpx::Index>(o.prompt.size()) >= config.max_position_embeddings) {
    throw mtpx::ConfigError(mtpx::cat("[generate] --prompt has ", o.prompt.size(),
                                      " tokens; max_position_embeddings = ", config.max_position_embeddings,
                                      " leaves room for ", config.max_position_embeddings - 1));
  }
  return bytes_as_tokens(o.prompt);
}

void print_statistics(const mtpx::DecodeStatistics& s, mtpx::Index draft, double seconds) {
  std::cerr << std::fixed << std::setprecision(1) << s.tokens << " tokens in " << std::setprecision(2)
            << seconds << " s: " << std::setprecision(1) << static_cast<double>(s.tokens) / seconds
            << " tokens/s, " << s.passes << " forward passes, " << std::setprecision(2) << s.tokens_per_pass()
            << " tokens per pass\n";
  if (draft == 0) return;
  std::cerr << "acceptance per position (accepted_i / " << s.drafts << " drafts):";
  for (std::size_t i = 0; i < s.accepted.size(); ++i) std::cerr << ' ' << 100 * s.acceptance(i) << " %";
  std::cerr << "; mean length " << s.mean_length() << '\n';
}

void run(const Options& o) {
  o.generate.sampling.validate();
  const mtpx::Cpu cpu(o.threads);
  const auto loaded = o.model.load(cpu);
  require_bytes(loaded.model.config);
  const std::vector<std::int32_t> prompt = tokenize(o, loaded.model.config);

  mtpx::Utf8Stream text;
  std::string all;
  const auto write = [&](const std::string& part) {
    all += part;
    if (o.json) return true;
    std::cout << part << std::flush;
    return static_cast<bool>(std::cout);  // a closed pipe ends the run
  };
  if (!write(o.prompt)) return;
  const auto start = std::chrono::steady_clock::now();
  const mtpx::DecodeStatistics s = mtpx::generate(loaded.model, prompt, o.generate, [&](std::int32_t token) {
    return write(text.push(static_cast<unsigned char>(token)));
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!write(text.finish())) return;
  if (!o.json) {
    std::cout << std::endl;
    print_statistics(s, o.generate.draft, seconds);
    return;
  }
  std::vector<double> acceptance;
  for (std::size_t i = 0; i < s.accepted.size(); ++i) acceptance.push_back(s.acceptance(i));
  std::cout << mtpx::Json{{"text", all},
                          {"tokens", s.tokens},
                          {"seconds", seconds},
                          {"tokens_per_s", static_cast<double>(s.tokens) / seconds},
                          {"passes", s.passes},
                          {"tokens_per_pass", s.tokens_per_pass()},
                          {"draft", o.generate.draft},
                          {"drafts", s.drafts},
                          {"accepted", s.accepted},
                          {"acceptance", acceptance},
                          {"mean_length", s.mean_length()}}
                   .dump()
            << std::endl;
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  o.generate.max_tokens = 256;
  CLI::App* command =
      app.add_subcommand("generate", "Continue a prompt; text on standard output, figures on standard error");
  o.model.add(*command)->required();
  command->add_option("--prompt", o.prompt, "Text to continue")->required();
  command->add_option("--max-tokens", o.generate.max_tokens, "Most tokens to generate")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--draft", o.generate.draft, "Tokens to draft per pass; 0 = plain decoding")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--temperature", o.generate.sampling.temperature, "0 = greedy")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", o.generate.sampling.top_k, "Sample among the k most likely; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--top-p", o.generate.sampling.top_p, "Sample among the most likely that together reach p")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", o.generate.seed, "Seed of the samples")->capture_default_str();
  command->add_flag("--json", o.json, "One JSON line with text and figures instead");
  add_threads(*command, o.threads);
  command->callback([options] { run(*options); });
}

}  // namespace program
