#pragma once
// A model as a folder in the published format: config.json and model.safetensors, or its shards.

#include <mtpx/core/meta.hpp>
#include <mtpx/io/config_json.hpp>
#include <mtpx/io/folder_weight.hpp>
#include <mtpx/io/load_progress.hpp>
#include <mtpx/io/place_folder.hpp>
#include <mtpx/io/tensor_file.hpp>
#include <mtpx/io/tensor_problems.hpp>
#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/io/weight_files.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/model/transformer.hpp>
#include <mtpx/ops/int8.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

namespace mtpx {

namespace detail {

/// Everything that a file of the model holds: weights, states, and the tokens that drafts are picked from.
template <typename T, typename D, typename Visit>
void for_each_of_file(const Transformer<T, D>& model, const Visit& visit) {
  for_each_tensor(model, visit);
  const std::vector<std::int32_t>& ids = model.draft_ids();
  if (!ids.empty())
    visit(draft_ids_name,
          Tensor<std::int32_t, D>::from(model.device(), {static_cast<Index>(ids.size())}, ids));
}

/// That tensor, of dtype I32.
inline std::vector<std::int32_t> read_draft_ids(const WeightFiles::Weight& tensor) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : tensor.file->read<std::int64_t>(*tensor.entry))
    ids.push_back(static_cast<std::int32_t>(id));
  return ids;
}

/// What an MTP layer may share with the main model, and what it is a copy of then.
struct SharedNames {
  std::string embedding, head;
  std::string main_embedding = "model.embed_tokens.weight", main_head = "lm_head.weight";

  SharedNames(const Config& config, Index depth) {
    const std::string layer = cat("model.layers.", config.num_hidden_layers + depth - 1);
    embedding = layer + ".embed_tokens.weight";
    head = layer + ".shared_head.head.weight";
    if (config.tie_word_embeddings) main_head = main_embedding;
  }
};

/// What is wrong with the tensors of a folder, for the model that its config.json describes.
class WeightCheck {
 public:
  WeightCheck(const WeightFiles& files, const ModelConfig& config)
      : files_(files), block_(config.block_size), int8_(config.config.int8_blocks) {}

  /// The model needs this tensor.
  void expect(const std::string& name, const std::vector<Index>& shape) {
    const WeightFiles::Weight weight = claim(name);
    if (weight.entry == nullptr) {
      problems_.missing(name);
      return;
    }
    check(name, weight, shape);
    if (!has_scales(*weight.entry)) return;
    const std::string scales = scale_name(name);
    const WeightFiles::Weight found = claim(scales);
    if (found.entry == nullptr) {
      problems_.missing(scales, cat(", the scales of an ", weight.entry->dtype_name, " weight"));
    } else {
      check(scales, found, scales_shape(block_, shape));
    }
  }

  /// A tensor of this shape may be there. Whether it is.
  bool allow(const std::string& name, const std::vector<Index>& shape) {
    const WeightFiles::Weight weight = claim(name);
    if (weight.entry == nullptr || !check(name, weight, shape)) return false;
    if (has_scales(*weight.entry)) claim(scale_name(name));
    return true;
  }

  /// A copy of another tensor, of this shape, may be there, if it is one.
  void allow_copy(const std::string& name, const std::string& of, const std::vector<Index>& shape) {
    const WeightFiles::Weight original = files_.find(of);
    if (!allow(name, shape) || original.entry == nullptr || original.entry->shape != shape) return;
    if (!same_numbers(files_.find(name), original))
      problems_.note(cat("different ", name, ": must equal ", of, ", which the model takes in its place"));
  }

  /// Where there are some, the tokens that drafts are picked from.
  void expect_draft_ids(Index count, Index vocab) {
    if (count == 0) return;
    const WeightFiles::Weight ids = claim(draft_ids_name);
    if (ids.entry == nullptr) return problems_.missing(draft_ids_name);
    if (!problems_.same_shape(draft_ids_name, ids.entry->shape, {count})) return;
    if (ids.entry->dtype != DType::i32)
      return problems_.note(cat("unreadable ", draft_ids_name, ": dtype ", quote(ids.entry->dtype_name),
                                " instead of \"I32\""));
    try {
      check_draft_ids(read_draft_ids(ids), vocab);
    } catch (const ConfigError& error) {
      problems_.note(cat("unusable ", draft_ids_name, ": ", error.what()));
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
    const bool known = int8_ && entry.dtype == DType::i8 && shape.size() == 2;
    if (!known && (!entry.dtype || is_integer(*entry.dtype))) {
      problems_.note(cat("unreadable ", name, ": dtype ", quote(entry.dtype_name), " is no type of weights"));
      return false;
    }
    return true;
  }

  const WeightFiles& files_;
  BlockSize block_;
  bool int8_;  // whether config.json says that there are such
  std::set<std::string> claimed_;
  TensorProblems problems_;
};

/// MTP layers' embeddings and heads that are no copies of the main model's are their own: adds them to those
/// that config.json names.
inline void find_own(Config& config, const WeightFiles& files) {
  const auto differs = [&](const std::string& name, const std::string& shared) {
    const WeightFiles::Weight one = files.find(name), main = files.find(shared);
    if (one.entry == nullptr || main.entry == nullptr || one.entry->shape != main.entry->shape) return false;
    const auto readable = [](const auto& dtype) { return dtype && !is_integer(*dtype); };
    if (!readable(one.entry->dtype) || !readable(main.entry->dtype)) return false;
    const WeightFiles::Weight scale = files.find(scale_name(name)), of_main = files.find(scale_name(shared));
    if ((scale.entry == nullptr) != (of_main.entry == nullptr)) return true;
    return !same_numbers(one, main) || (scale.entry != nullptr && !same_numbers(scale, of_main));
  };
  const auto add = [](std::vector<Index>& own, Index k) {
    const auto place = std::lower_bound(own.begin(), own.end(), k);
    if (place == own.end() || *place != k) own.insert(place, k);
  };
  const MtpDesign design = config.design();
  for (Index k = 1; k <= config.num_mtp_modules(); ++k) {
    const SharedNames names(config, k);
    if (design.reads_token && differs(names.embedding, names.main_embedding))
      add(config.mtpx_own_embeddings, k);
    if (design.own_norm && differs(names.head, names.main_head)) add(config.mtpx_own_heads, k);
  }
}

/// Checks every tensor of `files` against the model that `config` describes, before that model exists.
template <typename T>
void check_weights(const ModelConfig& config, const WeightFiles& files) {
  WeightCheck check(files, config);
  Config of_numbers = config.config;
  of_numbers.int8_blocks.reset();
  const Transformer<T, Meta> model(Meta(), of_numbers);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    check.expect(name, extents(tensor.shape()));
  });
  check.expect_draft_ids(config.config.mtpx_draft_vocabulary, config.config.vocab_size);
  const MtpDesign design = config.config.design();
  const std::vector<Index> matrix = extents(model.embed_tokens.shape());
  if (config.config.tie_word_embeddings)
    check.allow_copy("lm_head.weight", "model.embed_tokens.weight", matrix);
  // What is no copy was found to be the layer's own.
  for (Index k = 1; k <= config.config.num_mtp_modules(); ++k) {
    const SharedNames names(config.config, k);
    const auto& module = model.mtp[design.module(k)];
    if (design.reads_token && !module.embed_tokens) check.allow(names.embedding, matrix);
    if (design.own_norm && !module.head) check.allow(names.head, matrix);
  }
  check.finish();
}

/// Compares config.json with the text of it that the weights' metadata has. One that bears the digest of
/// other weights is of a save that ended between its two renames: the text counts. Throws FileError, field by
/// field, where any other says something else. What mtpx reads of it is compared, not its bytes: keys of
/// other programs, and how a file is laid out, are theirs. Takes the mark of the weights out of its keys.
inline void take_written(ModelConfig& config, const WeightFiles& files) {
  const Json mark = config.extra.value(weights_key, Json());
  config.extra.erase(weights_key);
  if (files.weights().empty()) return;
  const SafeTensors& weights = *files.weights().begin()->second.file;
  const auto text = weights.metadata().find("config");
  if (!weights.digest() || text == weights.metadata().end()) return;
  ModelConfig written = parse_config(text->second, cat(files.path(), ": config"));
  if (!mark.is_null() && mark != Json(checksum_text(*weights.digest()))) {
    config = std::move(written);
    return;
  }
  const auto fields = [](const ModelConfig& of) { return Json::parse(config_json(of.config)); };
  const std::string changed = json_differences_text(fields(written), fields(config));
  if (changed.empty()) return;
  const std::filesystem::path path = std::filesystem::path(files.path()).parent_path() / "config.json";
  throw FileError(cat("[model] ", path.string(),
                      ": is not the one that was written with the weights; --no-verify takes it as it is",
                      changed));
}

/// Throws FileError where a size in config.json is far beyond what the weights can be of: such a model is not
/// even laid out without memory. Numbers of layers and experts are bounded by the tensors that are there,
/// positions by the bytes: their table of rotations may take as many, and a gibibyte.
inline void check_sizes(const Config& c, const WeightFiles& files) {
  const auto fail = [&](const std::string& cause) {
    throw FileError(cat("[model] ", files.path(), ": ", cause));
  };
  const auto tensors = static_cast<Index>(files.weights().size());
  Index bytes = 0;
  for (const auto& [name, weight] : files.weights()) bytes += weight.entry->bytes();
  if (c.num_hidden_layers + c.num_mtp_modules() > tensors)
    fail(cat(tensors, " tensors are too few for num_hidden_layers = ", c.num_hidden_layers,
             " and num_nextn_predict_layers = ", c.num_nextn_predict_layers));
  const Index mixtures = std::max<Index>(0, c.num_hidden_layers - c.first_k_dense_replace);
  if (mixtures > 0 && c.n_routed_experts > tensors / mixtures)
    fail(cat(tensors, " tensors are too few for n_routed_experts = ", c.n_routed_experts, " in ", mixtures,
             " layers"));
  constexpr Index spare = Index{1} << 30, number = 8;
  if (c.max_position_embeddings > (bytes + spare) / (number * c.qk_rope_head_dim))
    fail(cat(bytes, " bytes of weights are too few for max_position_embeddings = ", c.max_position_embeddings,
             ", whose rotations take ", number * c.qk_rope_head_dim * c.max_position_embeddings, " bytes"));
}

/// From what config.json says to the configuration of the model that `files` are.
inline void complete(ModelConfig& config, const WeightFiles& files) {
  take_written(config, files);
  check_sizes(config.config, files);
  find_own(config.config, files);
}

/// Throws NumericError for the first of these numbers, of tensor `name` from `begin` on, that is not finite.
template <typename N>
void check_finite(const SafeTensors& file, const std::string& name, Index begin, std::span<const N> numbers) {
  const auto finite = [](N number) { return std::isfinite(static_cast<acc_t<N>>(number)); };
  const auto bad = std::find_if_not(numbers.begin(), numbers.end(), finite);
  if (bad == numbers.end()) return;
  throw NumericError(cat("[model] ", file.path(), ": tensor ", quote(name), ": number ",
                         begin + (bad - numbers.begin()), " is ", static_cast<acc_t<N>>(*bad)));
}

/// A matrix that decoding reads in 8 bits; what is no such in its file becomes one. Panels by all threads.
template <typename D>
void read_int8(const Cpu& host, const FolderWeight& weight, const Int8Weight<D>& to, Index e) {
  const Int8Weights of = to.matrix();
  const bool whole = weight.entry().dtype == DType::i8;
  cpu::parallel_tasks(host, of.panels(), [&](Index p) {
    std::vector<std::int8_t> row(static_cast<std::size_t>(of.in));
    std::vector<float> numbers(whole ? 0U : row.size());
    for (Index i = p * Int8Weights::panel; i < std::min(of.out, (p + 1) * Int8Weights::panel); ++i) {
      if (!whole) {
        weight.read(i * of.in, std::span(numbers));
        to.quantize_row(e, i, numbers.data());
        continue;
      }
      weight.file().read_bytes(weight.entry(), i * of.in, std::as_writable_bytes(std::span(row)));
      to.put_row(e, i, row.data());
      for (Index j = 0; j < of.in; j += of.run) to.put_scale(e, i, j, weight.scale(i, j));
    }
  });
}

}  // namespace detail

/// Whether `folder` holds a model's weights: a file of them, or an index of shards.
inline bool has_model(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder / detail::weights_name, ignored) ||
         std::filesystem::exists(folder / detail::index_name, ignored);
}

/// Writes `model` into `folder`, made if missing: the weights under their published names, and config.json
/// with `extra` keys kept and torch_dtype set to what was written. Embedding and head are written once, but
/// for MTP layers that have their own. Throws FileError.
///
/// The model in the folder is the old one, whole, until the new one is, at the rename of model.safetensors:
/// its metadata "config" is the text of its config.json, which is renamed a moment later and has the digest
/// of the weights under the key "mtpx_weights". Where the two differ, load_model() takes that text. So it is
/// with `tokenizer`, whose checksum the metadata has, too: see tokenizer_path(). Shards and index of a former
/// model go last.
///
/// mtp: false leaves the MTP layers out and says so in config.json, for programs that know none
/// tokenizer: nothing leaves those files in the folder as they are
template <typename T, typename D>
void save_model(const std::filesystem::path& folder, const Transformer<T, D>& model,
                const Json& extra = Json::object(), bool mtp = true,
                const std::optional<TokenizerFiles>& tokenizer = {}) {
  const auto each = [&](const auto& visit) { detail::for_each_of_file(model, visit); };
  detail::save_folder<T>(folder, model.config, each, extra, mtp, tokenizer,
                         [](const auto&... all) { detail::write_tensors(all...); });
}

/// The configuration of the model in `folder`, as load_model() takes it. Throws ConfigError or FileError.
inline ModelConfig read_model_config(const std::filesystem::path& folder, SafeTensorsOptions options = {}) {
  ModelConfig config = read_config(folder / "config.json");
  detail::complete(config, WeightFiles::open(folder, options));
  return config;
}

/// A model read from a folder, with the keys of its config.json that mtpx does not know.
template <typename T, typename D>
struct LoadedModel {
  Transformer<T, D> model;  ///< with the weights of the folder
  Json extra;               ///< keys of config.json that mtpx does not know, for save_model()
};

namespace detail {
/// Those of the files that a slice reads, with their scales; all for none.
template <typename T>
std::vector<WeightFiles::Weight> weights_of(const Config& config, const WeightFiles& files,
                                            const std::optional<ModelSlice>& slice) {
  std::set<std::string> names;
  if (slice) {
    const Transformer<T, Meta> part(Meta(), config, config.design(), *slice);
    for_each_tensor(part, [&](const std::string& name, const auto&) {
      names.insert({name, scale_name(name)});
    });
  }
  std::vector<WeightFiles::Weight> all;
  for (const auto& [name, weight] : files.weights()) {
    if (!slice || names.contains(std::string(name))) all.push_back(weight);
  }
  return all;
}

/// The model that `config` describes, or a slice of it, with the weights of these files.
template <typename T, typename D>
LoadedModel<T, D> load_weights(const D& device, ModelConfig config, const WeightFiles& files,
                               SafeTensorsOptions options, const LoadProgress& progress,
                               const std::optional<ModelSlice>& slice) {
  check_weights<T>(config, files);
  if (!options.keep_int8) config.config.int8_blocks.reset();
  if (config.config.int8_blocks && !HostMemory<D>)
    throw DeviceError(
        cat("[model] ", files.path(), ": weights in 8 bits are decoded with on the host alone"));
  const Cpu host = host_of(device);
  LoadCount count(progress, files);
  verify_tensors(host, weights_of<T>(config.config, files, slice), [&](const SafeTensorsEntry& entry) {
    if (entry.checksum) count.add(entry);
  });

  const Config& of = config.config;
  const ModelSlice own = slice.value_or(ModelSlice::whole(of.num_hidden_layers));
  LoadedModel<T, D> loaded{of.int8_blocks ? Transformer<T, D>(device, of, int8_products<T, D>)
                                          : Transformer<T, D>(device, of, of.design(), own),
                           std::move(config.extra)};
  if (const auto ids = files.find(draft_ids_name); ids.entry != nullptr)
    loaded.model.draft_from(read_draft_ids(ids));
  for_each_tensor_of_numbers(loaded.model, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    const FolderWeight weight(files, name, config.block_size);
    tensor.assign_by([&](Index first, std::span<N> out) {
      in_parts(host, static_cast<Index>(out.size()), [&](Index begin, Index end) {
        const auto part = out.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        weight.read(first + begin, part);
        if (options.verify) check_finite(weight.file(), name, first + begin, std::span<const N>(part));
      });
    });
    count.add(weight.entry());
  });
  for_each_int8(loaded.model, [&](const std::string& name, const auto& kept, Index e) {
    const FolderWeight weight(files, name, config.block_size);
    if constexpr (HostMemory<D>) read_int8(host, weight, kept, e);
    count.add(weight.entry());
  });
  count.finish();
  return loaded;
}
}  // namespace detail

/// Reads a folder in the published format (README_WEIGHTS.md of DeepSeek-V3): MTP layer k is layer
/// num_hidden_layers + k, from 0; where its embed_tokens and shared_head.head are absent or equal to the main
/// model's, it shares those, and else they are its own. Weights of any floating type are converted to the
/// model's; F8_E4M3 and I8 ones are multiplied by the scales of their blocks, unless options.keep_int8.
///
/// Throws ConfigError or FileError. Fields of config.json that are not what save_model() wrote with these
/// weights are listed; so are missing, unexpected and misshapen tensors, ten at most, before the model is
/// allocated; then every tensor that has a checksum is compared with it. Throws NumericError for a weight
/// that is not finite. options.verify = false: any config.json, no checksums, any weights. All threads of the
/// host read and convert, each its part of a tensor. Memory: the model, what dequantize() takes a thread and,
/// for a device with memory of its own, the pieces on their way there.
///
/// progress: called tensor by tensor, by one thread at a time; it may not throw
/// slice: the part of the model that is read and has its checksums compared, without keep_int8; none: all
template <typename T, typename D>
LoadedModel<T, D> load_model(const D& device, const std::filesystem::path& folder,
                             SafeTensorsOptions options = {}, const LoadProgress& progress = {},
                             const std::optional<ModelSlice>& slice = {}) {
  ModelConfig config = read_config(folder / "config.json");
  const WeightFiles files = WeightFiles::open(folder, options);
  detail::complete(config, files);
  return detail::load_weights<T>(device, std::move(config), files, options, progress, slice);
}

}  // namespace mtpx
