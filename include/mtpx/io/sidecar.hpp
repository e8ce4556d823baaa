#pragma once
// MTP layers in a file of their own, beside a main model that stays as it is: a sidecar.

#include <mtpx/io/model_folder.hpp>

#include <cctype>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

constexpr const char* sidecar_name = "mtp.safetensors";
constexpr const char* main_key = "mtpx_main";  // in its metadata: main_fingerprint() of the main model

/// Whether a tensor of a model is the depths': of a layer behind the trunk, or their draft vocabulary.
inline bool is_of_depths(const Config& config, std::string_view name) {
  if (name == draft_ids_name) return true;
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return false;
  Index layer = 0;
  for (const char digit : name.substr(layers.size())) {
    if (std::isdigit(static_cast<unsigned char>(digit)) == 0 || layer >= config.num_hidden_layers) break;
    layer = 10 * layer + (digit - '0');
  }
  return layer >= config.num_hidden_layers;
}

/// main_fingerprint() of an open folder.
inline std::string main_fingerprint(const Config& config, const WeightFiles& files) {
  std::vector<std::pair<std::string_view, WeightFiles::Weight>> main;
  for (const auto& [name, weight] : files.weights())
    if (!is_of_depths(config, name)) main.emplace_back(name, weight);
  std::vector<std::uint64_t> sums(main.size());
  cpu::parallel_tasks(Cpu(), static_cast<Index>(main.size()), [&](Index i) {
    const auto& [file, entry] = main[static_cast<std::size_t>(i)].second;
    std::uint64_t& sum = sums[static_cast<std::size_t>(i)];
    if (entry->checksum) {
      sum = *entry->checksum;
      return;
    }
    constexpr Index step = Index{1} << 20;
    Checksum all;
    std::vector<std::byte> part;
    for (Index done = 0; done < entry->bytes(); done += step) {
      part.resize(static_cast<std::size_t>(std::min(step, entry->bytes() - done)));
      file->read_bytes(*entry, done, part);
      all.add(part);
    }
    sum = all.value();
  });
  std::string text;
  for (std::size_t i = 0; i < main.size(); ++i) {
    const auto& [name, weight] = main[i];
    text += cat(name, ' ', weight.entry->dtype_name, ' ', extents_text(weight.entry->shape), ' ',
                checksum_text(sums[i]), '\n');
  }
  return checksum_text(checksum(text));
}

/// Puts the depths of a sidecar into the place of those that a folder has; see load_joined_model().
inline void join_sidecar(ModelConfig& config, WeightFiles& files, const std::filesystem::path& path,
                         SafeTensorsOptions options) {
  SafeTensors file = SafeTensors::open(path, options);
  const auto fail = [&](const std::string& cause) {
    throw FileError(cat("[sidecar] ", file.path(), ": ", cause));
  };
  const auto text = file.metadata().find("config"), made_for = file.metadata().find(main_key);
  if (text == file.metadata().end() || made_for == file.metadata().end())
    fail("is no sidecar: its metadata has no \"config\" and \"mtpx_main\"");
  const Config depths = parse_config(text->second, cat(file.path(), ": config")).config;
  Config& c = config.config;
  Config joined = c;
  joined.set_depths(depths.num_nextn_predict_layers, depths.mtpx_heads);
  joined.mtp_concat = depths.mtp_concat;
  joined.mtp_hidden = depths.mtp_hidden;
  joined.mtpx_markov_rank = depths.mtpx_markov_rank;
  joined.mtpx_own_embeddings = depths.mtpx_own_embeddings;
  joined.mtpx_own_heads = depths.mtpx_own_heads;
  const bool has_ids = file.find(draft_ids_name) != nullptr;
  if (has_ids) joined.mtpx_draft_vocabulary = depths.mtpx_draft_vocabulary;
  if (options.verify) {
    const std::string found = main_fingerprint(c, files);
    if (found != made_for->second) {
      Config as_made = depths;  // but for what may differ
      as_made.mtpx_draft_vocabulary = joined.mtpx_draft_vocabulary;
      as_made.mtpx_trained_window = joined.mtpx_trained_window;
      fail(cat("was made for the main model ", made_for->second, "; ", files.path(), " is another one, ",
               found, "; --no-verify joins them all the same",
               json_differences_text(Json::parse(config_json(as_made)), Json::parse(config_json(joined)))));
    }
  }
  const Config before = c;
  c = joined;
  c.validate();
  files.join(std::move(file), [&](std::string_view name) {
    return is_of_depths(before, name) && (has_ids || name != draft_ids_name);
  });
}

}  // namespace detail

/// What tells main models apart: a checksum of the names, types, shapes and bytes of a folder's tensors, but
/// for those of its depths. It does not depend on how they are divided among shards. Throws what
/// read_model_config() throws.
inline std::string main_fingerprint(const std::filesystem::path& folder, SafeTensorsOptions options = {}) {
  const WeightFiles files = WeightFiles::open(folder, options);
  ModelConfig config = read_config(folder / "config.json");
  detail::complete(config, files);
  return detail::main_fingerprint(config.config, files);
}

/// The file that a folder or a file of this name means.
inline std::filesystem::path sidecar_path(const std::filesystem::path& path) {
  std::error_code none;
  return std::filesystem::is_directory(path, none) ? path / detail::sidecar_name : path;
}

/// Writes a model's depths and their draft vocabulary alone, under their published names, for the main model
/// `main`, as main_fingerprint() says it. In the metadata are that and the text of the whole config.json.
/// Throws FileError.
template <typename T, typename D>
void save_sidecar(const std::filesystem::path& path, const Transformer<T, D>& model,
                  const std::string& main) {
  const std::string config = config_json(model.config, detail::with_dtype<T>(Json::object()));
  save_tensors(sidecar_path(path),
               [&](const auto& visit) {
                 detail::for_each_of_file(model, [&](const std::string& name, const auto& tensor) {
                   if (detail::is_of_depths(model.config, name)) visit(name, tensor);
                 });
               },
               {{"format", "pt"}, {"config", config}, {detail::main_key, main}});
}

/// load_model() of `folder` with the depths of a sidecar, a file or its folder, in the place of its own.
/// Throws FileError where the sidecar was made for another main model, unless options.verify is false.
template <typename T, typename D>
LoadedModel<T, D> load_joined_model(const D& device, const std::filesystem::path& folder,
                                    const std::filesystem::path& sidecar, SafeTensorsOptions options = {},
                                    const LoadProgress& progress = {}) {
  ModelConfig config = read_config(folder / "config.json");
  WeightFiles files = WeightFiles::open(folder, options);
  detail::complete(config, files);
  detail::join_sidecar(config, files, sidecar_path(sidecar), options);
  return detail::load_weights<T>(device, std::move(config), files, options, progress, {});
}

/// The configuration of that model. Throws the same.
inline ModelConfig read_joined_config(const std::filesystem::path& folder,
                                      const std::filesystem::path& sidecar, SafeTensorsOptions options = {}) {
  ModelConfig config = read_config(folder / "config.json");
  WeightFiles files = WeightFiles::open(folder, options);
  detail::complete(config, files);
  detail::join_sidecar(config, files, sidecar_path(sidecar), options);
  return config;
}

}  // namespace mtpx
