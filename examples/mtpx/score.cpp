// mtpx score: the losses of a model on given tokens or text, and what they came from.

#include "ranks.hpp"
#include "run_folder.hpp"
#include "text.hpp"

#include <mtpx/comm/grid.hpp>
#include <mtpx/reference.hpp>
#include <mtpx/train/evaluate_parts.hpp>
#include <mtpx/train/layout.hpp>

#include <cmath>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>

namespace program {
namespace {

using mtpx::Index;

struct ScoreFlags {
  ModelSource model;
  std::vector<std::string> data;
  std::string tokens;
  std::string dump;
  bool gradients = false;
  double lambda = -1;
  std::string layout;          ///< of a pipeline; empty: every rank has the whole model
  bool share_experts = false;  ///< each copy has a part of the experts of every mixture
  Index batch = 8;
  Index seq = 256;
  DeviceOptions device;
  mtpx::Json facts;
};

/// Rows of a tokens file [B, T + 1] as evaluate() reads them, `batch` at a time: each is one document.
class TokenRows {
 public:
  TokenRows(const std::string& path, const mtpx::Config& config, Index batch) : batch_(batch) {
    const auto fail = [&path](const std::string& cause) {
      throw mtpx::FileError(mtpx::cat("[score] --tokens ", path, ": tokens", cause));
    };
    const mtpx::SafeTensors file = mtpx::SafeTensors::open(path);
    const mtpx::SafeTensorsEntry& entry = file.at("tokens");
    const std::vector<Index>& shape = entry.shape;
    if (entry.dtype_name != "I64") fail(" must be of dtype I64, not " + entry.dtype_name);
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 2) {
      fail(mtpx::cat(" must be [B, T + 1] with T at least 1, not ", mtpx::detail::extents_text(shape)));
    }
    rows_ = shape[0];
    seq_ = shape[1] - 1;
    if (seq_ > config.max_position_embeddings) {
      fail(mtpx::cat(" has T = ", seq_, "; max_position_embeddings = ", config.max_position_embeddings));
    }
    for (const std::int64_t id : file.read<std::int64_t>(entry)) {
      if (id < 0 || id >= config.vocab_size) {
        const auto at = static_cast<Index>(ids_.size());
        fail(mtpx::cat('[', at / shape[1], "][", at % shape[1], "] = ", id, " is outside the vocabulary of ",
                       config.vocab_size));
      }
      ids_.push_back(static_cast<std::int32_t>(id));
    }
  }

  Index rows() const { return rows_; }
  Index seq() const { return seq_; }
  Index size() const { return (rows_ + batch_ - 1) / batch_; }
  mtpx::HostBatch at(Index i) const {
    mtpx::HostBatch host = mtpx::detail::empty_batch(std::min(batch_, rows_ - i * batch_), seq_);
    const auto begin = ids_.begin() + i * batch_ * (seq_ + 1);
    host.tokens.assign(begin, begin + host.batch * (seq_ + 1));
    for (Index t = 0; t < host.batch * (seq_ + 1); ++t) {
      host.positions.push_back(static_cast<std::int32_t>(t % (seq_ + 1)));
    }
    return host;
  }

 private:
  Index batch_, rows_ = 0, seq_ = 0;
  std::vector<std::int32_t> ids_;
};

/// The gradient of the total loss over all rows, in the model's parameters.
template <typename T, typename D>
void add_gradients(const mtpx::Transformer<T, D>& model, const TokenRows& tokens,
                   const mtpx::MtpLossOptions& weights) {
  using A = mtpx::acc_t<T>;
  for (Index i = 0; i < tokens.size(); ++i) {
    const mtpx::Batch<D> batch = upload(model.device(), tokens.at(i));
    mtpx::Tape tape;
    auto out = model(tape, batch);
    out.balance.clear();  // regularises training; no part of what is scored
    const auto loss = mtpx::mtp_loss(model, out, batch, weights);
    // Each loss is a mean over its batch's rows; all rows of a tokens file count.
    const A share = static_cast<A>(static_cast<double>(batch.batch()) / static_cast<double>(tokens.rows()));
    tape.backward(loss.total,
                  mtpx::Tensor<A, D>::from(model.device(), loss.total.shape(), std::span(&share, 1)));
  }
}

/// Writes logits.k [B, T - k, V] and, where there are gradients, grad.<published name>, both in the type of
/// sums. One tensor at a time is in memory, besides the hidden states of all rows.
template <typename T, typename D>
void write_dump(const std::string& path, const mtpx::Transformer<T, D>& model, const TokenRows& tokens,
                bool gradients) {
  using A = mtpx::acc_t<T>;
  std::vector<std::vector<mtpx::Tensor<T, D>>> hidden;  // [batch][depth]
  for (Index i = 0; i < tokens.size(); ++i) {
    mtpx::Tape tape(mtpx::Mode::inference);
    auto& depths = hidden.emplace_back();
    for (const auto& normed : model(tape, upload(model.device(), tokens.at(i))).normed) {
      depths.push_back(normed.value());
    }
  }
  constexpr mtpx::DType dtype = mtpx::dtype_of<A>();
  std::vector<mtpx::TensorInfo> infos;
  for (Index k = 0; k < static_cast<Index>(hidden[0].size()); ++k) {
    infos.push_back(
        {mtpx::cat("logits.", k), dtype, {tokens.rows(), tokens.seq() - k, model.config.vocab_size}});
  }
  std::map<std::string, mtpx::Tensor<A, D>> grads;
  if (gradients) {
    mtpx::for_each_gradient(model,
                            [&](const std::string& name, const auto& grad) { grads["grad." + name] = grad; });
    mtpx::for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
      const auto place = grads.find("grad." + name);
      if (place == grads.end()) return;
      infos.push_back({place->first, dtype, mtpx::detail::extents(tensor.shape())});
      // Modules that no token reached have no gradient yet.
      if (!place->second.defined()) place->second = mtpx::Tensor<A, D>::zeros(model.device(), tensor.shape());
    });
  }
  mtpx::SafeTensorsWriter file(path, std::move(infos));
  for (const mtpx::TensorInfo& info : file.tensors()) {
    std::vector<A> values;
    const auto grad = grads.find(info.name);
    if (grad != grads.end()) {
      values = grad->second.to_host();
    } else {
      const auto k = static_cast<std::size_t>(std::stoll(info.name.substr(info.name.find('.') + 1)));
      for (const auto& depths : hidden) {
        const mtpx::Tensor<T, D>& x = depths[k];
        mtpx::Tensor<A, D> part(x.device(), x.shape().with_width(model.config.vocab_size));
        linear_forward(x.device(), x.rows(), x.data(), model.config.vocab_size,
                       model.head(static_cast<Index>(k)).data(), part.data());
        const std::vector<A> numbers = part.to_host();
        values.insert(values.end(), numbers.begin(), numbers.end());
      }
    }
    file.write(std::as_bytes(std::span<const A>(values)));
  }
  file.finish();
}

/// has_text: whether it is known how many bytes the tokens stand for
mtpx::Json report(mtpx::Evaluation e, const mtpx::Config& config, const mtpx::MtpLossOptions& weights,
                  bool has_text) {
  const auto depth = static_cast<std::size_t>(config.num_nextn_predict_layers);
  e.loss.resize(depth + 1);  // a depth without a row has no loss
  e.accuracy.resize(depth + 1);
  e.rows.resize(depth + 1);
  double total = 0;
  for (std::size_t k = 0; k <= depth; ++k)
    total += weights.weight(static_cast<Index>(k), config.num_nextn_predict_layers) * e.loss[k];
  for (std::size_t k = 0; k <= depth; ++k) {
    if (!std::isfinite(e.loss[k]))
      throw mtpx::NumericError(mtpx::cat("[score] the loss of depth ", k, " is ", e.loss[k]));
  }
  return {{"loss", total},
          {"ce", e.loss},
          {"accuracy", e.accuracy},
          {"rows", e.rows},
          {"bits_per_byte", has_text ? mtpx::Json(e.bits_per_byte()) : mtpx::Json(nullptr)}};
}

/// Ranks must have been told the same.
void require_same(const mtpx::World& world, const ScoreFlags& o, const mtpx::Config& config,
                  const std::string& tokens) {
  mtpx::Json told = o.facts;
  told["config"] = mtpx::Json::parse(mtpx::config_json(config));
  told["tokens"] = tokens;
  world.require_same("score", told.dump(1));
}

/// What this rank has of the model, and those that have the rest.
template <typename T, typename D>
class Part {
 public:
  Part(const ScoreFlags& o, const D& device, const mtpx::World& world) : ranks_(world.host()) {
    if (o.layout.empty() && !o.share_experts) {
      model.emplace(o.model.load<T>(device).model);
      return;
    }
    if constexpr (std::is_same_v<D, mtpx::Reference>) {
      throw mtpx::ConfigError(
          "[device] --device reference: has the whole model, without --layout or --share-experts");
    } else {
      const mtpx::Config config = o.model.config().config;
      const mtpx::Layout layout = o.layout.empty() ? mtpx::Layout::of_counts({config.num_hidden_layers},
                                                                             config.num_nextn_predict_layers)
                                                   : mtpx::Layout::parse(o.layout);
      layout.check(config);
      grid_.emplace(group_of(world, device), static_cast<int>(layout.stages()));
      mtpx::ModelSlice slice = layout.slice(grid_->stages.rank());
      if (o.share_experts) slice = slice.with_experts(grid_->data.rank(), grid_->data.size());
      model.emplace(o.model.load<T>(device, slice).model);
      if (slice.expert_parts == 1) return;
      using Exchange = mtpx::ExpertExchange<mtpx::acc_t<T>, D>;
      const double room = grid_->data.size();  // which always suffices
      model->share_experts(mtpx::ranked_experts<T, D>(std::make_shared<Exchange>(grid_->data, room)));
    }
  }

  template <typename Windows>
  mtpx::Evaluation evaluate(const Windows& windows, const std::vector<std::int32_t>& bytes) const {
    if (!grid_) return mtpx::evaluate(*model, windows, false, bytes, ranks_);
    return mtpx::evaluate(*model, windows, false, bytes, grid_->stages, grid_->data, ranks_,
                          [] { return false; });
  }

  std::optional<mtpx::Transformer<T, D>> model;

 private:
  mtpx::Group<mtpx::Cpu> ranks_;
  std::optional<mtpx::Grid<D>> grid_;
};

/// Ranks share the rows; the first one reports.
template <typename T, typename D>
void run(const ScoreFlags& o, const D& device, const mtpx::World& world) {
  const bool leads = world.rank() == 0;
  const Part<T, D> part(o, device, world);
  const mtpx::Transformer<T, D>& model = *part.model;
  mtpx::MtpLossOptions weights = mtpx::published_weights(model.design);
  if (o.lambda >= 0) weights.lambda = o.lambda;
  mtpx::Evaluation evaluation;
  if (!o.tokens.empty()) {
    const TokenRows tokens(o.tokens, model.config, o.batch);
    require_same(world, o, model.config, mtpx::cat(tokens.rows(), " rows of ", tokens.seq()));
    evaluation = part.evaluate(tokens, {});
    if (!leads) return world.host().barrier();
    const mtpx::Json line = report(evaluation, model.config, weights, model.config.vocab_size == 256);
    if (o.gradients) add_gradients(model, tokens, weights);
    if (!o.dump.empty()) {
      write_output([&] { write_dump(o.dump, model, tokens, o.gradients); });
    }
    std::cout << line.dump() << std::endl;
    if (written()) say_if_past(model.config, tokens.seq());
    return world.host().barrier();  // who leaves first would look lost
  }
  const mtpx::Tokenizer tokenizer = tokenizer_of(o.model.folder, model.config, o.model.options());
  if (o.seq > model.config.max_position_embeddings) {
    throw mtpx::ConfigError(mtpx::cat("[score] --seq ", o.seq,
                                      ": max_position_embeddings = ", model.config.max_position_embeddings));
  }
  const Index depth = model.config.num_nextn_predict_layers;
  const mtpx::Tokens tokens = TextData(o.data, !o.model.no_verify).ids(tokenizer).tokens;
  const mtpx::ValidationWindows windows(tokens, {o.batch, o.seq, std::numeric_limits<Index>::max(), depth});
  if (windows.windows() == 0) {
    throw mtpx::ConfigError(mtpx::cat("[score] --seq ", o.seq, ": the text has ", tokens.size(),
                                      " tokens; a window takes ", o.seq + 1));
  }
  require_same(world, o, model.config, mtpx::cat(tokens.size()));
  evaluation = part.evaluate(windows, token_bytes(tokenizer, model.config));
  if (leads) {
    std::cout << report(evaluation, model.config, weights, true).dump() << std::endl;
    if (written()) say_if_past(model.config, o.seq);
  }
  world.host().barrier();  // who leaves first would look lost
}

void run_reference(const ScoreFlags& o, bool asks_for_dtype, const mtpx::World& world) {
  if (asks_for_dtype && o.device.dtype != "float64") {
    throw mtpx::ConfigError(
        mtpx::cat("[device] --device reference: computes in float64, not in ", o.device.dtype));
  }
  run<double>(o, mtpx::Reference(), world);
}

}  // namespace

void add_score(CLI::App& app) {
  auto options = std::make_shared<ScoreFlags>();
  ScoreFlags& o = *options;
  CLI::App* command = app.add_subcommand(
      "score", "Losses and accuracies of every depth on given tokens or text, as one JSON line");
  o.model.add_mtp(*command, o.model.add(*command)->required());
  auto* data = command->add_option(
      "--data", o.data, "Files or folders of text, or a token file; default: this repository's own");
  auto* tokens = command->add_option("--tokens", o.tokens, "safetensors file with `tokens`, I64 [B, T + 1]")
                     ->excludes(data);
  auto* dump =
      command->add_option("--dump", o.dump, "Write logits.<depth> [B, T - depth, V] to this safetensors file")
          ->needs(tokens);
  command->add_flag("--gradients", o.gradients, "Dump grad.<name> of the loss too, for every parameter")
      ->needs(dump);
  command
      ->add_option("--lambda", o.lambda, "Weight of the depths' losses; default: as the design was published")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--batch", o.batch, "Rows or windows at a time; results agree to rounding")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--seq", o.seq, "Tokens per window of --data")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command
      ->add_option(
          "--layout", o.layout,
          "Stages of a pipeline, whose copies are the ranks that `mtpx launch` started; see `mtpx plan`. "
          "Default: each rank has the whole model")
      ->excludes(dump);
  command
      ->add_flag("--share-experts", o.share_experts,
                 "Copies have a part of the experts of every mixture each, as mtpx train")
      ->excludes(dump);
  o.device.add(*command, {"float32", "bf16", "float64"}, true);
  command->callback([options, command] {
    const mtpx::World world = join_world();
    options->facts = run_facts(*command);
    if (options->device.device == "reference")
      return run_reference(*options, command->count("--dtype") > 0, world);
    take_share(options->device, world);
    with_device(options->device, [&](const auto& device) {
      if (options->device.dtype == "float64") return run<double>(*options, device, world);
      if (options->device.dtype == "bf16") return run<mtpx::bf16>(*options, device, world);
      run<float>(*options, device, world);
    });
  });
}

}  // namespace program
