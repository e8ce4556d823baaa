#pragma once
// A model as a folder in the published format: config.json and model.safetensors.

#include <mtpx/io/config_json.hpp>
#include <mtpx/io/safetensors.hpp>
#include <mtpx/model/transformer.hpp>

#include <filesystem>
#include <map>

namespace mtpx {

namespace detail {
inline std::vector<Index> extents(const Shape& shape) {
  std::vector<Index> all;
  for (int axis = 0; axis < shape.rank(); ++axis) all.push_back(shape[axis]);
  return all;
}
}  // namespace detail

/// Writes `model` into `folder`, made if missing: the weights under their published names, then config.json
/// with `extra` keys kept. Each file appears complete or not at all. Embedding and head are written once: MTP
/// layers share them. Throws FileError.
template <typename T, typename D>
void save_model(const std::filesystem::path& folder, const Transformer<T, D>& model,
                const Json& extra = Json::object()) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) throw FileError(cat("[model] ", folder.string(), ": cannot be made: ", failed.message()));

  std::vector<TensorInfo> infos;
  std::map<std::string, std::function<void(SafeTensorsWriter&)>> writers;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    infos.push_back({name, dtype_of<N>(), detail::extents(tensor.shape())});
    writers[name] = [tensor](SafeTensorsWriter& file) {
      const std::vector<N> values = tensor.to_host();
      file.write(std::as_bytes(std::span<const N>(values)));
    };
  });
  SafeTensorsWriter weights(folder / "model.safetensors", std::move(infos), {{"format", "pt"}});
  for (const TensorInfo& info : weights.tensors()) writers.at(info.name)(weights);
  weights.finish();

  write_config(folder / "config.json", model.config, extra);
}

/// A model read from a folder, with the keys of its config.json that mtpx does not know.
template <typename T, typename D>
struct LoadedModel {
  Transformer<T, D> model;
  Json extra;
};

/// Reads a folder that save_model() wrote. Tensors are converted to the model's types. Throws ConfigError or
/// FileError; missing, unexpected and misshapen tensors are listed, ten at most, before anything is read.
template <typename T, typename D>
LoadedModel<T, D> load_model(const D& device, const std::filesystem::path& folder) {
  ModelConfig config = read_config(folder / "config.json");
  const SafeTensors file = SafeTensors::open(folder / "model.safetensors");
  LoadedModel<T, D> loaded{Transformer<T, D>(device, config.config), std::move(config.extra)};

  std::vector<std::string> problems;
  std::map<std::string, bool> expected;
  for_each_tensor(loaded.model, [&](const std::string& name, const auto& tensor) {
    expected[name] = true;
    const SafeTensorsEntry* entry = file.find(name);
    if (entry == nullptr) {
      problems.push_back("missing " + name);
    } else if (entry->shape != detail::extents(tensor.shape())) {
      problems.push_back(cat("misshapen ", name, ": ", detail::extents_text(entry->shape), " instead of ",
                             tensor.shape().str()));
    }
  });
  for (const SafeTensorsEntry& entry : file.tensors()) {
    if (!expected.contains(entry.name)) problems.push_back("unexpected " + entry.name);
  }
  if (!problems.empty()) {
    std::string text = cat("[model] ", file.path(), ": ", problems.size(), " tensors do not fit config.json");
    for (std::size_t i = 0; i < std::min<std::size_t>(10, problems.size()); ++i) text += "\n  " + problems[i];
    throw FileError(text);
  }
  for_each_tensor(loaded.model, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    tensor.assign(file.read<N>(file.at(name)));
  });
  return loaded;
}

}  // namespace mtpx
