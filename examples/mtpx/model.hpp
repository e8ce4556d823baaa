#pragma once
// What the subcommands share: the model, and where configurations and text come from.

#include "program.hpp"

#include <mtpx/io/model_folder.hpp>
#include <mtpx/mtpx.hpp>

#include <filesystem>
#include <string>
#include <vector>

// The model is compiled once, in model.cpp; the subcommands compile calls.
namespace mtpx {
extern template struct Transformer<float, Cpu>;
extern template class Trainer<float, Cpu>;
extern template class Speculator<float, Cpu>;
extern template void initialize(Transformer<float, Cpu>&, std::uint64_t);
extern template MtpLoss<float, Cpu> mtp_loss(const Transformer<float, Cpu>&, const Forward<float, Cpu>&,
                                             const Batch<Cpu>&, const MtpLossOptions&);
extern template Evaluation evaluate(const Transformer<float, Cpu>&, const ValidationWindows&, bool);
extern template void save_model(const std::filesystem::path&, const Transformer<float, Cpu>&, const Json&,
                                bool);
extern template LoadedModel<float, Cpu> load_model(const Cpu&, const std::filesystem::path&,
                                                   SafeTensorsOptions);
}  // namespace mtpx

namespace program {

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

/// --model DIR (or another name) and --no-mmap: a model that is there already.
struct ModelSource {
  std::string folder;
  bool no_mmap = false;

  CLI::Option* add(CLI::App& command, const char* name = "--model", const char* help = "Model folder") {
    command.add_flag("--no-mmap", no_mmap,
                     "Read weights instead of mapping them: for network file systems, and files that change");
    return command.add_option(name, folder, help);
  }

  template <typename T = float>
  mtpx::LoadedModel<T, mtpx::Cpu> load(const mtpx::Cpu& cpu) const {
    return mtpx::load_model<T>(cpu, folder, {!no_mmap});
  }
};

/// A design by its name in config.json.
inline mtpx::MtpHeads heads_of(const std::string& name) {
  for (const auto& [known, heads] : mtpx::detail::mtpx_heads_names()) {
    if (name == known) return heads;
  }
  throw mtpx::ConfigError("[config] no design is called " + name);
}

/// --heads, where models are made.
inline void add_heads(CLI::App& command, std::string& heads) {
  command
      .add_option("--heads", heads,
                  "What predicts the tokens after the next, over the configuration's mtpx_heads: sequential "
                  "(DeepSeek-V3), repeated (one module for all depths), parallel (Gloeckle et al.), linear")
      ->check(CLI::IsMember({"sequential", "repeated", "parallel", "linear"}));
}

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
