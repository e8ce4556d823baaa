#pragma once
// The numbers that define a model, under the names of DeepSeek-V3's config.json.

#include <mtpx/core/block_size.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/core/scoring.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/mtp/design.hpp>
#include <mtpx/nn/yarn.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

/// A DeepSeek-V3 model with its multi-token-prediction layers. Counts are Index, everything else is double.
/// Sizes have no default: `validate` names those that were never set.
///
/// Layers 0 .. num_hidden_layers - 1 are the trunk; MTP layer k (from 0) has index num_hidden_layers + k.
struct Config {
  Index vocab_size = 0;                ///< number of tokens
  Index hidden_size = 0;               ///< width of the residual stream
  Index intermediate_size = 0;         ///< inner width of a dense feed-forward layer
  Index moe_intermediate_size = 0;     ///< inner width of one expert; a shared expert has the same
  Index num_hidden_layers = 0;         ///< layers of the trunk
  Index num_nextn_predict_layers = 0;  ///< the depth D: tokens predicted after the next; 0 = plain

  Index num_attention_heads = 0;  ///< of every layer
  Index q_lora_rank = 0;          ///< width of the latent query; 0 = queries straight from the hidden state
  Index kv_lora_rank = 0;         ///< width of the latent that keys and values are made of
  Index qk_nope_head_dim = 0;     ///< part of a head's query and key without position
  Index qk_rope_head_dim = 0;     ///< part of a head's query and key that is rotated; even
  Index v_head_dim = 0;           ///< a head's value

  Index n_routed_experts = 0;        ///< 0 = every layer is dense
  Index n_shared_experts = 0;        ///< run as one expert of n_shared_experts * moe_intermediate_size
  Index num_experts_per_tok = 0;     ///< K, experts that a token is routed to
  Index n_group = 1;                 ///< equal groups that the routed experts form
  Index topk_group = 1;              ///< groups among which a token chooses its experts
  double routed_scaling_factor = 1;  ///< multiplies the routed experts' weights
  bool norm_topk_prob = true;        ///< divide the chosen scores by their sum
  /// How the router judges experts.
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  Index first_k_dense_replace =
      0;  ///< the first layers, dense even in a model with experts; may be more than all
  double aux_loss_alpha = 1e-4;  ///< weight of the sequence-wise balance loss (DeepSeek-V3 eq. 17)

  bool tie_word_embeddings = false;  ///< the output head is the embedding: one matrix

  double rms_norm_eps = 1e-6;  ///< added to the mean square in every norm but the two of the latents
  double rope_theta = 10000;   ///< base of the rotary frequencies
  std::optional<RopeScaling> rope_scaling;  ///< absent = plain rotary positions
  Index max_position_embeddings = 0;        ///< longest sequence, in tokens

  double initializer_range = 0.006;         ///< standard deviation at the start (DeepSeek-V3 sec. 4.2)
  Index bos_token_id = -1;                  ///< -1 = none
  Index eos_token_id = -1;                  ///< -1 = none
  std::vector<Index> more_eos_token_ids{};  ///< others that end a text, too

  /// Order of eh_proj's inputs.
  MtpConcat mtp_concat = MtpConcat::embedding_hidden;
  MtpHidden mtp_hidden = MtpHidden::post_norm;  ///< what a depth passes on
  MtpHeads mtpx_heads = MtpHeads::sequential;   ///< what predicts the tokens after the next
  Index mtpx_markov_rank = 0;       ///< of the depths' bias from the token before (MtpMarkov); 0 = none
  Index mtpx_draft_vocabulary = 0;  ///< tokens that drafts are picked from; 0 = all (Transformer::draft_ids)
  /// Depths, from 1, whose module has an embedding of its own; the others share the main model's.
  std::vector<Index> mtpx_own_embeddings{};
  std::vector<Index> mtpx_own_heads{};  ///< the same of output heads
  Index mtpx_trained_window = 0;        ///< longest window it was trained on, in tokens; 0 = not known

  /// Matrices are kept in 8 bits, for decoding alone, with a scale for each such block of a file; absent:
  /// they are numbers of the model's type. Embedding, kv_b_proj, routers and the Markov bias are that anyway.
  std::optional<BlockSize> int8_blocks{};

  bool operator==(const Config&) const = default;

  /// Columns that share a scale of weights in 8 bits; 0: there are none.
  Index int8_run() const { return int8_blocks ? int8_blocks->columns : 0; }

  /// Width of one head's query and key: the part without position, then the rotated part.
  Index qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }

  /// What the depths are.
  MtpDesign design() const {
    MtpDesign design = design_of(mtpx_heads);
    design.markov_rank = mtpx_markov_rank;
    return design;
  }

  /// Weights of depths: one set for each, or one for all.
  Index num_mtp_modules() const { return design().modules(num_nextn_predict_layers); }

  /// The same main model with other depths: those that stay keep what is their own.   copied: new ones are
  /// copies of the last, also where modules of one design go over to the other; see with_depths()
  void set_depths(Index depth, MtpHeads heads, bool copied = false) {
    const Index last = num_mtp_modules();
    const bool kept = heads == mtpx_heads || (copied && exchangeable(heads, mtpx_heads));
    num_nextn_predict_layers = depth;
    mtpx_heads = heads;
    for (auto* own : {&mtpx_own_embeddings, &mtpx_own_heads}) {
      const bool of_last = copied && std::find(own->begin(), own->end(), last) != own->end();
      std::erase_if(*own, [&](Index k) { return !kept || k > num_mtp_modules(); });
      for (Index k = last + 1; kept && of_last && k <= num_mtp_modules(); ++k) own->push_back(k);
    }
  }

  /// Trunk and MTP layers together, as layers are counted: a depth's index is num_hidden_layers + k - 1.
  Index num_layers() const { return num_hidden_layers + num_nextn_predict_layers; }

  /// Whether a layer routes to experts. `layer` counts the trunk, then the MTP layers.
  bool is_moe(Index layer) const { return n_routed_experts > 0 && layer >= first_k_dense_replace; }

  /// Exact number of trained numbers, MTP layers included and the embedding and head that they share counted
  /// once. Router biases (e_score_correction_bias) are moved by counting, not by gradients: not included.
  /// Throws ConfigError when the configuration is not valid.
  Index parameter_count() const {
    validate();
    return parameters<Index>(dense_blocks(), num_blocks() - dense_blocks());
  }

  /// Every rule that does not hold, each as "key = value, ...: the rule"; empty for a valid configuration.
  [[gnu::cold]] std::vector<std::string> violations() const {
    std::vector<std::string> found;
    count_violations(found);
    const bool counts_hold = found.empty();
    fraction_violations(found);
    relation_violations(found);
    if (counts_hold) size_violations(found);
    return found;
  }

  /// Throws ConfigError listing all violations, one a line.
  [[gnu::cold]] void validate() const {
    const std::vector<std::string> found = violations();
    if (found.empty()) return;
    std::string text = "[config] these values do not add up";
    for (const std::string& violation : found) text.append("\n  ").append(violation);
    throw ConfigError(text);
  }

 private:
  // One bound for every count: token ids and positions have 32 bits.
  static constexpr Index max_count = std::numeric_limits<std::int32_t>::max();

  struct Count {
    const char* name;
    Index Config::*value;
    Index least;
  };

  [[gnu::noinline, gnu::cold]] static void note(std::vector<std::string>& found,
                                                std::initializer_list<detail::Piece> parts) {
    found.push_back(detail::joined(parts));
  }

  [[gnu::cold]] static void check_count(const char* name, Index value, Index least,
                                        std::vector<std::string>& found) {
    if (value < least) {
      note(found, {name, " = ", value, ": must be at least ", least});
    } else if (value > max_count) {
      note(found, {name, " = ", value, ": must be at most ", max_count});
    }
  }

  [[gnu::cold]] void count_violations(std::vector<std::string>& found) const {
    static constexpr Count all[] = {{"vocab_size", &Config::vocab_size, 1},
                                    {"hidden_size", &Config::hidden_size, 1},
                                    {"intermediate_size", &Config::intermediate_size, 1},
                                    {"num_hidden_layers", &Config::num_hidden_layers, 1},
                                    {"num_nextn_predict_layers", &Config::num_nextn_predict_layers, 0},
                                    {"num_attention_heads", &Config::num_attention_heads, 1},
                                    {"q_lora_rank", &Config::q_lora_rank, 0},
                                    {"kv_lora_rank", &Config::kv_lora_rank, 1},
                                    {"qk_nope_head_dim", &Config::qk_nope_head_dim, 1},
                                    {"qk_rope_head_dim", &Config::qk_rope_head_dim, 2},
                                    {"v_head_dim", &Config::v_head_dim, 1},
                                    {"n_routed_experts", &Config::n_routed_experts, 0},
                                    {"first_k_dense_replace", &Config::first_k_dense_replace, 0},
                                    {"max_position_embeddings", &Config::max_position_embeddings, 1},
                                    {"bos_token_id", &Config::bos_token_id, -1},
                                    {"eos_token_id", &Config::eos_token_id, -1},
                                    {"mtpx_markov_rank", &Config::mtpx_markov_rank, 0},
                                    {"mtpx_draft_vocabulary", &Config::mtpx_draft_vocabulary, 0},
                                    {"mtpx_trained_window", &Config::mtpx_trained_window, 0}};
    static constexpr Count of_experts[] = {{"moe_intermediate_size", &Config::moe_intermediate_size, 1},
                                           {"n_shared_experts", &Config::n_shared_experts, 0},
                                           {"num_experts_per_tok", &Config::num_experts_per_tok, 1},
                                           {"n_group", &Config::n_group, 1},
                                           {"topk_group", &Config::topk_group, 1}};
    for (const Count& count : all) check_count(count.name, this->*count.value, count.least, found);
    if (n_routed_experts > 0) {  // otherwise nobody reads them
      for (const Count& count : of_experts) check_count(count.name, this->*count.value, count.least, found);
    }
    if (rope_scaling) {
      check_count("rope_scaling.original_max_position_embeddings",
                  rope_scaling->original_max_position_embeddings, 1, found);
    }
  }

  // Negated comparisons, so that NaN breaks every rule.
  [[gnu::cold]] void fraction_violations(std::vector<std::string>& found) const {
    const auto finite_above = [&found](const char* name, double value, double bound) {
      if (!(value > bound && std::isfinite(value))) {
        note(found, {name, " = ", value, ": must be a finite number above ", bound});
      }
    };
    const auto finite_from = [&found](const char* name, double value, double least) {
      if (!(value >= least && std::isfinite(value))) {
        note(found, {name, " = ", value, ": must be a finite number, at least ", least});
      }
    };
    finite_above("rms_norm_eps", rms_norm_eps, 0);
    // YaRN divides by ln(rope_theta).
    finite_above("rope_theta", rope_theta, rope_scaling ? 1 : 0);
    finite_above("initializer_range", initializer_range, 0);
    if (n_routed_experts > 0) {
      finite_above("routed_scaling_factor", routed_scaling_factor, 0);
      finite_from("aux_loss_alpha", aux_loss_alpha, 0);
    }
    if (!rope_scaling) return;
    finite_from("rope_scaling.factor", rope_scaling->factor, 1);
    finite_above("rope_scaling.beta_slow", rope_scaling->beta_slow, 0);
    finite_from("rope_scaling.beta_fast", rope_scaling->beta_fast, rope_scaling->beta_slow);
    finite_from("rope_scaling.mscale", rope_scaling->mscale, 0);
    finite_from("rope_scaling.mscale_all_dim", rope_scaling->mscale_all_dim, 0);
  }

  // A rule between counts is looked at when each of them may be counted with; the others were named already.
  static bool sound(std::initializer_list<Index> counts) {
    for (Index count : counts) {
      if (count < 0 || count > max_count) return false;
    }
    return true;
  }

  [[gnu::cold]] void relation_violations(std::vector<std::string>& found) const {
    if (sound({qk_rope_head_dim}) && qk_rope_head_dim % 2 != 0) {
      note(found, {"qk_rope_head_dim = ", qk_rope_head_dim, ": must be even, it is rotated in pairs"});
    }
    if (max_position_embeddings > 0 && sound({num_nextn_predict_layers, max_position_embeddings}) &&
        num_nextn_predict_layers >= max_position_embeddings) {
      note(found, {"num_nextn_predict_layers = ", num_nextn_predict_layers,
                   ", max_position_embeddings = ", max_position_embeddings,
                   ": depth k predicts nothing in the last k positions, so the depth must be smaller"});
    }
    if (sound({mtpx_draft_vocabulary, vocab_size}) && mtpx_draft_vocabulary > vocab_size) {
      note(found, {"mtpx_draft_vocabulary = ", mtpx_draft_vocabulary, ", vocab_size = ", vocab_size,
                   ": drafts are picked from tokens"});
    }
    const auto known_token = [&](const char* name, Index id) {
      if (vocab_size > 0 && sound({id, vocab_size}) && id >= vocab_size) {
        note(found, {name, " = ", id, ", vocab_size = ", vocab_size, ": must be a token, or -1 for none"});
      }
    };
    known_token("bos_token_id", bos_token_id);
    known_token("eos_token_id", eos_token_id);
    for (const Index id : more_eos_token_ids) {
      known_token("eos_token_id", id);
      if (id < 0) note(found, {"eos_token_id = ", id, ": must be a token in a list of them"});
    }
    own_violations("mtpx_own_embeddings", mtpx_own_embeddings, found);
    own_violations("mtpx_own_heads", mtpx_own_heads, found);
    if (!mtpx_own_embeddings.empty() && !design().reads_token)
      note(found, {"mtpx_own_embeddings: depths of this design read no token"});
    if (n_routed_experts > 0) expert_violations(found);
  }

  [[gnu::cold]] void own_violations(const char* name, const std::vector<Index>& own,
                                    std::vector<std::string>& found) const {
    Index last = 0;
    for (const Index k : own) {
      if (k <= last || k > num_mtp_modules()) {
        note(found, {name, ": ", k, " must be one of the ", num_mtp_modules(),
                     " depths that have a module, each named once, in order"});
      }
      last = k;
    }
  }

  [[gnu::cold]] void expert_violations(std::vector<std::string>& found) const {
    if (scoring_func == ScoringFunc::softmax && norm_topk_prob) {
      note(found,
           {"norm_topk_prob = true: published programs of DeepSeek-V2 disagree about it, it must be false"});
    }
    if (sound({num_experts_per_tok, n_routed_experts}) && num_experts_per_tok > n_routed_experts) {
      note(found, {"num_experts_per_tok = ", num_experts_per_tok, ", n_routed_experts = ", n_routed_experts,
                   ": a token takes an expert once"});
    }
    if (n_group < 1 || !sound({n_routed_experts, n_group, topk_group})) return;
    if (topk_group > n_group) {
      note(found, {"topk_group = ", topk_group, ", n_group = ", n_group, ": a token takes a group once"});
    }
    if (n_routed_experts % n_group != 0) {
      note(found, {"n_routed_experts = ", n_routed_experts, ", n_group = ", n_group,
                   ": the groups must be equally large"});
      return;
    }
    const Index group = n_routed_experts / n_group;
    if (n_group > 1 && group < 2 && scoring_func == ScoringFunc::sigmoid) {
      note(found, {"n_routed_experts = ", n_routed_experts, ", n_group = ", n_group,
                   ": a group is scored by its two best experts, so it must have two"});
    }
    if (topk_group >= 1 && topk_group <= n_group && num_experts_per_tok <= n_routed_experts &&
        num_experts_per_tok > topk_group * group) {
      note(found, {"num_experts_per_tok = ", num_experts_per_tok, ", n_routed_experts = ", n_routed_experts,
                   ", n_group = ", n_group, ", topk_group = ", topk_group, ": the chosen groups hold only ",
                   topk_group * group, " experts"});
    }
  }

  // Only for counts within their ranges.
  [[gnu::cold]] void size_violations(std::vector<std::string>& found) const {
    // Weights, gradients and two moments in float. A kind of layer that is absent counts once, so that the
    // exact count, which computes the size of one layer of either kind, cannot overflow either.
    const double count = parameters<double>(std::max<Index>(dense_blocks(), 1),
                                            std::max<Index>(num_blocks() - dense_blocks(), 1));
    const double bytes = 16 * count;
    if (bytes < 0x1p63) return;
    note(found, {"vocab_size = ", vocab_size, ", hidden_size = ", hidden_size,
                 ", intermediate_size = ", intermediate_size, ", num_hidden_layers = ", num_hidden_layers,
                 ", n_routed_experts = ", n_routed_experts, ": about ", count, " parameters, ", bytes,
                 " bytes to train, more than 64 bits can count"});
  }

  // Layers with attention and a feed-forward network: a depth that does not attend is none.
  Index num_blocks() const { return num_hidden_layers + (design().attends ? num_mtp_modules() : 0); }
  Index dense_blocks() const {
    return n_routed_experts == 0 ? num_blocks() : std::min(first_k_dense_replace, num_blocks());
  }

  /// The parameter count in integers (exact) or in double (an estimate that cannot overflow).
  template <typename Number>
  Number parameters(Index dense_count, Index moe_count) const {
    const auto n = [](Index value) { return static_cast<Number>(value); };
    const Number d = n(hidden_size), heads = n(num_attention_heads), rank = n(kv_lora_rank);
    const Number queries = heads * n(qk_head_dim()), latent = n(q_lora_rank);
    const Number query = q_lora_rank > 0 ? d * latent + latent + latent * queries : d * queries;
    const Number key_value =
        d * (rank + n(qk_rope_head_dim)) + rank + rank * heads * (n(qk_nope_head_dim) + n(v_head_dim));
    const Number attention = query + key_value + heads * n(v_head_dim) * d;
    const Number norms = 2 * d;
    const Number dense = 3 * d * n(intermediate_size);
    Number experts = 0;
    if (n_routed_experts > 0) {
      experts = 3 * d * n(moe_intermediate_size) * (n(n_routed_experts) + n(n_shared_experts)) +
                d * n(n_routed_experts);
    }
    const Number own = n(static_cast<Index>(mtpx_own_embeddings.size() + mtpx_own_heads.size()));
    const Number embedding_head_norm = (tie_word_embeddings ? 1 : 2) * n(vocab_size) * d + d;
    const MtpDesign depth = design();
    Number mtp = 0;                                   // beside its block
    if (depth.reads_token) mtp += 2 * d * d + 2 * d;  // eh_proj and two norms
    if (!depth.attends) mtp += d * d;
    if (depth.own_norm) mtp += d;
    mtp += n(depth.markov_rank) * (n(vocab_size) + d);
    return embedding_head_norm + own * n(vocab_size) * d + n(dense_count) * (attention + norms + dense) +
           n(moe_count) * (attention + norms + experts) + n(num_mtp_modules()) * mtp;
  }
};

/// A model that trains in minutes on two CPU cores: bytes as tokens, 4 layers of width 256, 8 experts,
/// depth 1.
inline Config tiny() {
  Config config;
  config.vocab_size = 256;
  config.hidden_size = 256;
  config.intermediate_size = 768;
  config.moe_intermediate_size = 128;
  config.num_hidden_layers = 4;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 4;
  config.q_lora_rank = 96;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  config.n_routed_experts = 8;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 2;
  config.first_k_dense_replace = 1;
  config.max_position_embeddings = 2048;
  return config;
}

/// A narrow, deep model for decoding: bytes as tokens, 16 layers of width 192. One module drafts three tokens
/// and more, trained on its own output; a draft runs one block where the trunk runs sixteen. All layers are
/// dense, so that checking several drafts in one pass reads each
/// weight once; with experts, every further row would bring its own.
inline Config deep() {
  Config config;
  config.vocab_size = 256;
  config.hidden_size = 192;
  config.intermediate_size = 576;
  config.num_hidden_layers = 16;
  config.num_nextn_predict_layers = 3;
  config.num_attention_heads = 6;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  config.first_k_dense_replace = 19;
  config.max_position_embeddings = 2048;
  config.mtpx_heads = MtpHeads::repeated;
  return config;
}

/// A model for one GPU: 0.7 billion parameters, 12 layers of width 1024, 32 experts, depth 1.
inline Config small() {
  Config config;
  config.vocab_size = 32768;
  config.hidden_size = 1024;
  config.intermediate_size = 4096;
  config.moe_intermediate_size = 512;
  config.num_hidden_layers = 12;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 8;
  config.q_lora_rank = 384;
  config.kv_lora_rank = 256;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.n_routed_experts = 32;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 4;
  config.first_k_dense_replace = 1;
  config.max_position_embeddings = 4096;
  return config;
}

/// A model that learns from tens of megabytes of text in minutes on one GPU: 16384 tokens, 12 layers of width
/// 768, 16 experts; a token meets 108 million of 300 million parameters. One module drafts two tokens.
inline Config base() {
  Config config;
  config.vocab_size = 16384;
  config.hidden_size = 768;
  config.intermediate_size = 3072;
  config.moe_intermediate_size = 512;
  config.num_hidden_layers = 12;
  config.num_nextn_predict_layers = 2;
  config.num_attention_heads = 6;
  config.q_lora_rank = 384;
  config.kv_lora_rank = 256;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.n_routed_experts = 16;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 4;
  config.first_k_dense_replace = 1;
  config.max_position_embeddings = 4096;
  config.mtpx_heads = MtpHeads::repeated;
  return config;
}

/// A model that learns to write in three minutes on two CPU cores: 2048 tokens, 6 narrow dense layers, and
/// one module that drafts two tokens, each at a sixth of the trunk's price.
inline Config nano() {
  Config config;
  config.vocab_size = 2048;
  config.hidden_size = 96;
  config.intermediate_size = 288;
  config.num_hidden_layers = 6;
  config.num_nextn_predict_layers = 2;
  config.num_attention_heads = 3;
  config.kv_lora_rank = 32;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  config.first_k_dense_replace = 8;
  config.max_position_embeddings = 2048;
  config.initializer_range = 0.03;
  config.mtpx_heads = MtpHeads::repeated;
  return config;
}

/// The preset of that name. Throws ConfigError naming the known ones.
inline Config preset(std::string_view name) {
  if (name == "nano") return nano();
  if (name == "tiny") return tiny();
  if (name == "deep") return deep();
  if (name == "base") return base();
  if (name == "small") return small();
  throw ConfigError(
      cat("[config] no preset is called \"", name, "\"; there are nano, tiny, deep, base and small"));
}

}  // namespace mtpx
