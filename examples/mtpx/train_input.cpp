// What `mtpx train` reads: configuration, text, tokenizer.

#include "train.hpp"

#include <algorithm>
#include <filesystem>

namespace program {
namespace {

/// Only windows of one fixed batch, for `--overfit-batch`: the same step again and again.
mtpx::Tokens first_windows(const mtpx::Tokens& all, mtpx::Index count) {
  std::vector<std::int32_t> ids;
  for (mtpx::Index i = 0; i < count; ++i) ids.push_back(all.at(i % all.size()));
  mtpx::Tokens tokens;
  tokens.add(ids);
  return tokens;
}

/// The start of a text, up to a space: what samples continue where nobody says what.
std::string first_words(const mtpx::Tokens& text, const mtpx::Tokenizer& tokenizer) {
  constexpr std::size_t enough = 48;
  const mtpx::TokenizerParts& parts = tokenizer.parts();
  std::string words;
  for (mtpx::Index i = 0; !text.empty() && i < text.length(0) && words.size() < enough; ++i) {
    const std::int32_t id = text.at(i);
    const auto is = [id](const std::vector<std::int32_t>& ids) {
      return std::count(ids.begin(), ids.end(), id) > 0;
    };
    if (!is(parts.before) && !is(parts.after)) words += tokenizer.text(id);
  }
  words.resize(std::min(words.size(), enough));
  words.resize(std::min(words.size(), words.find_last_of(" \n")));
  return mtpx::Utf8Stream::valid(words) ? words : "";
}

/// The weights that the design was published with, where none are asked for.
void set_weights(TrainFlags& o, const mtpx::Config& config) {
  const mtpx::MtpDesign design = config.design();
  const mtpx::MtpLossOptions published = mtpx::published_weights(design);
  mtpx::TaughtLossOptions& loss = o.train.step.loss;
  loss.reduction = o.reduction == "sum"    ? mtpx::LossReduction::sum
                   : o.reduction == "mean" ? mtpx::LossReduction::mean
                                           : published.reduction;
  loss.depth_decay = published.depth_decay;
  loss.distill = o.distill.empty() ? 0 : o.distill_share;
  loss.divergence = o.distill == "ce"   ? mtpx::Divergence::cross_entropy
                    : o.distill == "kl" ? mtpx::Divergence::kl
                                        : mtpx::Divergence::total_variation;
  loss.lambda = o.lambda < 0 ? published.lambda : o.lambda;
  o.train.lambda.late = o.lambda_late >= 0 ? o.lambda_late : loss.lambda / design.late_divisor;
}

/// The model's configuration, with what flags say over it; and what they leave to it.
mtpx::ModelConfig resolve(TrainFlags& o) {
  mtpx::ModelConfig source = o.init.folder.empty() ? o.config.read() : o.init.config();
  mtpx::Config& config = source.config;
  refuse_int8(config, o.init.folder.empty() ? o.config.file : o.init.folder);
  set_depths(config, o.depth, o.heads, o.copy_modules);
  if (o.markov_rank >= 0) config.mtpx_markov_rank = o.markov_rank;
  if (o.vocabulary > 0) config.vocab_size = o.vocabulary;
  if (o.tie_word_embeddings) config.tie_word_embeddings = true;
  if (o.draft_vocabulary >= 0) config.mtpx_draft_vocabulary = o.draft_vocabulary;
  config.validate();
  set_weights(o, config);
  if (o.depth_decay > 0)
    o.train.step.loss.depth_weights =
        mtpx::exponential_weights(config.num_nextn_predict_layers, o.depth_decay);
  if (o.divisor == "all") o.train.step.loss.divisor = mtpx::LossDivisor::all_positions;
  o.train.lr.warmup = std::min(o.train.lr.warmup, o.train.steps / 10);
  if (!mtpx::Utf8Stream::valid(o.prompt)) throw mtpx::ConfigError("[train] --prompt is not valid UTF-8");
  return source;
}

}  // namespace

void refuse_int8(const mtpx::Config& config, const std::string& from) {
  if (config.int8_blocks)
    throw mtpx::ConfigError(mtpx::cat("[train] ", from,
                                      ": weights in 8 bits (mtpx_int8) are not trained: begin with the model "
                                      "that they were made of"));
}

TrainInput read_input(TrainFlags& o, const std::optional<mtpx::Checkpoint>& from, const char* device,
                      const RunFolder& out, const std::function<void(const std::string&)>& say) {
  const mtpx::ModelConfig source = resolve(o);
  const mtpx::Index depth = source.config.num_nextn_predict_layers;
  const mtpx::Index needed = mtpx::Batches::minimum(o.batches.seq, depth);
  const bool anew = o.init.folder.empty(), own_validation = o.validation_data.empty() && !o.overfit;
  const std::filesystem::path tokenizer_file =
      anew ? std::filesystem::path(o.tokenizer) : mtpx::tokenizer_path(o.init.folder, o.init.options());
  const auto open = [&](const std::vector<std::string>& paths) {  // a dry run writes no token file
    return o.dry_run ? TextData(paths, !o.init.no_verify) : TextData(paths, !o.init.no_verify, o.text_memory);
  };
  TextData data = open(o.data);
  mtpx::Tokenizer tokenizer =
      from   ? tokenizer_of(from->folder.string(), source.config, o.init.options())
      : anew ? new_tokenizer(o.tokenizer, source.config, data, own_validation ? o.validation : 0)
             : tokenizer_of(o.init.folder, source.config, o.init.options());
  mtpx::TokenizerFiles files = tokenizer_files(tokenizer, tokenizer_file, o.init.folder);
  const auto ids_of = [&](TextData& text, const char* kept) {
    return text.ids(tokenizer, out / kept, [&](const std::string& line) {
      make_out("train", o.out);
      say(line);
    });
  };
  const TextIds ids = ids_of(data, "text.tokens");
  mtpx::TokenSplit parts =
      own_validation ? ids.tokens.split(o.validation, needed) : mtpx::TokenSplit{ids.tokens, {}};
  mtpx::Json facts = o.facts;
  facts["device"] = device;
  facts["model"] = mtpx::Json::parse(mtpx::config_json(source.config, source.extra));
  facts["data"] = {
      {"train", mtpx::checksum_text(ids.fingerprint)},
      {"validation", own_validation ? "held out" : "none"},
      {"tokenizer",
       tokenizer_file.empty() ? "of the text" : mtpx::checksum_text(mtpx::checksum(files.tokenizer))}};
  if (!own_validation && !o.overfit) {
    TextData validation = open(o.validation_data);
    const TextIds others = ids_of(validation, "validation.tokens");
    parts.validation = others.tokens;
    facts["data"]["validation"] = mtpx::checksum_text(others.fingerprint);
  }
  if (from) check_facts(*from, facts, o.checkpoints.overrides);
  if (o.prompt.empty()) o.prompt = first_words(parts.validation, tokenizer);
  std::optional<std::vector<std::int32_t>> draft_ids;  // a checkpoint has its own
  if (!from && (anew || o.draft_vocabulary >= 0)) {
    draft_ids.emplace();
    if (const mtpx::Index n = source.config.mtpx_draft_vocabulary; n > 0)
      draft_ids = mtpx::most_frequent_ids(id_counts(parts.train, source.config.vocab_size), n);
  }
  std::string text =
      mtpx::cat(ids.bytes, " bytes in ", ids.tokens.documents(), " documents, ", ids.tokens.size(),
                " tokens of ", tokenizer.size(), ", ", parts.train.size(), " to train on");
  if (o.overfit) parts.train = first_windows(parts.train, std::max(needed, o.batches.batch * o.batches.seq));
  mtpx::BatchOptions windows_of = o.batches;
  windows_of.depth = depth;
  if (o.overfit) windows_of.seed = 0;
  return {source,
          std::move(tokenizer),
          std::move(files),
          std::make_shared<const mtpx::Batches>(std::move(parts.train), windows_of),
          {std::move(parts.validation), {o.batches.batch, o.batches.seq, o.eval_windows, depth}},
          std::move(draft_ids),
          std::move(facts),
          std::move(text)};
}

}  // namespace program
