#pragma once
// config.json, as DeepSeek-V3 publishes it: to Config and back. What mtpx cannot honour is refused by name,
// what it does not know is kept.

#include <mtpx/core/error.hpp>
#include <mtpx/io/block_scales.hpp>
#include <mtpx/io/config_keys.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/model/config.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// A configuration together with the keys of its file that mtpx has no use for, in their order
/// ("architectures", "torch_dtype", ...).
struct ModelConfig {
  Config config;                ///< what the file says of the model
  Json extra = Json::object();  ///< all other keys
  BlockSize block_size{};  ///< of 8-bit weights, from quantization_config; that key is not kept in `extra`
};

namespace detail {

enum class Need { always, with_experts, never };

/// Calls visit(key, member, need) for every key that holds a plain number or truth value, in the order in
/// which they are written. One list for reading and writing.
template <typename AnyConfig, typename Visit>
void visit_plain_keys(AnyConfig& config, Visit&& visit) {
  visit("vocab_size", config.vocab_size, Need::always);
  visit("hidden_size", config.hidden_size, Need::always);
  visit("intermediate_size", config.intermediate_size, Need::always);
  visit("num_hidden_layers", config.num_hidden_layers, Need::always);
  visit("num_nextn_predict_layers", config.num_nextn_predict_layers, Need::never);
  visit("num_attention_heads", config.num_attention_heads, Need::always);
  visit("kv_lora_rank", config.kv_lora_rank, Need::always);
  visit("qk_nope_head_dim", config.qk_nope_head_dim, Need::always);
  visit("qk_rope_head_dim", config.qk_rope_head_dim, Need::always);
  visit("v_head_dim", config.v_head_dim, Need::always);
  visit("n_routed_experts", config.n_routed_experts, Need::with_experts);
  visit("moe_intermediate_size", config.moe_intermediate_size, Need::with_experts);
  visit("n_shared_experts", config.n_shared_experts, Need::with_experts);
  visit("num_experts_per_tok", config.num_experts_per_tok, Need::with_experts);
  visit("n_group", config.n_group, Need::with_experts);
  visit("topk_group", config.topk_group, Need::with_experts);
  visit("routed_scaling_factor", config.routed_scaling_factor, Need::with_experts);
  visit("norm_topk_prob", config.norm_topk_prob, Need::with_experts);
  visit("first_k_dense_replace", config.first_k_dense_replace, Need::with_experts);
  visit("aux_loss_alpha", config.aux_loss_alpha, Need::never);
  visit("tie_word_embeddings", config.tie_word_embeddings, Need::never);
  visit("rms_norm_eps", config.rms_norm_eps, Need::always);
  visit("max_position_embeddings", config.max_position_embeddings, Need::always);
  visit("initializer_range", config.initializer_range, Need::never);
}

/// What one spelling of the rotary positions says.
struct RopeKeys {
  bool given = false;
  std::optional<double> theta;
  std::optional<RopeScaling> scaling;
};

/// `key` is "rope_scaling" (published with DeepSeek-V3) or "rope_parameters" (transformers 5); null counts as
/// absent.
inline RopeKeys read_rope(KeyReader& keys, const char* key, std::vector<std::string>& problems) {
  RopeKeys rope;
  std::optional<Json> value = keys.take(key);
  if (!value || value->is_null()) return rope;
  if (!value->is_object()) {
    keys.note(key, *value, "must be an object or null");
    return rope;
  }
  rope.given = true;
  KeyReader fields(std::move(*value), cat(key, '.'), problems);
  double theta = 0;
  if (fields.read("rope_theta", theta, false)) rope.theta = theta;
  // Files carry either name of the type or both.
  bool yarn = false;
  const std::vector<std::pair<const char*, bool>> types = {{"default", false}, {"yarn", true}};
  fields.read_choice("type", yarn, types);
  fields.read_choice("rope_type", yarn, types);
  fields.demand("partial_rotary_factor", 1);
  if (yarn) {
    RopeScaling scaling;
    fields.read("factor", scaling.factor, true);
    fields.read("original_max_position_embeddings", scaling.original_max_position_embeddings, true);
    fields.read("beta_fast", scaling.beta_fast, false);
    fields.read("beta_slow", scaling.beta_slow, false);
    const bool mscale = fields.read("mscale", scaling.mscale, false);
    const bool all_dim = fields.read("mscale_all_dim", scaling.mscale_all_dim, false);
    const bool both = mscale && all_dim && scaling.mscale != 0 && scaling.mscale_all_dim != 0;
    const bool neither = scaling.mscale == 1 && scaling.mscale_all_dim == 0;
    if (!both && !neither) {
      problems.push_back(
          cat(key, ".mscale = ", scaling.mscale, ", mscale_all_dim = ", scaling.mscale_all_dim,
              ": published programs agree only where both are given and not 0, or neither is"));
    }
    fields.demand("attention_factor", nullptr);
    fields.demand("truncate", true);
    rope.scaling = scaling;
  }
  // Unlike elsewhere, an unknown key cannot be kept: it would mean other positions.
  for (const auto& [name, unknown] : fields.rest().items()) {
    problems.push_back(cat(key, '.', name, " = ", json_text(unknown), ": is not known",
                           yarn ? "" : " without the type \"yarn\""));
  }
  return rope;
}

inline void read_ropes(KeyReader& keys, Config& config, std::vector<std::string>& problems) {
  std::optional<double> theta;
  double plain = 0;
  if (keys.read("rope_theta", plain, false)) theta = plain;
  const RopeKeys published = read_rope(keys, "rope_scaling", problems);
  const RopeKeys newer = read_rope(keys, "rope_parameters", problems);
  for (const RopeKeys* rope : {&published, &newer}) {
    if (theta && rope->theta && *theta != *rope->theta) {
      problems.push_back(cat("rope_theta = ", *theta, " and ", *rope->theta, ": given twice, and different"));
    }
    if (!theta) theta = rope->theta;
  }
  if (published.given && newer.given && published.scaling != newer.scaling) {
    problems.push_back("rope_scaling and rope_parameters are both given, and different");
  }
  if (!theta) problems.push_back("rope_theta is missing");
  config.rope_theta = theta.value_or(config.rope_theta);
  config.rope_scaling = published.scaling ? published.scaling : newer.scaling;
}

/// What quantization_config calls matrices of whole numbers: our own, so that no other program takes them for
/// something else.
constexpr const char* int8_method = "mtpx_int8";

/// quantization_config describes the weights beside the file: the blocks' extents and, in `int8`, whether
/// they are such matrices.
inline BlockSize read_quantization(KeyReader& keys, std::optional<BlockSize>& int8,
                                   std::vector<std::string>& problems) {
  BlockSize block;
  std::optional<Json> value = keys.take("quantization_config");
  if (!value || value->is_null()) return block;
  if (!value->is_object()) {
    keys.note("quantization_config", *value, "must be an object or null");
    return block;
  }
  KeyReader fields(std::move(*value), "quantization_config.", problems);
  if (!fields.rest().contains("quant_method")) fields.note_missing("quant_method");
  bool whole = false;
  const std::vector<std::pair<const char*, bool>> methods = {{"fp8", false}, {int8_method, true}};
  fields.read_choice("quant_method", whole, methods);
  if (!whole) fields.demand("fmt", "e4m3");
  const std::optional<Json> extents = fields.take("weight_block_size");
  if (!extents && whole) fields.note_missing("weight_block_size");
  if (!extents) return block;
  const auto positive = [](const Json& extent) {
    return extent.is_number_unsigned() && extent >= 1 && extent <= (1 << 20);
  };
  if (!extents->is_array() || extents->size() != 2 || !positive((*extents)[0]) || !positive((*extents)[1])) {
    fields.note("weight_block_size", *extents, "must be an array of two positive whole numbers");
    return block;
  }
  block = {(*extents)[0].get<Index>(), (*extents)[1].get<Index>()};
  if (whole) int8 = block;
  return block;
}

inline const std::vector<std::pair<const char*, MtpConcat>>& mtp_concat_names() {
  static const std::vector<std::pair<const char*, MtpConcat>> names = {
      {"embedding_hidden", MtpConcat::embedding_hidden}, {"hidden_embedding", MtpConcat::hidden_embedding}};
  return names;
}

inline const std::vector<std::pair<const char*, MtpHidden>>& mtp_hidden_names() {
  static const std::vector<std::pair<const char*, MtpHidden>> names = {{"post_norm", MtpHidden::post_norm},
                                                                       {"pre_norm", MtpHidden::pre_norm}};
  return names;
}

inline const std::vector<std::pair<const char*, MtpHeads>>& mtpx_heads_names() {
  static const std::vector<std::pair<const char*, MtpHeads>> names = {{"sequential", MtpHeads::sequential},
                                                                      {"repeated", MtpHeads::repeated},
                                                                      {"parallel", MtpHeads::parallel},
                                                                      {"linear", MtpHeads::linear}};
  return names;
}

/// The keys that say what mtpx does anyway with such a model; every other value is refused.
inline std::vector<std::pair<const char*, Json>> fixed_keys(const Config& config) {
  const bool softmax = config.scoring_func == ScoringFunc::softmax;
  const char* const method = config.n_group > 1 ? "group_limited_greedy" : "greedy";
  return {{"hidden_act", "silu"},
          {"scoring_func", softmax ? "softmax" : "sigmoid"},
          {"topk_method", softmax ? method : "noaux_tc"},
          {"moe_layer_freq", 1},
          {"attention_bias", false}};
}

constexpr const char* architecture = "DeepseekV3ForCausalLM";
/// That of models with DeepSeek-V2's router, whose type is `v2_type`.
constexpr const char* v2_architecture = "DeepseekV2ForCausalLM";
constexpr const char* v2_type = "deepseek_v2";
/// Types of models that are computed as DeepSeek-V3 is, whatever their architecture is called.
constexpr std::array<std::string_view, 5> model_types{"deepseek_v3", "kimi_k2", "joyai_llm_flash",
                                                      "glm4_moe_lite", "youtu"};

/// Sets what a file of some model_type leaves to its name. The key stays if it is not DeepSeek's own.
inline void read_model_type(KeyReader& keys, Config& config) {
  const auto place = keys.rest().find("model_type");
  if (place == keys.rest().end()) return keys.note_missing("model_type");
  const std::string type = place->is_string() ? place->get<std::string>() : "";
  const auto named = keys.rest().find("architectures");
  const bool by_name = named != keys.rest().end() && *named == Json{architecture};
  config.tie_word_embeddings = type == "youtu";
  if (type == "deepseek_v3") {
    keys.take("model_type");
  } else if (type == v2_type) {
    keys.take("model_type");
    keys.expect("architectures", Json::array({v2_architecture}));
    config.scoring_func = ScoringFunc::softmax;
  } else if (std::find(model_types.begin(), model_types.end(), type) == model_types.end() &&
             (!by_name || type.empty())) {
    std::string known = quote(v2_type);
    for (const std::string_view one : model_types) known += cat(", ", quote(one));
    keys.note(
        "model_type", *place,
        cat("only ", known, " are supported, and others with architectures = [", quote(architecture), ']'));
  }
}

/// Whether a file speaks of experts. One without these keys is of dense layers.
inline bool has_experts(Json& keys) {
  const auto count = keys.find("n_routed_experts");
  if (count != keys.end() && count->is_null()) keys.erase("n_routed_experts");
  if (keys.contains("n_routed_experts")) return keys["n_routed_experts"] != 0;
  return keys.contains("moe_intermediate_size") || keys.contains("num_experts_per_tok") ||
         keys.contains("n_shared_experts");
}

/// What a file leaves out of its experts, because programs for its model_type know it: which groups a router
/// without groups has, and how many layers are dense.
inline void complete_experts(KeyReader& keys, const Config& config) {
  Json& rest = keys.rest();
  if (config.scoring_func == ScoringFunc::softmax) {
    bool grouped = false;
    keys.read_choice(
        "topk_method", grouped,
        std::vector<std::pair<const char*, bool>>{{"greedy", false}, {"group_limited_greedy", true}});
    if (!grouped) rest["n_group"] = rest["topk_group"] = 1U;
  }
  const char* const first = "first_k_dense_replace";
  const Json types = rest.value("mlp_layer_types", Json());
  const bool glm = rest.value("model_type", Json()) == "glm4_moe_lite";
  if (!rest.contains(first) && types.is_array()) {
    const auto sparse =
        std::find_if(types.begin(), types.end(), [](const Json& one) { return one != "dense"; });
    rest[first] = static_cast<std::uint64_t>(sparse - types.begin());
  }
  if (!glm || !types.is_null()) return;
  if (!rest.contains(first)) rest[first] = 1U;
  if (rest[first] != 1)
    keys.note(first, rest[first], "without mlp_layer_types, glm4_moe_lite has one dense layer elsewhere");
}

/// Which layers route is said a second time by transformers 5; kept.
inline void check_layer_types(KeyReader& keys, const Config& config) {
  const auto place = keys.rest().find("mlp_layer_types");
  if (place == keys.rest().end() || place->is_null()) return;
  bool same = place->is_array() && static_cast<Index>(place->size()) == config.num_hidden_layers;
  for (Index layer = 0; same && layer < config.num_hidden_layers; ++layer)
    same = (*place)[static_cast<std::size_t>(layer)] == (config.is_moe(layer) ? "sparse" : "dense");
  if (!same)
    keys.note("mlp_layer_types", *place,
              cat("must be \"dense\" for the first ", config.first_k_dense_replace, " of ",
                  config.num_hidden_layers, " layers and \"sparse\" for the others"));
}

/// Throws ConfigError "[config] file: what" with a line for each entry of `lines`, if there are any.
inline void refuse(const std::string& file, const char* what, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  std::string text = cat("[config] ", file, ": ", what);
  for (const std::string& line : lines) text += "\n  " + line;
  throw ConfigError(text);
}

}  // namespace detail

/// The configuration in the text of a config.json; `file` names it in errors.
///
/// The model is told by model_type, or by architectures where that is unknown: DeepSeek-V3's, those that are
/// computed as it is, and DeepSeek-V2's, whose router is another (ScoringFunc). A file without the keys of
/// experts is of dense layers; num_key_value_heads has no meaning where all heads read one latent, and is
/// ignored. eos_token_id may be a list. Embedding and head of a youtu are one matrix unless
/// tie_word_embeddings is false.
///
/// Rotary positions may be spelt rope_theta + rope_scaling or rope_parameters. null stands for "none" in
/// q_lora_rank, bos_token_id and eos_token_id. quantization_config must be DeepSeek-V3's: fp8, e4m3, scales
/// per block; or our own mtpx_int8. Keys that mtpx does not know go to `extra`. mtpx's own keys are
/// mtp_concat ("embedding_hidden", "hidden_embedding"), mtp_hidden ("post_norm", "pre_norm"), mtpx_heads
/// ("sequential", "repeated", "parallel", "linear"), mtpx_markov_rank, mtpx_draft_vocabulary,
/// mtpx_own_embeddings and mtpx_own_heads (lists of depths).
///
/// Throws FileError for text that is not a JSON object (see parse_json), and ConfigError that lists every
/// missing key, every value of the wrong type and everything that mtpx cannot honour; or, if there is none of
/// that, every violation of Config::validate.
inline ModelConfig parse_config(std::string_view text, const std::string& file) {
  Json json = parse_json("config", text, file);
  if (!json.is_object())
    throw FileError(cat("[config] ", file, ": must be an object, not ", detail::json_text(json)));
  ModelConfig model;
  Config& config = model.config;
  std::vector<std::string> problems;
  detail::KeyReader keys(std::move(json), "", problems);

  detail::read_model_type(keys, config);
  // Whether the keys of experts are needed is known first.
  const bool with_experts = detail::has_experts(keys.rest());
  if (with_experts) detail::complete_experts(keys, config);
  detail::visit_plain_keys(config, [&](const char* key, auto& member, detail::Need need) {
    keys.read(key, member,
              need == detail::Need::always || (need == detail::Need::with_experts && with_experts));
  });
  keys.read_or_null("q_lora_rank", config.q_lora_rank, 0, true);
  keys.read_or_null("bos_token_id", config.bos_token_id, -1, false);
  keys.read_tokens("eos_token_id", config.eos_token_id, config.more_eos_token_ids);
  detail::read_ropes(keys, config, problems);
  model.block_size = detail::read_quantization(keys, config.int8_blocks, problems);
  keys.read_choice("mtp_concat", config.mtp_concat, detail::mtp_concat_names());
  keys.read_choice("mtp_hidden", config.mtp_hidden, detail::mtp_hidden_names());
  keys.read_choice("mtpx_heads", config.mtpx_heads, detail::mtpx_heads_names());
  keys.read("mtpx_markov_rank", config.mtpx_markov_rank, false);
  keys.read("mtpx_draft_vocabulary", config.mtpx_draft_vocabulary, false);
  keys.read_list("mtpx_own_embeddings", config.mtpx_own_embeddings);
  keys.read_list("mtpx_own_heads", config.mtpx_own_heads);
  keys.read("mtpx_trained_window", config.mtpx_trained_window, false);
  for (const auto& [key, value] : detail::fixed_keys(config)) keys.demand(key, value);
  keys.take("num_key_value_heads");
  keys.expect("partial_rotary_factor", 1);
  keys.expect("mlp_bias", false);
  detail::check_layer_types(keys, config);
  // Only ever written by transformers.
  keys.demand("rope_interleave", true);
  keys.demand("attention_dropout", 0);

  detail::refuse(file, "these keys cannot be used", problems);
  detail::refuse(file, "these values do not add up", config.violations());
  model.extra = std::move(keys.rest());
  return model;
}

/// The configuration in the file `path`. Throws like parse_config, and FileError when the file cannot be read
/// or has more than a mebibyte.
inline ModelConfig read_config(const std::filesystem::path& path) {
  const InputFile file("config", path);
  return parse_config(file.read_text(Index{1} << 20), file.path());
}

/// The text of a config.json that parse_config turns back into `config` and `extra`, and that other programs
/// read as a DeepSeek-V3 model. A key of `extra` that mtpx writes itself is left out.
///
/// A model without experts is written with all its layers under first_k_dense_replace, because elsewhere that
/// key alone decides.
inline std::string config_json(const Config& config, const Json& extra = Json::object()) {
  Json json = Json::object();
  // A list that grows copies its values, and to destroy copies the JSON library takes memory, without which
  // it ends the process.
  json.get_ref<Json::object_t&>().reserve(64 + extra.size());
  const bool v2 = config.scoring_func == ScoringFunc::softmax;
  const Json architectures = {v2 ? detail::v2_architecture : detail::architecture};
  json["architectures"] = extra.value("architectures", architectures);
  json["model_type"] = extra.value("model_type", Json(v2 ? detail::v2_type : "deepseek_v3"));
  detail::visit_plain_keys(config,
                           [&](const char* key, const auto& member, detail::Need) { json[key] = member; });
  if (config.n_routed_experts == 0) {
    json["first_k_dense_replace"] = std::max(config.first_k_dense_replace, config.num_layers());
  }
  const auto or_null = [](Index value, Index none) { return value == none ? Json(nullptr) : Json(value); };
  json["q_lora_rank"] = or_null(config.q_lora_rank, 0);
  json["bos_token_id"] = or_null(config.bos_token_id, -1);
  json["eos_token_id"] = or_null(config.eos_token_id, -1);
  if (!config.more_eos_token_ids.empty()) {
    json["eos_token_id"] = {config.eos_token_id};
    for (const Index id : config.more_eos_token_ids) json["eos_token_id"].push_back(id);
  }
  json["rope_theta"] = config.rope_theta;
  if (const auto& scaling = config.rope_scaling) {
    json["rope_scaling"] = {{"type", "yarn"},
                            {"factor", scaling->factor},
                            {"original_max_position_embeddings", scaling->original_max_position_embeddings},
                            {"beta_fast", scaling->beta_fast},
                            {"beta_slow", scaling->beta_slow},
                            {"mscale", scaling->mscale},
                            {"mscale_all_dim", scaling->mscale_all_dim}};
  }
  for (const auto& [key, value] : detail::fixed_keys(config)) json[key] = value;
  json["num_key_value_heads"] = config.num_attention_heads;
  for (const auto& [name, value] : detail::mtp_concat_names()) {
    if (value == config.mtp_concat) json["mtp_concat"] = name;
  }
  for (const auto& [name, value] : detail::mtp_hidden_names()) {
    if (value == config.mtp_hidden) json["mtp_hidden"] = name;
  }
  for (const auto& [name, value] : detail::mtpx_heads_names()) {
    if (value == config.mtpx_heads) json["mtpx_heads"] = name;
  }
  if (config.mtpx_markov_rank > 0) json["mtpx_markov_rank"] = config.mtpx_markov_rank;
  if (config.mtpx_draft_vocabulary > 0) json["mtpx_draft_vocabulary"] = config.mtpx_draft_vocabulary;
  if (!config.mtpx_own_embeddings.empty()) json["mtpx_own_embeddings"] = config.mtpx_own_embeddings;
  if (!config.mtpx_own_heads.empty()) json["mtpx_own_heads"] = config.mtpx_own_heads;
  if (config.mtpx_trained_window > 0) json["mtpx_trained_window"] = config.mtpx_trained_window;
  if (const auto& blocks = config.int8_blocks) {
    json["quantization_config"] = {{"quant_method", detail::int8_method},
                                   {"weight_block_size", {blocks->rows, blocks->columns}}};
  }
  for (const auto& [key, value] : extra.items()) {
    if (!json.contains(key)) json[key] = value;
  }
  return json.dump(2) + '\n';
}

/// Writes config_json to the file `path`, whole or not at all. Throws FileError.
inline void write_config(const std::filesystem::path& path, const Config& config,
                         const Json& extra = Json::object()) {
  OutputFile file("config", path);
  file.write(config_json(config, extra));
  file.commit();
}

}  // namespace mtpx
