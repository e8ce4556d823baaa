#pragma once

#include <mtpx/core/rng.hpp>
#include <mtpx/decode/cache.hpp>
#include <mtpx/decode/sampling.hpp>

#include <utility>

namespace mtpx {

struct GenerateOptions {
  Index max_tokens = 128;  ///< most tokens to emit
  Index draft = 0;         ///< K, tokens drafted per pass; 0: plain decoding
  SamplingOptions sampling{};
  std::uint64_t seed = 0;
  std::int32_t stop = -1;  ///< emit nothing after this token; -1: none
};

/// Counts of a decoding run. Acceptance per position i is accepted[i] / drafts; mean length is
/// 1 + (sum of accepted) / drafts.
struct DecodeStatistics {
  Index tokens = 0;             ///< emitted
  Index passes = 0;             ///< forward passes of the main model after the prompt's
  Index drafts = 0;             ///< passes that verified a full draft of K tokens
  std::vector<Index> accepted;  ///< [K]: drafts whose first i + 1 tokens all stood

  double acceptance(std::size_t i) const {
    return drafts == 0 ? 0.0 : static_cast<double>(accepted[i]) / static_cast<double>(drafts);
  }
  double mean_length() const {
    Index total = 0;
    for (const Index a : accepted) total += a;
    return drafts == 0 ? 1.0 : 1.0 + static_cast<double>(total) / static_cast<double>(drafts);
  }
  double tokens_per_pass() const {
    return passes == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(passes);
  }
};

/// Decodes one sequence, drafting with the MTP modules and verifying with the main model, without changing
/// what is generated: greedy output is byte-equal to plain decoding (every product gives a row the same bits
/// whatever rows stand beside it), sampled output has the same distribution (Leviathan et al. 2023).
///
/// Bookkeeping, with tokens t_0 .. t_e known: the trunk has decoded positions 0 .. e - 1, and t_e comes next.
/// Entry p of module k is made from the trunk's state at p and token t_{p+k}, so it is final once p + k <= e.
/// A draft writes later entries from drafted tokens; the next round decodes those again, from the true
/// states.
template <typename T, typename D>
class Speculator {
 public:
  using A = acc_t<T>;

  /// draft: K; modules beyond the model's last are that last one run again on its own output.
  Speculator(const Transformer<T, D>& model, const GenerateOptions& options)
      : model_(model), options_(options), cache_(model, 1, model.config.max_position_embeddings) {
    options.sampling.validate();
    if (options.draft < 0)
      throw ConfigError(cat("[generate] draft = ", options.draft, ": must be 0 (plain) or positive"));
    if (options.draft > 0 && model.mtp.empty()) {
      throw ConfigError(cat("[generate] draft = ", options.draft,
                            ": this model has no MTP module (num_nextn_predict_layers = 0)"));
    }
    statistics_.accepted.assign(static_cast<std::size_t>(options.draft), 0);
  }

  /// Decodes the prompt and emits the first token. Throws ConfigError for an empty prompt or one that leaves
  /// no room, NumericError for an id outside the vocabulary.
  std::int32_t start(std::vector<std::int32_t> prompt) {
    const Index longest = model_.config.max_position_embeddings;
    if (prompt.empty()) throw ConfigError("[generate] the prompt is empty");
    if (static_cast<Index>(prompt.size()) >= longest) {
      throw ConfigError(cat("[generate] the prompt has ", prompt.size(),
                            " tokens, max_position_embeddings = ", longest, " leaves room for ",
                            longest - 1));
    }
    tokens_ = std::move(prompt);
    decoded_ = 0;
    const std::vector<std::vector<A>> logits = verify(tokens_, {static_cast<Index>(tokens_.size()) - 1});
    draft_from_ = 0;
    tokens_.push_back(pick(logits.back()));
    decoded_ = static_cast<Index>(tokens_.size()) - 1;
    ++statistics_.tokens;
    return tokens_.back();
  }

  /// One pass of the main model: emits 1 to K + 1 tokens, never more than the context holds; none when it is
  /// full.
  std::vector<std::int32_t> step() {
    const Index room = model_.config.max_position_embeddings - static_cast<Index>(tokens_.size());
    if (room <= 0) return {};
    const std::vector<std::int32_t> drafts = draft(std::min(options_.draft, room - 1));
    std::vector<std::int32_t> rows{tokens_.back()};
    rows.insert(rows.end(), drafts.begin(), drafts.end());
    std::vector<Index> wanted;
    for (Index i = 0; i < static_cast<Index>(rows.size()); ++i) wanted.push_back(i);
    const auto logits = verify(rows, wanted);

    std::vector<std::int32_t> emitted;
    std::size_t stood = 0;
    while (stood < drafts.size()) {
      const auto next = settle(logits[stood], drafts[stood]);
      emitted.push_back(next.token);
      tokens_.push_back(next.token);
      if (!next.accepted) break;
      ++stood;
    }
    if (stood == drafts.size()) {
      emitted.push_back(pick(logits[stood]));
      tokens_.push_back(emitted.back());
    }
    if (static_cast<Index>(drafts.size()) == options_.draft && options_.draft > 0) {
      ++statistics_.drafts;
      for (std::size_t i = 0; i < stood; ++i) ++statistics_.accepted[i];
    }
    ++statistics_.passes;
    statistics_.tokens += static_cast<Index>(emitted.size());
    decoded_ = static_cast<Index>(tokens_.size()) - 1;
    return emitted;
  }

  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  const DecodeStatistics& statistics() const { return statistics_; }
  const KvCache<T, D>& cache() const { return cache_; }

 private:
  struct Settled {
    std::int32_t token;
    bool accepted;
  };

  /// A number in [0, 1) for the token at the end of tokens_; `use` keeps several per token apart.
  double uniform(std::uint64_t use) const {
    return Philox::uniform(options_.seed, 0x73616d70 + use, tokens_.size());
  }

  std::int32_t pick(const std::vector<A>& logits) const {
    if (options_.sampling.greedy()) return argmax(std::span<const A>(logits));
    return sample(distribution(std::span<const A>(logits), options_.sampling), uniform(0));
  }

  /// Greedy drafts are drawn from a one-hot q: kept with probability p(draft).
  Settled settle(const std::vector<A>& logits, std::int32_t drafted) const {
    if (options_.sampling.greedy()) {
      const std::int32_t token = argmax(std::span<const A>(logits));
      return {token, token == drafted};
    }
    const std::vector<double> p = distribution(std::span<const A>(logits), options_.sampling);
    if (accepts(p[static_cast<std::size_t>(drafted)], 1.0, uniform(1))) return {drafted, true};
    std::vector<double> q(p.size(), 0.0);
    q[static_cast<std::size_t>(drafted)] = 1;
    return {sample(residual(p, q), uniform(0)), false};
  }

  Tensor<std::int32_t, D> upload(const std::vector<std::int32_t>& ids) const {
    return Tensor<std::int32_t, D>::from(model_.device(), {1, static_cast<Index>(ids.size())}, ids);
  }

  /// Runs the trunk over `rows` from position decoded_ on; keeps their carried states; returns the logits of
  /// the `wanted` rows.
  std::vector<std::vector<A>> verify(const std::vector<std::int32_t>& rows,
                                     const std::vector<Index>& wanted) {
    Tape tape(Mode::inference);
    const auto count = static_cast<Index>(rows.size());
    const Hidden<T, D> h =
        model_.decode(tape, upload(rows), decode_rows(model_.device(), 0, decoded_, count), cache_.trunk);
    // The first module also needs the states of the rows that its successors decode again.
    const Index again = static_cast<Index>(model_.mtp.size()) - 1;
    const Index keep = std::clamp<Index>(again, 0, decoded_ - states_from_);
    states_ = keep == 0 ? h.carried.value()
                        : stack(states_, decoded_ - keep - states_from_, keep, h.carried.value());
    states_from_ = decoded_ - keep;
    std::vector<std::vector<A>> logits;
    const Index first = wanted.front();
    const auto normed =
        h.normed.value().reshape({count, model_.config.hidden_size}).slice_front(first, count);
    const auto out = model_.lm_head(tape.constant(normed)).value().to_host();
    const auto vocab = static_cast<std::size_t>(model_.config.vocab_size);
    for (const Index row : wanted) {
      const auto begin = static_cast<std::size_t>(row - first) * vocab;
      logits.emplace_back(out.begin() + static_cast<std::ptrdiff_t>(begin),
                          out.begin() + static_cast<std::ptrdiff_t>(begin + vocab));
    }
    return logits;
  }

  /// Rows [begin, begin + count) of `old` above all rows of `added`, as [1, rows, hidden].
  Tensor<T, D> stack(const Tensor<T, D>& old, Index begin, Index count, const Tensor<T, D>& added) const {
    const Index width = model_.config.hidden_size;
    Tensor<T, D> rows(added.device(), {1, count + added.shape()[1], width});
    copy_rows(added.device(), count, width, old.data() + begin * width, width, rows.data(), width, false);
    copy_rows(added.device(), added.shape()[1], width, added.data(), width, rows.data() + count * width,
              width, false);
    return rows;
  }

  /// K greedy drafts after tokens_.
  std::vector<std::int32_t> draft(Index k_max) {
    std::vector<std::int32_t> drafts;
    if (k_max == 0) return drafts;
    Tape tape(Mode::inference);
    const auto modules = static_cast<Index>(model_.mtp.size());
    const auto known = static_cast<Index>(tokens_.size());
    const Index last = known - 2;  // the trunk's newest position whose state belongs to a known token
    // Decode again what the previous draft wrote from drafted tokens: at most the last modules - 1 rows.
    const Index begin = std::max(states_from_, draft_from_ - (modules - 1));
    const Index count = last - begin + 1;
    const auto token_at = [&](Index i) {
      return i < known ? tokens_[static_cast<std::size_t>(i)] : drafts[static_cast<std::size_t>(i - known)];
    };
    const Index width = model_.config.hidden_size;
    const auto states = states_.reshape({states_.shape()[1], width})
                            .slice_front(begin - states_from_, last + 1 - states_from_);
    Var<T, D> h = tape.constant(states.reshape({1, count, width}));
    Index first = begin;
    Index rows = count;
    for (Index k = 1; k <= k_max; ++k) {
      const Index module = std::min(k, modules);
      if (k > modules) {  // the last module again, one position on, from its own newest state
        h = tape.constant(newest(h.value()));
        first = last + (k - modules);
        rows = 1;
      }
      std::vector<std::int32_t> ids;
      for (Index p = first; p < first + rows; ++p) ids.push_back(token_at(p + module));
      const Hidden<T, D> out =
          model_.decode_mtp(tape, module, h, upload(ids), decode_rows(model_.device(), 0, first, rows),
                            cache_.modules[static_cast<std::size_t>(module - 1)]);
      const auto logits = model_.lm_head(tape.constant(newest(out.normed.value()))).value().to_host();
      drafts.push_back(argmax(std::span<const T>(logits)));
      h = out.carried;
    }
    draft_from_ = last + 1;
    return drafts;
  }

  /// The last row of [1, rows, hidden], as [1, 1, hidden].
  Tensor<T, D> newest(const Tensor<T, D>& x) const {
    const Index rows = x.shape()[1];
    const Index width = x.shape()[2];
    return x.reshape({rows, width}).slice_front(rows - 1, rows).reshape({1, 1, width});
  }

  const Transformer<T, D>& model_;
  GenerateOptions options_;
  KvCache<T, D> cache_;
  std::vector<std::int32_t> tokens_;
  Index decoded_ = 0;    // positions whose trunk entries are final
  Tensor<T, D> states_;  // [1, rows, hidden]: the trunk's carried states from position states_from_ on
  Index states_from_ = 0;
  Index draft_from_ = 0;  // entries of module 1 are final below this
  DecodeStatistics statistics_;
};

}  // namespace mtpx
