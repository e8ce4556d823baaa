#pragma once
// A model's files, written beside a former model's and put in their place.

#include <mtpx/io/config_json.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/safetensors.hpp>
#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/io/weight_files.hpp>

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx::detail {

constexpr const char* weights_key = "mtpx_weights";  // in config.json: the digest of model.safetensors
/// The tensor of the tokens that drafts are picked from, [mtpx_draft_vocabulary] I32; where these are not
/// all.
constexpr const char* draft_ids_name = "mtpx.draft_ids";

/// A number type as config.json's torch_dtype names it.
template <typename T>
constexpr const char* torch_name() {
  return std::is_same_v<T, double> ? "float64" : std::is_same_v<T, float> ? "float32" : "bfloat16";
}

/// Keys of a config.json, with the type that weights are written in.
template <typename T>
Json with_dtype(Json keys) {
  keys[keys.contains("dtype") ? "dtype" : "torch_dtype"] = torch_name<T>();
  return keys;
}

/// What the weights of a model folder say of the files beside them.
inline FileMetadata folder_metadata(std::string config, const std::optional<TokenizerFiles>& tokenizer) {
  FileMetadata metadata = {{"format", "pt"}, {"config", std::move(config)}};
  if (tokenizer) metadata.emplace(tokenizer_key, tokenizer_mark(tokenizer->tokenizer));
  return metadata;
}

/// Index and shards in `folder`, in the order in which they may go. Of an index that cannot be read, itself.
inline std::vector<std::filesystem::path> shards_of(const std::filesystem::path& folder) {
  std::error_code ignored;
  const std::filesystem::path index = folder / index_name;
  if (!std::filesystem::exists(index, ignored)) return {};
  std::vector<std::filesystem::path> all{index};
  std::set<std::string> names;
  try {
    for (const auto& [name, shard] : read_index(index)) names.insert(shard);
  } catch (const FileError&) {
  }
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors") && name != weights_name) all.push_back(folder / name);
  }
  return all;
}

/// Throws FileError where there is no such folder and none can be made.
inline void make_folder(const std::filesystem::path& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) throw FileError(cat("[model] ", folder.string(), ": cannot be made: ", failed.message()));
}

/// Puts weights that are written, and what stands beside them, in the place of a former model: see
/// save_model().
inline void place_folder(const std::filesystem::path& folder, SafeTensorsWriter& weights,
                         const Config& config, Json keys, const std::optional<TokenizerFiles>& tokenizer) {
  keys[weights_key] = checksum_text(weights.complete());
  OutputFile file("config", folder / "config.json");
  file.write(config_json(config, keys));
  file.flush();
  const std::vector<std::filesystem::path> old = shards_of(folder);
  std::optional<WrittenTokenizer> beside;
  if (tokenizer) beside.emplace(folder, *tokenizer);
  weights.place();
  file.place();
  if (beside) beside->place();
  for (const std::filesystem::path& path : old) remove_former(path);
}

/// save_model() of the tensors that `each` visits.   write(path, each, metadata, finish): see write_tensors()
template <typename T, typename Each, typename Write>
void save_folder(const std::filesystem::path& folder, Config config, const Each& each_of_all,
                 const Json& extra, bool mtp, const std::optional<TokenizerFiles>& tokenizer,
                 const Write& write) {
  make_folder(folder);
  std::vector<std::string> left_out;
  if (!mtp) {
    left_out.push_back(draft_ids_name);
    for (Index k = 0; k < config.num_nextn_predict_layers; ++k)
      left_out.push_back(cat("model.layers.", config.num_hidden_layers + k, '.'));
    config.set_depths(0, config.mtpx_heads);
    config.mtpx_draft_vocabulary = 0;
  }
  const Json keys = with_dtype<T>(extra);
  const auto each = [&](const auto& visit) {
    each_of_all([&](const std::string& name, const auto& tensor) {
      for (const std::string& prefix : left_out) {
        if (name.starts_with(prefix)) return;
      }
      visit(name, tensor);
    });
  };
  write(folder / weights_name, each, folder_metadata(config_json(config, keys), tokenizer),
        [&](SafeTensorsWriter& weights) { place_folder(folder, weights, config, keys, tokenizer); });
}

}  // namespace mtpx::detail
