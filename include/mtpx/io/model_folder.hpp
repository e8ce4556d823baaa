#pragma once
// A model as a folder in the published format: config.json and model.safetensors, or its shards.

#include <mtpx/core/meta.hpp>
#include <mtpx/io/block_scales.hpp>
#include <mtpx/io/config_json.hpp>
#include <mtpx/io/tensor_file.hpp>
#include <mtpx/io/tensor_problems.hpp>
#include <mtpx/io/weight_files.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/model/transformer.hpp>

#include <algorithm>
#include <filesystem>
#include <set>

namespace mtpx {

namespace detail {

/// A number type as config.json's torch_dtype names it.
template <typename T>
constexpr const char* torch_name() {
  return std::is_same_v<T, double> ? "float64" : std::is_same_v<T, float> ? "float32" : "bfloat16";
}

/// Whether two tensors hold the same numbers. Shapes and dtypes were checked.
inline bool same_numbers(const WeightFiles::Weight& a, const WeightFiles::Weight& b) {
  if (a.entry->dtype != b.entry->dtype) {
    return a.file->read<double>(*a.entry) == b.file->read<double>(*b.entry);
  }
  const Index step = Index{1} << 20, size = a.entry->bytes();
  std::vector<std::byte> left, right;
  for (Index done = 0; done < size; done += step) {
    left.resize(static_cast<std::size_t>(std::min(step, size - done)));
    right.resize(left.size());
    a.file->read_bytes(*a.entry, done, left);
    b.file->read_bytes(*b.entry, done, right);
    if (left != right) return false;
  }
  return true;
}

/// What is wrong with the tensors of a folder, for the model that its config.json describes.
class WeightCheck {
 public:
  WeightCheck(const WeightFiles& files, BlockSize block) : files_(files), block_(block) {}

  /// The model needs this tensor.
  void expect(const std::string& name, const std::vector<Index>& shape) {
    const WeightFiles::Weight weight = claim(name);
    if (weight.entry == nullptr) {
      problems_.missing(name);
      return;
    }
    check(name, weight, shape);
    if (weight.entry->dtype != DType::f8_e4m3 || weight.entry->shape.size() != 2) return;
    const std::string scales = scale_name(name);
    const WeightFiles::Weight found = claim(scales);
    if (found.entry == nullptr) {
      problems_.missing(scales, ", the scales of an F8_E4M3 weight");
    } else {
      check(scales, found, block_.scales(shape));
    }
  }

  /// An MTP layer's own copy of a shared tensor may be there, if it is one.
  void expect_copy(const std::string& name, const std::string& shared) {
    const WeightFiles::Weight copy = claim(name), original = files_.find(shared);
    if (copy.entry == nullptr || original.entry == nullptr) return;
    if (check(name, copy, original.entry->shape) && !same_numbers(copy, original)) {
      problems_.note(cat("different ", name, ": must equal ", shared, ", which the MTP layers share"));
    }
  }

  /// Throws if anything is wrong; whatever nobody expected is.
  void finish() {
    for (const auto& [name, weight] : files_.weights()) {
      if (!claimed_.contains(std::string(name))) problems_.unexpected(name);
    }
    problems_.finish("model", files_.path(), "config.json");
  }

 private:
  WeightFiles::Weight claim(const std::string& name) {
    claimed_.insert(name);
    return files_.find(name);
  }

  bool check(const std::string& name, const WeightFiles::Weight& weight, const std::vector<Index>& shape) {
    const SafeTensorsEntry& entry = *weight.entry;
    if (!problems_.same_shape(name, entry.shape, shape)) return false;
    if (!entry.dtype || is_integer(*entry.dtype)) {
      problems_.note(cat("unreadable ", name, ": dtype ", quote(entry.dtype_name), " is no type of weights"));
      return false;
    }
    return true;
  }

  const WeightFiles& files_;
  BlockSize block_;
  std::set<std::string> claimed_;
  TensorProblems problems_;
};

/// Checks every tensor of `files` against the model that `config` describes, before that model exists.
template <typename T>
void check_weights(const ModelConfig& config, const WeightFiles& files) {
  WeightCheck check(files, config.block_size);
  const Transformer<T, Meta> model(Meta(), config.config);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    check.expect(name, extents(tensor.shape()));
  });
  const MtpDesign design = config.config.design();
  for (Index k = 0; k < config.config.num_mtp_modules(); ++k) {
    const std::string layer = cat("model.layers.", config.config.num_hidden_layers + k);
    if (design.reads_token) check.expect_copy(layer + ".embed_tokens.weight", "model.embed_tokens.weight");
    if (design.own_norm) check.expect_copy(layer + ".shared_head.head.weight", "lm_head.weight");
  }
  check.finish();
}

}  // namespace detail

/// Writes `model` into `folder`, made if missing: the weights under their published names, then config.json
/// with `extra` keys kept and torch_dtype set to what was written. Each file appears complete or not at all.
/// Embedding and head are written once: MTP layers share them. Throws FileError.
///
/// mtp: false leaves the MTP layers out and says so in config.json, for programs that know none.
template <typename T, typename D>
void save_model(const std::filesystem::path& folder, const Transformer<T, D>& model,
                const Json& extra = Json::object(), bool mtp = true) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) throw FileError(cat("[model] ", folder.string(), ": cannot be made: ", failed.message()));

  Config config = model.config;
  if (!mtp) {
    config.num_nextn_predict_layers = 0;
    // It may have counted MTP layers as dense ones; more dense layers than layers would not be read again.
    config.first_k_dense_replace = std::min(config.first_k_dense_replace, config.num_layers());
  }
  std::vector<std::string> left_out;
  for (Index k = config.num_nextn_predict_layers; k < model.config.num_nextn_predict_layers; ++k) {
    left_out.push_back(cat("model.layers.", config.num_hidden_layers + k, '.'));
  }
  save_tensors(folder / "model.safetensors", [&](const auto& visit) {
    for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
      const auto within = [&](const std::string& prefix) { return name.starts_with(prefix); };
      if (std::none_of(left_out.begin(), left_out.end(), within)) visit(name, tensor);
    });
  });

  Json keys = extra;
  keys[keys.contains("dtype") ? "dtype" : "torch_dtype"] = detail::torch_name<T>();
  write_config(folder / "config.json", config, keys);
}

/// A model read from a folder, with the keys of its config.json that mtpx does not know.
template <typename T, typename D>
struct LoadedModel {
  Transformer<T, D> model;  ///< with the weights of the folder
  Json extra;               ///< keys of config.json that mtpx does not know, for save_model()
};

/// Reads a folder in the published format (README_WEIGHTS.md of DeepSeek-V3): MTP layer k is layer
/// num_hidden_layers + k, from 0; its own embed_tokens and shared_head.head may be absent or equal to the
/// shared ones. Weights of any floating type are converted to the model's; F8_E4M3 ones are multiplied by the
/// scales of their blocks.
///
/// Throws ConfigError or FileError. Missing, unexpected, misshapen and differing tensors are listed, ten at
/// most, before the model is allocated. All threads of the host read and convert, each its part of a tensor.
/// Memory: the model, and one row of an 8-bit weight a thread.
template <typename T, typename D>
LoadedModel<T, D> load_model(const D& device, const std::filesystem::path& folder,
                             SafeTensorsOptions options = {}) {
  ModelConfig config = read_config(folder / "config.json");
  const WeightFiles files = WeightFiles::open(folder, options);
  detail::check_weights<T>(config, files);

  LoadedModel<T, D> loaded{Transformer<T, D>(device, config.config), std::move(config.extra)};
  const Cpu host = detail::host_of(device);
  for_each_tensor(loaded.model, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    const auto [file, entry] = files.find(name);
    std::vector<float> scales;
    const bool scaled = entry->dtype == DType::f8_e4m3 && entry->shape.size() == 2;
    if (scaled) {
      const WeightFiles::Weight found = files.find(scale_name(name));
      scales = found.file->template read<float>(*found.entry);
    }
    tensor.assign_by([&, file = file, entry = entry](Index first, std::span<N> out) {
      detail::in_parts(host, static_cast<Index>(out.size()), [&](Index begin, Index end) {
        const auto part = out.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        if (!scaled) return file->read(*entry, first + begin, part);
        dequantize<N>(*file, *entry, scales, config.block_size, first + begin, part);
      });
    });
  });
  return loaded;
}

}  // namespace mtpx
