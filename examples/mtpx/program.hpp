#pragma once
// What the subcommands share: options, exit codes, the default corpus.

#include <mtpx/io/model_folder.hpp>
#include <mtpx/mtpx.hpp>

#include <CLI/CLI.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace program {

/// How a run ended, for scripts: the same meaning in every subcommand.
enum ExitCode {
  usage = 2,
  bad_input = 3,
  output_failed = 4,
  not_finite = 5,
  out_of_memory = 6,
  device_failed = 7
};

/// A result that could not be written.
struct OutputError : mtpx::Error {
  using mtpx::Error::Error;
};

void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_bench(CLI::App& app);

/// --threads, for every subcommand.
inline void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "Threads; 0 takes every processor. Results do not depend on it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

/// --config FILE or --preset NAME: where a new model's configuration comes from.
struct ConfigSource {
  std::string file;
  std::string preset = "tiny";

  void add(CLI::App& command) {
    auto* config = command.add_option("--config", file, "config.json with DeepSeek-V3's field names");
    command.add_option("--preset", preset, "Built-in configuration: tiny, deep or small")
        ->capture_default_str()
        ->excludes(config);
  }

  mtpx::ModelConfig read() const {
    if (!file.empty()) return mtpx::read_config(file);
    return {mtpx::preset(preset), mtpx::Json::object()};
  }
};

/// The text under `paths`; without any, this repository's own sources and documents.
inline mtpx::Corpus read_corpus(const std::vector<std::string>& paths) {
  if (paths.empty()) return mtpx::Corpus::from_paths({MTPX_SOURCE_DIR});
  return mtpx::Corpus::from_paths({paths.begin(), paths.end()});
}

inline std::vector<std::int32_t> bytes_as_tokens(std::string_view text) {
  std::vector<std::int32_t> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

/// Text is bytes: a model of another vocabulary would need its tokenizer.
inline void require_bytes(const mtpx::Config& config) {
  if (config.vocab_size == mtpx::Corpus::vocabulary) return;
  throw mtpx::ConfigError(mtpx::cat("[config] vocab_size = ", config.vocab_size,
                                    ": text is read as bytes, which takes a vocabulary of 256"));
}

}  // namespace program
