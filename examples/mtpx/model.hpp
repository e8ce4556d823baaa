#pragma once
// What the subcommands share: the model, and where its configuration comes from.

#include "loading.hpp"
#include "program.hpp"

#include <mtpx/io/instances.hpp>
#include <mtpx/mtpx.hpp>

#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace program {

/// --config FILE or --preset NAME: where a new model's configuration comes from.
struct ConfigSource {
  std::string file;
  std::string preset = "tiny";

  void add(CLI::App& command) {
    auto* config = command.add_option("--config", file, "config.json with DeepSeek-V3's field names");
    command.add_option("--preset", preset, "Built-in configuration: nano, tiny, deep, base or small")
        ->capture_default_str()
        ->excludes(config);
  }

  mtpx::ModelConfig read() const {
    if (!file.empty()) return mtpx::read_config(file);
    return {mtpx::preset(preset), mtpx::Json::object()};
  }
};

/// --model DIR (or another name), --mtp, --no-mmap and --no-verify: a model that is there already.
struct ModelSource {
  std::string folder;
  std::string mtp;  ///< a sidecar's file or folder; empty: the folder's own depths
  bool no_mmap = false, no_verify = false;
  bool decodes = false;  ///< and does nothing else: weights in 8 bits stay so, others are packed

  CLI::Option* add(CLI::App& command, const char* name = "--model", const char* help = "Model folder") {
    command.add_flag("--no-mmap", no_mmap,
                     "Read weights instead of mapping them: for network file systems, and files that change");
    command.add_flag(
        "--no-verify", no_verify,
        "Take weights, their configuration and tokenizer, and token files as they are: without their "
        "checksums, and weights though they are not finite");
    return command.add_option(name, folder, help);
  }

  void add_mtp(CLI::App& command, CLI::Option* model) {
    command
        .add_option("--mtp", mtp,
                    "MTP layers that `mtpx distill --sidecar` wrote for this model, in the place of its own")
        ->needs(model);
  }

  mtpx::SafeTensorsOptions options() const { return {!no_mmap, !no_verify, decodes}; }
  mtpx::ModelConfig config() const {
    return mtp.empty() ? mtpx::read_model_config(folder, options())
                       : mtpx::read_joined_config(folder, mtp, options());
  }
  /// slice: of the model, to be read alone; none: all
  template <typename T, typename D>
  mtpx::LoadedModel<T, D> load(const D& device, const std::optional<mtpx::ModelSlice>& slice = {}) const {
    LoadingLine line(folder);
    const auto show = [&](mtpx::Index done, mtpx::Index all) { line.show(done, all); };
    auto loaded = mtp.empty() ? mtpx::load_model<T>(device, folder, options(), show, slice)
                              : mtpx::load_joined_model<T>(device, folder, mtp, options(), show);
    if (slice && loaded.model.slice != *slice) loaded.model = mtpx::slice_of(loaded.model, *slice);
    if (decodes) mtpx::pack_for_decoding(loaded.model);
    return loaded;
  }
};

/// What bench calls a type.
template <typename T>
constexpr const char* dtype_name() {
  return std::is_same_v<T, mtpx::bf16> ? "bf16" : std::is_same_v<T, float> ? "fp32" : "fp64";
}

/// A device as one word, as a person would name it, and in a JSON line.
inline const char* device_name(const mtpx::Cpu&) { return "cpu"; }
inline std::string device_text(const mtpx::Cpu& cpu) { return mtpx::cat(cpu.threads(), " threads"); }
inline void name_device(mtpx::Json& line, const mtpx::Cpu& cpu) { line["threads"] = cpu.threads(); }
inline void wait_for(const mtpx::Cpu&) {}
/// Another handle to the same device, with memory of its own.
inline mtpx::Cpu again(const mtpx::Cpu& cpu) { return mtpx::Cpu(cpu.threads()); }
/// Another that plans what this one would do.
inline mtpx::Cpu planned(const mtpx::Cpu& cpu) { return mtpx::Cpu(mtpx::Planned{}, cpu.threads()); }

#ifdef MTPX_CUDA
inline const char* device_name(const mtpx::Cuda&) { return "cuda"; }
inline std::string device_text(const mtpx::Cuda& gpu) { return gpu.properties().name; }
inline void name_device(mtpx::Json& line, const mtpx::Cuda& gpu) { line["gpu"] = device_text(gpu); }
inline void wait_for(const mtpx::Cuda& gpu) { gpu.synchronize(); }
inline mtpx::Cuda again(const mtpx::Cuda& gpu) { return mtpx::Cuda(gpu.ordinal()); }
inline mtpx::Cuda planned(const mtpx::Cuda& gpu) { return mtpx::Cuda(mtpx::Planned{}, gpu.ordinal()); }

/// The GPU that --device asks for, if any. `auto` takes the processor where there is none, and says so.
inline std::optional<mtpx::Cuda> find_gpu(const DeviceOptions& o) {
  if (o.device == "cpu") return {};
  std::string why;
  if (o.device == "auto" && !mtpx::Cuda::available(o.ordinal, &why)) {
    std::cerr << "mtpx: no GPU to use (" << why << "): running on the CPU" << std::endl;
    return {};
  }
  return mtpx::Cuda(o.ordinal);
}
#endif

/// Calls on(device) with what --device asks for.
template <typename On>
void with_device(const DeviceOptions& o, const On& on) {
#ifdef MTPX_CUDA
  if (const auto gpu = find_gpu(o)) return on(*gpu);
#else
  if (o.device == "cuda") {
    throw mtpx::DeviceError(
        "[device] --device cuda: this build has no kernels for GPUs; build with `cmake --preset cuda`");
  }
#endif
  on(mtpx::Cpu(o.threads));
}

/// Calls on(T(), device) with what --dtype and --device ask for: float32 or bf16.
template <typename On>
void with_numbers(const DeviceOptions& o, const On& on) {
  with_device(o, [&](const auto& device) {
    if (o.dtype == "bf16") return on(mtpx::bf16(), device);
    on(float(), device);
  });
}

/// Says on standard error where texts are longer than those that the model was trained on.
inline void say_if_past(const mtpx::Config& config, mtpx::Index tokens) {
  const mtpx::Index known = config.mtpx_trained_window;
  if (known == 0 || tokens <= known) return;
  std::cerr << "notice: the text went past " << known
            << " tokens, the longest window that the model was trained on\n";
}

/// A design by its name in config.json.
inline mtpx::MtpHeads heads_of(const std::string& name) {
  for (const auto& [known, heads] : mtpx::detail::mtpx_heads_names()) {
    if (name == known) return heads;
  }
  throw mtpx::ConfigError("[config] no design is called " + name);
}

/// What --depth (below 0: nothing), --heads (empty: nothing) and --copy say over a configuration.
inline void set_depths(mtpx::Config& config, mtpx::Index depth, const std::string& heads,
                       bool copied = false) {
  config.set_depths(depth >= 0 ? depth : config.num_nextn_predict_layers,
                    heads.empty() ? config.mtpx_heads : heads_of(heads), copied);
}

/// --depth and --heads, where models are made.
template <typename Depth>
void add_depths(CLI::App& command, Depth& depth, std::string& heads) {
  command
      .add_option("--depth", depth, "Depth D: tokens predicted after the next, over num_nextn_predict_layers")
      ->check(CLI::Range(0, 64));
  command
      .add_option("--heads", heads,
                  "What predicts the tokens after the next, over the configuration's mtpx_heads: sequential "
                  "(DeepSeek-V3), repeated (one module for all depths), parallel (Gloeckle et al.), linear")
      ->check(CLI::IsMember({"sequential", "repeated", "parallel", "linear"}));
}

/// How drafts are picked and checked.
inline std::vector<CLI::Option*> add_verification(CLI::App& command, mtpx::GenerateOptions& options) {
  return {
      command
          .add_option(
              "--draft-tokens", options.draft_tokens,
              "coupled = by the noise of the place, so that sampled text equals plain text; drawn = by "
              "chance alone: a few more stand, the text is another one")
          ->transform(CLI::CheckedTransformer(std::map<std::string, mtpx::DraftTokens>{
              {"coupled", mtpx::DraftTokens::coupled}, {"drawn", mtpx::DraftTokens::drawn}}))
          ->default_str("coupled"),
      command
          .add_option(
              "--tree", options.tree,
              "Candidates of the first drafted place, of the second behind each of these, .., separated "
              "by commas: all are checked in one pass. No text changes")
          ->delimiter(',')
          ->check(CLI::Range(1, 1024)),
      command
          .add_option(
              "--verify", options.verification,
              "exact, block = all drafts of a pass together, drawn, as exact; lossy-typical changes the text")
          ->transform(CLI::CheckedTransformer(std::map<std::string, mtpx::Verification>{
              {"exact", mtpx::Verification::exact},
              {"block", mtpx::Verification::block},
              {"lossy-typical", mtpx::Verification::lossy_typical}}))
          ->default_str("exact"),
      command
          .add_option("--typical-epsilon", options.typical_epsilon, "Of lossy-typical: always likely enough")
          ->capture_default_str(),
      command.add_option("--typical-delta", options.typical_delta, "Of lossy-typical: times e^-entropy")
          ->capture_default_str()};
}

}  // namespace program
