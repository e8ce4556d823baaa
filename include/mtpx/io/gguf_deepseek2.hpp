#pragma once
// llama.cpp's architecture "deepseek2": its names and numbers for a model, and what it cannot compute.

#include <mtpx/core/error.hpp>
#include <mtpx/io/gguf.hpp>
#include <mtpx/model/config.hpp>
#include <mtpx/nn/mla.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// Part of a weight of a model folder, and where its numbers go.
struct GgufPart {
  enum class Order {
    kept,        ///< one behind the other
    transposed,  ///< columns as rows
    halves       ///< of each row the second half first
  };

  std::string weight;  // published name
  Index first = 0;     // number of the weight at which the part begins
  Index rows = 0, columns = 0;
  Order order = Order::kept;
  float scale = 1;  // what its numbers are multiplied by
};

/// A tensor of the file: its parts one behind the other.
struct GgufPlan {
  GgufTensor tensor;
  std::vector<GgufPart> parts;
};

/// Layers that a file has: the trunk's, and one module.
inline Index gguf_layers(const Config& config, bool mtp) { return config.num_hidden_layers + (mtp ? 1 : 0); }

/// Why llama.cpp cannot draft with a model's depths (`draft-mtp` of v0.5.0); empty where it can.
inline std::string no_gguf_mtp(const Config& c) {
  const MtpDesign design = c.design();
  const Index modules = c.num_mtp_modules();
  if (!design.chains || !design.reads_token || !design.attends || !design.own_norm)
    return "the depths are no modules of DeepSeek-V3's";
  if (design.markov_rank > 0) return "its module has no bias from the token before, mtpx_markov_rank";
  if (modules != 1) return cat("it has one module, the model has ", modules);
  if (c.q_lora_rank == 0) return "its module has a q_lora_rank, the model has none";
  if (!c.is_moe(c.num_hidden_layers)) return "its module is a mixture, the model's is dense";
  if (c.mtp_hidden != MtpHidden::post_norm)
    return "it feeds the state behind the final norm, mtp_hidden = pre_norm";
  return "";
}

/// What llama.cpp would not compute as the model was trained, a line each.
inline std::vector<std::string> not_in_deepseek2(const Config& c, bool mtp) {
  std::vector<std::string> found;
  const Index layers = gguf_layers(c, mtp);
  constexpr Index most_layers = 512, most_experts = 1024;
  if (layers > most_layers)
    found.push_back(cat("num_hidden_layers = ", c.num_hidden_layers, ": it has at most ", most_layers));
  // llama.cpp tells DeepSeek-V2-Lite and GigaChat by their numbers of layers.
  const bool lite = c.num_hidden_layers == 26 || c.num_hidden_layers == 27 ||
                    (c.num_hidden_layers == 48 && c.vocab_size == 128256);
  if (lite && c.q_lora_rank > 0)
    found.push_back(cat("q_lora_rank = ", c.q_lora_rank, ": it takes models of ", c.num_hidden_layers,
                        " layers for others that have none"));
  if (c.is_moe(layers - 1)) {
    if (c.n_shared_experts == 0) found.push_back("n_shared_experts = 0: it wants one");
    if (c.n_routed_experts > most_experts)
      found.push_back(cat("n_routed_experts = ", c.n_routed_experts, ": it has at most ", most_experts));
    if (c.scoring_func == ScoringFunc::softmax && c.topk_group < c.n_group)
      found.push_back(cat("n_group = ", c.n_group, ", topk_group = ", c.topk_group,
                          " with a softmax: to it a group is worth its two best experts, not one"));
  }
  return found;
}

/// Options that llama.cpp needs to stretch positions as the model does; it has beta_fast = 32 and beta_slow =
/// 1, whatever a file of this architecture says.
inline std::string gguf_yarn_options(const RopeScaling& scaling) {
  std::string options;
  if (scaling.beta_fast != 32) options += cat(" --yarn-beta-fast ", scaling.beta_fast);
  if (scaling.beta_slow != 1) options += cat(" --yarn-beta-slow ", scaling.beta_slow);
  return options;
}

/// YaRN's magnitudes as llama.cpp puts them together: cos and sin are multiplied by a, the scores by
/// (a (1 + 0.1 m ln s))^2, where a = `rope.scaling.attn_factor` and 0.1 m = `yarn_log_multiplier`, which must
/// not be 0. Here they are r = rope_magnitude() and mscale_all_dim's mscale squared, so a = r and
/// 1 + 0.1 m ln s = yarn_mscale(s, mscale_all_dim) / r. For DeepSeek-V3 a = 1 and m = mscale_all_dim.
inline std::pair<double, double> gguf_yarn(const RopeScaling& scaling) {
  const double magnitude = rope_magnitude(scaling);
  if (magnitude == 1) return {1, scaling.mscale_all_dim};
  const double scores = yarn_mscale(scaling.factor, scaling.mscale_all_dim) / magnitude;
  return {magnitude, (scores - 1) / (0.1 * std::log(scaling.factor))};
}

inline void add_attention(const auto& number, const auto& real, const Config& c) {
  number("attention.head_count", c.num_attention_heads);
  number("attention.head_count_kv", 1);  // what is cached is one latent for all heads
  number("attention.q_lora_rank", c.q_lora_rank);
  number("attention.kv_lora_rank", c.kv_lora_rank);
  number("attention.key_length", c.kv_lora_rank + c.qk_rope_head_dim);
  number("attention.value_length", c.kv_lora_rank);
  number("attention.key_length_mla", c.qk_head_dim());
  number("attention.value_length_mla", c.v_head_dim);
  real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
}

inline void add_experts(GgufKeys& keys, const auto& number, const auto& real, const Config& c) {
  number("expert_count", c.n_routed_experts);
  number("expert_used_count", c.num_experts_per_tok);
  if (c.topk_group < c.n_group) {
    number("expert_group_count", c.n_group);
    number("expert_group_used_count", c.topk_group);
  }
  real("expert_weights_scale", c.routed_scaling_factor);
  keys.flag("deepseek2.expert_weights_norm", c.norm_topk_prob);
  number("expert_gating_func", c.scoring_func == ScoringFunc::softmax ? 1 : 2);
}

inline void add_rope(GgufKeys& keys, const auto& number, const auto& real, const Config& c) {
  number("rope.dimension_count", c.qk_rope_head_dim);
  real("rope.freq_base", c.rope_theta);
  const bool stretched = c.rope_scaling && c.rope_scaling->factor > 1;
  keys.text("deepseek2.rope.scaling.type", stretched ? "yarn" : "none");
  if (!stretched) return;
  const auto [attention, logarithm] = gguf_yarn(*c.rope_scaling);
  real("rope.scaling.factor", c.rope_scaling->factor);
  number("rope.scaling.original_context_length", c.rope_scaling->original_max_position_embeddings);
  real("rope.scaling.yarn_log_multiplier", 0.1 * logarithm);
  if (attention != 1) real("rope.scaling.attn_factor", attention);
}

/// What the latents are multiplied by before their norms. These have latent_norm_eps in DeepSeek-V3, in
/// llama.cpp rms_norm_eps = e like all others, and norm(s x; e) = norm(x; e / s^2): a power of two, which no
/// type rounds, brings e / s^2 within a factor of two of latent_norm_eps.
inline float gguf_latent_scale(const Config& c) {
  return static_cast<float>(std::exp2(std::round(std::log2(c.rms_norm_eps / latent_norm_eps) / 2)));
}

/// The model's numbers under llama.cpp's keys.
inline void add_config(GgufKeys& keys, const Config& c, bool mtp) {
  const auto number = [&](const char* key, Index value) { keys.number(cat("deepseek2.", key), value); };
  const auto real = [&](const char* key, double value) { keys.real(cat("deepseek2.", key), value); };
  const Index layers = gguf_layers(c, mtp);
  const bool experts = c.is_moe(layers - 1);
  number("vocab_size", c.vocab_size);
  number("context_length", c.max_position_embeddings);
  number("embedding_length", c.hidden_size);
  number("block_count", layers);
  if (mtp) number("nextn_predict_layers", 1);
  number("leading_dense_block_count", experts ? c.first_k_dense_replace : layers);
  number("feed_forward_length", c.intermediate_size);
  number("expert_feed_forward_length", experts ? c.moe_intermediate_size : c.intermediate_size);
  number("expert_shared_count", experts ? c.n_shared_experts : 0);
  if (experts) add_experts(keys, number, real, c);
  add_attention(number, real, c);
  add_rope(keys, number, real, c);
}

/// The tensors of a file in their order, under llama.cpp's names.
class GgufTensors {
 public:
  GgufTensors(const Config& config, GgufType type, bool mtp) : c_(config), type_(type) {
    matrix("token_embd.weight", "model.embed_tokens.weight", c_.vocab_size, c_.hidden_size);
    norm("output_norm.weight", "model.norm.weight", c_.hidden_size);
    if (!c_.tie_word_embeddings) matrix("output.weight", "lm_head.weight", c_.vocab_size, c_.hidden_size);
    for (Index layer = 0; layer < gguf_layers(c_, mtp); ++layer) add_layer(layer);
    if (mtp) add_module();
  }

  std::vector<GgufPlan> all;  ///< what a file holds

 private:
  void add_layer(Index layer) {
    const std::string to = cat("blk.", layer, '.'), from = cat("model.layers.", layer, '.');
    norm(to + "attn_norm.weight", from + "input_layernorm.weight", c_.hidden_size);
    add_attention(to, from + "self_attn.");
    norm(to + "ffn_norm.weight", from + "post_attention_layernorm.weight", c_.hidden_size);
    if (c_.is_moe(layer)) {
      add_mixture(to, from + "mlp.");
    } else {
      for (const char* name : {"gate", "up", "down"})
        projection(cat(to, "ffn_", name, ".weight"), cat(from, "mlp.", name), name, c_.intermediate_size);
    }
  }

  void add_attention(const std::string& to, const std::string& from) {
    const Index heads = c_.num_attention_heads, nope = c_.qk_nope_head_dim, v = c_.v_head_dim,
                rank = c_.kv_lora_rank, queries = heads * c_.qk_head_dim();
    if (c_.q_lora_rank > 0) {
      add(to + "attn_q_a.weight", type_, {c_.q_lora_rank, c_.hidden_size},
          {{from + "q_a_proj.weight", 0, c_.q_lora_rank, c_.hidden_size, kept, latent_scale_}});
      norm(to + "attn_q_a_norm.weight", from + "q_a_layernorm.weight", c_.q_lora_rank);
      matrix(to + "attn_q_b.weight", from + "q_b_proj.weight", queries, c_.q_lora_rank);
    } else {
      matrix(to + "attn_q.weight", from + "q_proj.weight", queries, c_.hidden_size);
    }
    const std::string both = from + "kv_a_proj_with_mqa.weight";
    add(to + "attn_kv_a_mqa.weight", type_, {rank + c_.qk_rope_head_dim, c_.hidden_size},
        {{both, 0, rank, c_.hidden_size, kept, latent_scale_},
         {both, rank * c_.hidden_size, c_.qk_rope_head_dim, c_.hidden_size}});
    norm(to + "attn_kv_a_norm.weight", from + "kv_a_layernorm.weight", rank);
    // W_UK and W_UV stand in one weight head by head; queries meet W_UK from its other side.
    std::vector<GgufPart> keys, values;
    const std::string name = from + "kv_b_proj.weight";
    for (Index head = 0; head < heads; ++head) {
      const Index first = head * (nope + v) * rank;
      keys.push_back({name, first, nope, rank, GgufPart::Order::transposed});
      values.push_back({name, first + nope * rank, v, rank});
    }
    add(to + "attn_k_b.weight", type_, {heads, rank, nope}, std::move(keys));
    add(to + "attn_v_b.weight", type_, {heads, v, rank}, std::move(values));
    matrix(to + "attn_output.weight", from + "o_proj.weight", c_.hidden_size, heads * v);
  }

  void add_mixture(const std::string& to, const std::string& from) {
    const Index experts = c_.n_routed_experts, inner = c_.moe_intermediate_size;
    add(to + "ffn_gate_inp.weight", GgufType::f32, {experts, c_.hidden_size},
        {{from + "gate.weight", 0, experts, c_.hidden_size}});
    if (c_.scoring_func == ScoringFunc::sigmoid)
      norm(to + "exp_probs_b.bias", from + "gate.e_score_correction_bias", experts);
    for (const std::string name : {"gate", "up", "down"}) {
      const Index rows = name == "down" ? c_.hidden_size : inner,
                  columns = name == "down" ? inner : c_.hidden_size;
      std::vector<GgufPart> parts;
      for (Index expert = 0; expert < experts; ++expert)
        parts.push_back({cat(from, "experts.", expert, '.', name, "_proj.weight"), 0, rows, columns});
      add(cat(to, "ffn_", name, "_exps.weight"), type_, {experts, rows, columns}, std::move(parts));
    }
    for (const std::string name : {"gate", "up", "down"})
      projection(cat(to, "ffn_", name, "_shexp.weight"), cat(from, "shared_experts.", name), name,
                 inner * c_.n_shared_experts);
  }

  /// Beside its block.
  void add_module() {
    const Index layer = c_.num_hidden_layers, hidden = c_.hidden_size;
    const std::string to = cat("blk.", layer, ".nextn."), from = cat("model.layers.", layer, '.');
    const bool swapped = c_.mtp_concat == MtpConcat::hidden_embedding;
    add(to + "eh_proj.weight", type_, {hidden, 2 * hidden},
        {{from + "eh_proj.weight", 0, hidden, 2 * hidden,
          swapped ? GgufPart::Order::halves : GgufPart::Order::kept}});
    norm(to + "enorm.weight", from + "enorm.weight", hidden);
    norm(to + "hnorm.weight", from + "hnorm.weight", hidden);
    norm(to + "shared_head_norm.weight", from + "shared_head.norm.weight", hidden);
    if (!c_.mtpx_own_embeddings.empty())
      matrix(to + "embed_tokens.weight", from + "embed_tokens.weight", c_.vocab_size, hidden);
    if (!c_.mtpx_own_heads.empty())
      matrix(to + "shared_head_head.weight", from + "shared_head.head.weight", c_.vocab_size, hidden);
  }

  /// gate_proj or up_proj, [inner, hidden], or down_proj.
  void projection(std::string to, const std::string& from, std::string_view name, Index inner) {
    const bool down = name == "down";
    matrix(std::move(to), from + "_proj.weight", down ? c_.hidden_size : inner,
           down ? inner : c_.hidden_size);
  }

  void matrix(std::string to, std::string from, Index rows, Index columns) {
    add(std::move(to), type_, {rows, columns}, {{std::move(from), 0, rows, columns}});
  }

  /// Vectors are floats in any file.
  void norm(std::string to, std::string from, Index size) {
    add(std::move(to), GgufType::f32, {size}, {{std::move(from), 0, 1, size}});
  }

  /// Rows that are no whole blocks are stored as halves, as llama.cpp's converter does.
  void add(std::string to, GgufType type, std::vector<Index> shape, std::vector<GgufPart> parts) {
    if (shape.back() % gguf_block(type) != 0) type = GgufType::f16;
    all.push_back({{std::move(to), type, std::move(shape)}, std::move(parts)});
  }

  static constexpr GgufPart::Order kept = GgufPart::Order::kept;

  const Config& c_;
  GgufType type_;
  float latent_scale_ = gguf_latent_scale(c_);
};

}  // namespace detail

}  // namespace mtpx
