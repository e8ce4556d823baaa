#pragma once
// What a caller asks of decoding, and what it is told afterwards.

#include <mtpx/mtp/design.hpp>
#include <mtpx/ops/next_token.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace mtpx {

/// How drafts are picked from what the MTP modules say, with the sequence's temperature and cuts.
enum class DraftTokens {
  coupled,  ///< by the noise of the token's place, which picks the token itself, too: sampled text is that of
            ///< plain decoding with the same seed, whatever was drafted (`race`)
  drawn     ///< by chance alone, and checked by p / q: a few more stand, and the text is another one
};

/// What generate() and Speculator are asked for.
struct GenerateOptions {
  static constexpr Index automatic = -1;     ///< of `draft`: as many as pay, from measured costs
  static constexpr Index most_nodes = 1024;  ///< of a tree
  /// The most tokens that an automatic draft has where modules can run again: a pass then has 8 rows, which
  /// is what the host's products of few rows read weights once for.
  static constexpr Index longest_automatic = 7;

  Index max_tokens = 128;   ///< most tokens to emit
  Index draft = automatic;  ///< K, tokens drafted per pass; 0: plain decoding; automatic: what pays
  /// Candidates of the first drafted place, of the second behind each of them, ..: a tree, checked in one
  /// pass. Places beyond have one.
  std::vector<Index> tree{};
  SamplingOptions sampling{};        ///< of every sequence that is not given its own
  std::uint64_t seed = 0;            ///< of the draws; prompt i has seed + i
  std::vector<std::int32_t> stop{};  ///< nothing is emitted after one of these tokens (which is emitted)
  std::vector<std::vector<std::int32_t>> stop_sequences{};  ///< nor after these, one token after the other
  /// Changes what a token is picked from, on the host: `logits` [V] of what comes after `text` (the prompt
  /// and what was written, or drafted, since). Minus infinity forbids a token: a constraint. It must depend
  /// on its arguments alone: what it is asked depends on what was drafted, the text does not.
  std::function<void(std::span<const std::int32_t> text, std::span<double> logits)> logits_hook{};
  /// Whether log p of each token is wanted: of softmax(logits), after the hook, before temperature and cuts.
  bool log_probabilities = false;
  /// How drafts are picked. Of `block` verification they are drawn, of lossy_typical the most likely.
  DraftTokens draft_tokens = DraftTokens::coupled;
  Verification verification = Verification::exact;  ///< how they are checked
  double typical_epsilon = 0.09;                    ///< of lossy_typical
  double typical_delta = 0.3;                       ///< of lossy_typical, too; see `verify_typical`

  /// Whether every draft of a sequence that is sampled so is the token that plain decoding would pick, or
  /// falls: then its text does not depend on how much is drafted, not even when tokens are sampled.
  bool same_text(const SamplingOptions& of) const {
    return draft == 0 ||
           (verification == Verification::exact && (of.greedy() || draft_tokens == DraftTokens::coupled));
  }
  /// The same of the sampling that sequences get which are not given their own.
  bool same_text() const { return same_text(sampling); }
  /// Candidates of drafted place k, from 1.
  Index candidates(Index k) const {
    return k <= static_cast<Index>(tree.size()) ? tree[static_cast<std::size_t>(k - 1)] : 1;
  }
  /// The most places that a pass may have drafts for.   modules: D
  Index most_drafts(Index modules, const MtpDesign& design) const {
    if (draft != automatic) return draft;
    return modules > 0 && design.chains ? std::max(longest_automatic, modules) : modules;
  }
  /// Whether any place has several.
  bool branches() const {
    return std::any_of(tree.begin(), tree.end(), [](Index count) { return count > 1; });
  }
  /// Rows of a pass that checks a tree of so many places: its nodes, the last known token among them.
  Index nodes(Index places) const {
    Index all = 1, level = 1;
    for (Index k = 1; k <= places && all <= most_nodes; ++k)
      all += level *= std::min(candidates(k), most_nodes);
    return all;
  }
  /// Whether tokens are picked on the host, from logits that leave the device.
  bool on_host() const { return log_probabilities || logits_hook; }

  /// Throws ConfigError naming the option and its value.   modules: D
  void validate(Index modules, const MtpDesign& design) const {
    const auto check = [](bool holds, const char* name, const auto& value, const auto& rule) {
      if (!holds) throw ConfigError(cat("[generate] ", name, " = ", value, ": ", rule));
    };
    check(max_tokens >= 0, "max_tokens", max_tokens, "must not be negative");
    check(draft >= automatic, "draft", draft, "must be -1 (automatic), 0 (plain) or positive");
    check(draft <= 0 || modules > 0, "draft", draft,
          "this model has no MTP module (num_nextn_predict_layers = 0)");
    check(draft <= modules || design.chains, "draft", draft,
          cat("this model's ", modules,
              " heads draft a token each: heads that do not read each other cannot "
              "run again on their own output"));
    for (const Index count : tree) check(count > 0, "tree", count, "a place has one candidate at least");
    const Index most = most_drafts(modules, design);
    if (nodes(most) > most_nodes) {
      throw ConfigError(cat("[generate] tree, draft = ", most, ": a pass would have more than ", most_nodes,
                            " rows; fewer candidates, or fewer drafts"));
    }
    for (const auto& sequence : stop_sequences)
      check(!sequence.empty(), "stop_sequences", "[]", "each must have a token");
    check(typical_epsilon >= 0 && typical_epsilon <= 1, "typical_epsilon", typical_epsilon,
          "must be between 0 and 1");
    check(typical_delta >= 0 && std::isfinite(typical_delta), "typical_delta", typical_delta,
          "must not be negative");
    validate(modules, sampling);
  }

  /// The same for what a sequence is sampled with.
  void validate(Index modules, const SamplingOptions& of) const {
    of.validate();
    if (on_host() && !same_text(of)) {
      throw ConfigError(
          "[generate] logits_hook and log_probabilities need coupled drafts and exact verification: others "
          "are settled on the device");
    }
    if (branches() && !same_text(of)) {
      throw ConfigError(
          "[generate] tree: candidates of a place need coupled drafts and exact verification, which take the "
          "one that plain decoding picks");
    }
    if (draft != automatic || same_text(of) || modules == 0) return;
    throw ConfigError(
        "[generate] draft = automatic: what is chosen depends on the clock, and with drawn drafts, block or "
        "lossy verification so would the text; give a number");
  }
};

/// Counts of a decoding run.
struct DecodeStatistics {
  Index tokens = 0;              ///< emitted
  Index prompt_tokens = 0;       ///< decoded before the first
  Index passes = 0;              ///< forward passes of the main model after the prompts', per sequence
  Index drafts = 0;              ///< passes that checked drafts
  Index nodes = 0;               ///< tokens that were drafted, all candidates of trees
  std::vector<Index> drafted;    ///< [i]: drafts of at least i + 1 tokens
  std::vector<Index> accepted;   ///< [i]: drafts whose first i + 1 tokens all stood
  std::vector<Index> histogram;  ///< [n]: drafts of which exactly n tokens stood
  double prefill_seconds = 0;    ///< of the prompts' passes
  double decode_seconds = 0;     ///< of all passes behind them

  /// The share of drafts whose first i + 1 tokens all stood, among those that long.
  double acceptance(std::size_t i) const {
    return i >= drafted.size() || drafted[i] == 0
               ? 0.0
               : static_cast<double>(accepted[i]) / static_cast<double>(drafted[i]);
  }
  /// Tokens emitted by a pass that checked drafts: 1 + accepted / drafts.
  double mean_length() const {
    Index total = 0;
    for (const Index a : accepted) total += a;
    return drafts == 0 ? 1.0 : 1.0 + static_cast<double>(total) / static_cast<double>(drafts);
  }
  /// Tokens emitted by a forward pass of the main model, prompts left out.
  double tokens_per_pass() const {
    return passes == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(passes);
  }

  /// A pass drafted `count` places, with so many candidates in all, of which the first `stood` stood.
  void count_draft(Index count, Index candidates, Index stood) {
    if (count == 0) return;
    nodes += candidates;
    const auto length = static_cast<std::size_t>(count);
    if (drafted.size() < length) drafted.resize(length);
    if (accepted.size() < length) accepted.resize(length);
    if (histogram.size() < length + 1) histogram.resize(length + 1);
    ++drafts;
    for (std::size_t i = 0; i < length; ++i) ++drafted[i];
    for (std::size_t i = 0; i < static_cast<std::size_t>(stood); ++i) ++accepted[i];
    ++histogram[static_cast<std::size_t>(stood)];
  }
};

}  // namespace mtpx
