#pragma once
// A model folder as one GGUF file, which llama.cpp reads, its MTP module included.

#include <mtpx/io/folder_weight.hpp>
#include <mtpx/io/gguf.hpp>
#include <mtpx/io/gguf_deepseek2.hpp>
#include <mtpx/io/gguf_tokenizer.hpp>
#include <mtpx/io/model_folder.hpp>
#include <mtpx/io/sidecar.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// What is written.
struct GgufOptions {
  GgufType type = GgufType::bf16;        ///< of matrices; vectors and routers are floats
  bool mtp = true;                       ///< the MTP module, where llama.cpp can draft with it
  std::optional<Tokenizer> tokenizer{};  ///< the folder's, read; nothing: llama.cpp takes and gives ids
  SafeTensorsOptions files{};            ///< how the folder is read
  std::filesystem::path sidecar{};       ///< MTP layers in the place of the folder's own; empty: these
  std::function<void(Index done, Index all)> progress{};  ///< hears how many numbers are written
};

/// What was written.
struct GgufSummary {
  std::size_t tensors = 0;           ///< how many
  Index bytes = 0;                   ///< of the file
  bool mtp = false;                  ///< whether an MTP module is among them
  std::vector<std::string> notices;  ///< what llama.cpp will do otherwise than mtpx, a line each
};

namespace detail {

/// Hands the tensors of a file to its writer, in memory that does not grow with the model: some millions of
/// numbers at a time, and of mapped weights the pages that are being read.
class GgufCopy {
 public:
  /// all: numbers that add() will copy
  GgufCopy(GgufWriter& to, const WeightFiles& files, BlockSize block, const GgufOptions& options, Index all,
           const Cpu& host)
      : to_(to), files_(files), block_(block), options_(options), all_(all), host_(host) {}

  void add(const GgufPlan& plan) {
    for (std::size_t i = 0; i < plan.parts.size(); ++i) {
      const GgufPart& part = plan.parts[i];
      if (!weight_ || weight_->entry().name != part.weight) open(part.weight);
      copy(part);
    }
  }

  /// Lets the last weight go.
  void close() {
    if (weight_ && options_.files.mmap) Mapping::forget(weight_->file().bytes(weight_->entry()));
    weight_.reset();
  }

 private:
  static constexpr Index most = Index{1} << 22;  // numbers in memory, but for a single row or head

  void open(const std::string& name) {
    close();
    weight_ = std::make_unique<FolderWeight>(files_, name, block_);
    if (options_.files.verify && verified_.insert(name).second) weight_->file().verify(weight_->entry());
  }

  void copy(const GgufPart& part) {
    const Index count = part.rows * part.columns;
    const bool whole = part.order == GgufPart::Order::transposed;
    const Index step = whole ? count : std::max(part.columns, most / part.columns * part.columns);
    for (Index done = 0; done < count; done += step) {
      numbers_.resize(static_cast<std::size_t>(std::min(step, count - done)));
      in_parts(host_, static_cast<Index>(numbers_.size()), [&](Index begin, Index end) {
        weight_->read(part.first + done + begin,
                      std::span(numbers_).subspan(static_cast<std::size_t>(begin),
                                                  static_cast<std::size_t>(end - begin)));
      });
      reorder(part);
      to_.write(numbers_);
      done_ += static_cast<Index>(numbers_.size());
      if (options_.progress) options_.progress(done_, all_);
    }
  }

  void reorder(const GgufPart& part) {
    if (part.scale != 1) {
      for (float& number : numbers_) number *= part.scale;
    }
    const auto rows = static_cast<std::size_t>(part.rows), columns = static_cast<std::size_t>(part.columns);
    if (part.order == GgufPart::Order::transposed) {
      turned_.resize(numbers_.size());
      for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < columns; ++j) turned_[j * rows + i] = numbers_[i * columns + j];
      }
      numbers_.swap(turned_);
    }
    if (part.order == GgufPart::Order::halves) {
      for (auto row = numbers_.begin(); row != numbers_.end(); row += part.columns)
        std::rotate(row, row + part.columns / 2, row + part.columns);
    }
  }

  GgufWriter& to_;
  const WeightFiles& files_;
  BlockSize block_;
  const GgufOptions& options_;
  Index done_ = 0, all_;
  const Cpu& host_;
  std::unique_ptr<FolderWeight> weight_;
  std::set<std::string> verified_;
  std::vector<float> numbers_, turned_;
};

}  // namespace detail

/// Writes the model in `folder` as `path`, for llama.cpp's architecture "deepseek2" (v0.5.0 and later), whole
/// or not at all. Tensors are streamed, each from wherever its weights lie; of matrices that are no multiple
/// of 32 wide, q8_0 makes f16.
///
/// The MTP module goes along where llama.cpp can draft with it (`--spec-type draft-mtp`): one module, a
/// mixture with q_lora_rank, fed the state behind the final norm. Others are left out, with a notice.
///
/// Throws what load_model() throws, ConfigError that lists what llama.cpp cannot compute or cannot tokenise,
/// and NumericError for a weight that is not finite or too large for its type.
///
/// Host is Cpu. It is a parameter so that our own programs compile this once (io/instances.hpp).
template <typename Host>
GgufSummary write_gguf(const std::filesystem::path& path, const std::filesystem::path& folder,
                       const GgufOptions& options, const Host& host) {
  ModelConfig config = read_config(folder / "config.json");
  WeightFiles files = WeightFiles::open(folder, options.files);
  detail::complete(config, files);
  if (!options.sidecar.empty())
    detail::join_sidecar(config, files, sidecar_path(options.sidecar), options.files);
  const Config& c = config.config;
  detail::check_weights<float>(config, files);

  GgufSummary summary;
  const bool wanted = options.mtp && c.num_nextn_predict_layers > 0;
  const std::string reason = wanted ? detail::no_gguf_mtp(c) : "";
  summary.mtp = wanted && reason.empty();
  if (!reason.empty())
    summary.notices.push_back("written without MTP, with which llama.cpp could not draft: " + reason);
  detail::refuse((folder / "config.json").string(), "llama.cpp cannot compute this model",
                 detail::not_in_deepseek2(c, summary.mtp));
  if (const std::string yarn = c.rope_scaling ? detail::gguf_yarn_options(*c.rope_scaling) : "";
      !yarn.empty())
    summary.notices.push_back("llama.cpp computes this model with these options only:" + yarn);
  if (summary.mtp && c.mtpx_draft_vocabulary > 0)
    summary.notices.push_back("mtpx_draft_vocabulary is left out: llama.cpp drafts from all tokens");

  GgufKeys keys;
  keys.text("general.architecture", "deepseek2");
  keys.text("general.type", "model");
  constexpr auto file_type = [](GgufType type) {  // llama.cpp's numbers of files that are mostly of a type
    return type == GgufType::q8_0 ? 7 : type == GgufType::bf16 ? 32 : static_cast<Index>(type);
  };
  keys.number("general.file_type", file_type(options.type));
  if (options.type == GgufType::q8_0) keys.number("general.quantization_version", 2);
  detail::add_config(keys, c, summary.mtp);
  if (options.tokenizer) {
    add_tokenizer(keys, *options.tokenizer, c, folder, summary.notices);
  } else {
    add_no_tokenizer(keys);
  }

  const std::vector<detail::GgufPlan> plans = detail::GgufTensors(c, options.type, summary.mtp).all;
  std::vector<GgufTensor> tensors;
  Index numbers = 0;
  for (const detail::GgufPlan& plan : plans) {
    tensors.push_back(plan.tensor);
    for (const detail::GgufPart& part : plan.parts) numbers += part.rows * part.columns;
  }
  GgufWriter writer(path, keys, std::move(tensors), host);
  detail::GgufCopy copy(writer, files, config.block_size, options, numbers, host);
  for (const detail::GgufPlan& plan : plans) copy.add(plan);
  copy.close();
  writer.finish();
  summary.tensors = plans.size();
  summary.bytes = writer.bytes();
  return summary;
}

}  // namespace mtpx
