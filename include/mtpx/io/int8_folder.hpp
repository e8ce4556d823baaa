#pragma once
// A model folder with its matrices in 8 bits, made of any other.

#include <mtpx/io/model_folder.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// How a folder in 8 bits is made.
struct Int8Options {
  BlockSize blocks{1, 128};                   ///< of numbers that share a scale
  SafeTensorsOptions files{};                 ///< how the folder is read
  std::optional<TokenizerFiles> tokenizer{};  ///< laid beside the weights; nothing: what is there stays
  LoadProgress progress{};                    ///< hears how many bytes are read
};

namespace detail {

/// A matrix of a folder as whole numbers with scales, rows of blocks by all threads.
struct QuantizedMatrix {
  std::vector<std::int8_t> q;  // [rows, columns]
  std::vector<float> scales;   // [rows of blocks, blocks in a row]

  QuantizedMatrix(const FolderWeight& weight, const std::string& name, BlockSize block, const Cpu& host) {
    const Index rows = weight.entry().shape[0], columns = weight.entry().shape[1];
    const Index across = (columns + block.columns - 1) / block.columns;
    const Index down = (rows + block.rows - 1) / block.rows;
    q.resize(static_cast<std::size_t>(rows * columns));
    scales.resize(static_cast<std::size_t>(down * across));
    cpu::parallel_tasks(host, down, [&](Index b) {
      const Index first = b * block.rows, count = std::min(block.rows, rows - first);
      std::vector<float> numbers(static_cast<std::size_t>(count * columns));
      weight.read(first * columns, std::span(numbers));
      check_finite(weight.file(), name, first * columns, std::span<const float>(numbers));
      for (Index j = 0; j < columns; j += block.columns) {
        scales[static_cast<std::size_t>(b * across + j / block.columns)] =
            quantize_block(numbers.data() + j, count, std::min(block.columns, columns - j), columns,
                           q.data() + first * columns + j);
      }
    });
  }
};

/// The tensors of a folder, each written as it shall be.
class Int8Copy {
 public:
  Int8Copy(const ModelConfig& from, const Config& made, const WeightFiles& files, const Int8Options& options,
           const Cpu& host)
      : files_(files), block_(from.block_size), options_(options), host_(host) {
    const Transformer<float, Meta> model(Meta(), made, int8_products<float, Meta>);
    const auto keep = [&](const std::string& name, const auto&...) {
      const SafeTensorsEntry& entry = *files.find(name).entry;
      tensors_.push_back({name, has_scales(entry) ? DType::bf16 : *entry.dtype, entry.shape});
    };
    for_each_tensor_of_numbers(model, keep);
    if (made.mtpx_draft_vocabulary > 0) keep(draft_ids_name);
    for_each_int8(model, [&](const std::string& name, const auto&, Index) {
      const std::vector<Index>& shape = files.find(name).entry->shape;
      tensors_.push_back({name, DType::i8, shape});
      tensors_.push_back({scale_name(name), DType::f32, scales_shape(options.blocks, shape)});
      weight_of_scales_.emplace(scale_name(name), name);
    });
  }

  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  void write(SafeTensorsWriter& to) {
    LoadCount count(options_.progress, files_);
    for (const TensorInfo& tensor : to.tensors()) {
      const auto scaled = weight_of_scales_.find(tensor.name);
      const std::string& name = scaled == weight_of_scales_.end() ? tensor.name : scaled->second;
      const FolderWeight weight(files_, name, block_);
      if (options_.files.verify) weight.file().verify(weight.entry());
      if (scaled != weight_of_scales_.end()) {
        to.write(std::as_bytes(std::span<const float>(scales_of(weight, name))));
      } else if (tensor.dtype == DType::i8) {
        QuantizedMatrix matrix(weight, name, options_.blocks, host_);
        to.write(std::as_bytes(std::span<const std::int8_t>(matrix.q)));
        scales_[name] = std::move(matrix.scales);
      } else if (has_scales(weight.entry())) {
        std::vector<bf16> numbers(
            static_cast<std::size_t>(weight.entry().shape[0] * weight.entry().shape[1]));
        weight.read(0, std::span(numbers));
        to.write(std::as_bytes(std::span<const bf16>(numbers)));
      } else {
        std::vector<std::byte> bytes(static_cast<std::size_t>(weight.entry().bytes()));
        weight.file().read_bytes(weight.entry(), 0, bytes);
        to.write(bytes);
      }
      count.add(weight.entry());
    }
    count.finish();
  }

 private:
  /// Scales may come before or behind their numbers in a file.
  std::vector<float> scales_of(const FolderWeight& weight, const std::string& name) {
    const auto known = scales_.find(name);
    if (known != scales_.end()) return std::move(known->second);
    return QuantizedMatrix(weight, name, options_.blocks, host_).scales;
  }

  const WeightFiles& files_;
  BlockSize block_;
  const Int8Options& options_;
  const Cpu& host_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> weight_of_scales_;
  std::map<std::string, std::vector<float>> scales_;
};

}  // namespace detail

/// Writes the model in `folder` into the folder `to` with matrices in 8 bits (quantize_block()), which
/// load_model() reads as numbers or, with SafeTensorsOptions::keep_int8, as they are, for decoding.
/// Embedding, kv_b_proj, routers, the Markov bias and vectors stay as they stand; of those that have scales,
/// bf16 is made. config.json says so by the quant_method "mtpx_int8", which programs that do not know it
/// refuse.
///
/// The folder appears as save_model() writes one. Memory: the largest tensor, and the scales.
/// Throws what load_model() throws, ConfigError for a folder that is in 8 bits already.
///
/// Host is Cpu. It is a parameter so that our own programs compile this once (io/instances.hpp).
template <typename Host>
void write_int8(const std::filesystem::path& to, const std::filesystem::path& folder,
                const Int8Options& options, const Host& host) {
  ModelConfig config = read_config(folder / "config.json");
  const WeightFiles files = WeightFiles::open(folder, options.files);
  detail::complete(config, files);
  if (config.config.int8_blocks)
    throw ConfigError(cat("[int8] ", folder.string(), ": its weights are in 8 bits already"));
  detail::check_weights<float>(config, files);
  Config made = config.config;
  made.int8_blocks = options.blocks;
  detail::make_folder(to);
  detail::Int8Copy copy(config, made, files, options, host);
  SafeTensorsWriter writer(to / detail::weights_name, copy.tensors(),
                           detail::folder_metadata(config_json(made, config.extra), options.tokenizer));
  copy.write(writer);
  detail::place_folder(to, writer, made, config.extra, options.tokenizer);
}

}  // namespace mtpx
