#pragma once

#include <mtpx/core/cpu.hpp>
#include <mtpx/decode/draft_policy.hpp>
#include <mtpx/decode/options.hpp>
#include <mtpx/decode/passes.hpp>
#include <mtpx/decode/sequence.hpp>
#include <mtpx/model/transformer.hpp>

#include <limits>
#include <optional>

namespace mtpx {

/// Decodes sequences side by side, drafting with the MTP modules or heads and verifying with the main model,
/// without changing what is generated: text, greedy or sampled, is byte-equal to plain decoding (every
/// product gives a row the same bits whatever rows stand beside it, and a place has its noise whatever was
/// drafted); of drawn drafts it has the same distribution (see kernels/verify.hpp). What leaves the device is
/// tokens alone.
///
///   Speculator<float, Cpu> decoder(model, options);
///   const Index slot = decoder.add(prompt, seed);   // decodes the prompt, emits a token
///   while (!decoder.full(slot)) {
///     decoder.step();                               // one pass of the main model over all sequences
///     for (std::int32_t token : decoder.emitted(slot)) ...
///   }
///
/// Bookkeeping of a sequence, with tokens t_0 .. t_e known: the trunk has decoded positions 0 .. e - 1, and
/// t_e comes next. Entry p of module k is made from the state of depth k - 1 at p and from token t_{p+k}, so
/// it is final once p + k <= e. Drafting writes later entries from drafted tokens; the next round decodes
/// those again, from the true tokens and states. Entry p of a parallel head is made from the trunk's state at
/// p alone; drafts are what the heads say about the newest position.
template <typename T, typename D>
class Speculator {
 public:
  /// model: any that Drafts asks for, such as a Transformer
  /// slots: sequences at a time   positions: of each, at most and by default max_position_embeddings
  /// Throws ConfigError for options that the model cannot serve.
  Speculator(const DraftingModel<T, D>& model, const GenerateOptions& options, Index slots = 1,
             Index positions = 0)
      : model_(model),
        options_(options),
        most_drafts_(options.most_drafts(modules_of(model), model.design)),
        modules_((options.validate(modules_of(model), model.design),
                  std::min(most_drafts_, model.design.drafting(modules_of(model))))),
        most_nodes_(options.nodes(most_drafts_)),
        passes_(model, slots, positions > 0 ? std::min(positions, longest()) : longest(), modules_,
                std::max(chunk + slots, slots * most_nodes_), slots * most_nodes_,
                slots * (2 * most_drafts_ + 1), options.branches() ? most_drafts_ : 0),
        slots_(static_cast<std::size_t>(slots)),
        rounds_(most_drafts_) {
    if (options.draft == GenerateOptions::automatic)
      policy_.emplace(most_drafts_, options.branches(), HostMemory<D> && !options.branches());
    for (Sequence& slot : slots_) slot.ready.resize(static_cast<std::size_t>(modules_));
  }

  /// Decodes a prompt into a free slot and emits its first token; returns the slot. The sequence is sampled
  /// as `sampling` says, whatever the others are: its text is the one that it has alone. Random numbers
  /// depend on the seed and the sequence's own positions.
  ///
  /// Throws ConfigError for an empty prompt, one that leaves no room, sampling that does not go with the
  /// decoder's options, or without a free slot; NumericError for an id outside the vocabulary.
  Index add(std::span<const std::int32_t> prompt, std::uint64_t seed, const SamplingOptions& sampling) {
    check(prompt, sampling);
    const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Sequence& s) { return !s.active; });
    if (free == slots_.end()) throw ConfigError(cat("[generate] all ", slots_.size(), " slots are taken"));
    // Without attention there is never anything to read before the newest row, but for a next depth.
    free->ready.assign(free->ready.size(), reads_back() ? 0 : std::numeric_limits<Index>::max());
    const Index slot = free - slots_.begin();
    begin(slot, prompt, 0, seed, sampling);
    return slot;
  }

  /// The same, sampled as the decoder's options say.
  Index add(std::span<const std::int32_t> prompt, std::uint64_t seed) {
    return add(prompt, seed, options_.sampling);
  }

  /// Gives a slot that is taken another text, of which only what is new is decoded: from the first place on
  /// where it differs from the slot's own. Emits the first token behind it; all that follows is what follows
  /// add() of the whole text. Throws as add().
  void replace(Index slot, std::span<const std::int32_t> prompt, std::uint64_t seed,
               const SamplingOptions& sampling) {
    check(prompt, sampling);
    Sequence& s = slots_[static_cast<std::size_t>(slot)];
    const auto differs = std::mismatch(prompt.begin(), prompt.end(), s.tokens.begin(), s.tokens.end()).first;
    const Index same = s.active ? differs - prompt.begin() : 0;
    // The newest token of either text has no entry yet, or is to be asked what follows it.
    const Index kept =
        std::max<Index>(0, std::min({same, s.known() - 1, static_cast<Index>(prompt.size()) - 1}));
    for (Index module = 1; module <= modules_ && reads_back(); ++module) {
      Index& ready = s.ready[static_cast<std::size_t>(module - 1)];
      ready = std::clamp<Index>(model_.design.reads_token ? same - module : kept, 0, ready);
    }
    begin(slot, prompt, kept, seed, sampling);
  }

  /// One pass of the main model over every sequence that has room: each emits 1 to K + 1 tokens.
  void step() {
    running_.clear();
    Index behind = 0, longest_draft = 0;
    for (Index slot = 0; slot < static_cast<Index>(slots_.size()); ++slot) {
      Sequence& s = slots_[static_cast<std::size_t>(slot)];
      s.emitted_from = s.tokens.size();
      s.log_probabilities.clear();
      if (!s.active || room(s) <= 0) continue;
      running_.push_back(slot);
      behind += s.behind(most_drafts_ + modules_);
    }
    if (running_.empty()) return;
    if (policy_) policy_->share(static_cast<Index>(running_.size()));
    const Index plan = policy_ ? policy_->choose(behind) : 0;
    const Index k = policy_ ? policy_->places_of(plan) : options_.draft;
    const bool trees = policy_ ? policy_->is_tree(plan) : options_.branches();
    const Stopwatch watch;
    passes_.took_as_later();
    for (const Index slot : running_) {
      Sequence& s = slots_[static_cast<std::size_t>(slot)];
      const Index want = std::min(k, room(s) - 1);
      s.begin_round(want, trees && options_.nodes(want) <= room(s));
      longest_draft = std::max(longest_draft, s.want);
    }
    const bool by_tokens = longest_draft == 0 || all_of(running_, [&](const Sequence& s) {
                             return options_.same_text(s.sampling);
                           });
    // The host need not know the drafts of a chain before it knows which of them stand.
    const bool chain = running_.size() == 1 && branch_of(running_) == 0 && by_tokens && !options_.on_host() &&
                       longest_draft < most_alike_rows<T, D>() && !cuts_drafts();
    const bool by_room = longest_draft < k;
    const bool catching_up = draft(longest_draft, chain);
    verify(by_tokens, chain);
    moves_.clear();
    Index emitted = 0, drafted = 0;
    for (std::size_t n = 0; n < running_.size(); ++n) {
      Sequence& s = slots_[static_cast<std::size_t>(running_[n])];
      const Verdict verdict = by_tokens ? by_plain_tokens(s) : passes_.verdict(n);
      if (!by_tokens) s.stood = verdict.accepted;
      s.accept(verdict, running_[n], moves_);
      statistics_.count_draft(s.want, s.tree.size() - 1, verdict.accepted);
      ++s.round;
      ++statistics_.passes;
      emitted += verdict.accepted + 1;
      drafted = std::max(drafted, s.want);
      if (policy_) policy_->stood(s.want, verdict.accepted, s.branches);
      if (cuts_drafts()) policy_->led(s.leads, verdict.accepted);
    }
    statistics_.tokens += emitted;
    if (!moves_.empty()) passes_.move(moves_.arrays());
    // What only some passes pay would mislead: modules that read what was decoded without them, cut drafts,
    // work that is being recorded.
    if (policy_ && !catching_up && !by_room)
      policy_->took(cuts_drafts() ? drafted : plan, watch.seconds(), passes_.took_as_later());
    if (cuts_drafts())
      policy_->gave(drafted, static_cast<double>(emitted) / static_cast<double>(running_.size()));
  }

  /// Forgets a sequence; its slot is free again.
  void remove(Index slot) { slots_[static_cast<std::size_t>(slot)].active = false; }

  /// Whether the context has no room for another token.
  bool full(Index slot) const { return room(slots_[static_cast<std::size_t>(slot)]) <= 0; }
  /// Prompt and everything emitted.
  const std::vector<std::int32_t>& tokens(Index slot = 0) const {
    return slots_[static_cast<std::size_t>(slot)].tokens;
  }
  /// What the last add() or step() emitted.
  std::span<const std::int32_t> emitted(Index slot = 0) const {
    const Sequence& s = slots_[static_cast<std::size_t>(slot)];
    return std::span(s.tokens).subspan(s.emitted_from);
  }
  /// log p of each of them, where options ask for it.
  std::span<const double> log_probabilities(Index slot = 0) const {
    return slots_[static_cast<std::size_t>(slot)].log_probabilities;
  }
  /// Counts since the Speculator was made, of all sequences.
  const DecodeStatistics& statistics() const { return statistics_; }
  /// What was decoded so far, of all slots.
  const KvCache<T, D>& cache() const { return passes_.cache(); }

 private:
  static constexpr Index chunk = reads_prompts<T, D> ? 4096 : 256;  // rows of a pass over a prompt

  void check(std::span<const std::int32_t> prompt, const SamplingOptions& sampling) const {
    options_.validate(modules_of(model_), sampling);
    if (prompt.empty()) throw ConfigError("[generate] the prompt is empty");
    if (static_cast<Index>(prompt.size()) >= cache().capacity) {
      throw ConfigError(cat("[generate] the prompt has ", prompt.size(), " tokens, ",
                            cache().capacity == longest() ? "max_position_embeddings" : "positions", " = ",
                            cache().capacity, " leaves room for ", cache().capacity - 1));
    }
  }

  /// Decodes a prompt from position `from` on; what stands before has its entries.
  void begin(Index slot, std::span<const std::int32_t> prompt, Index from, std::uint64_t seed,
             const SamplingOptions& sampling) {
    Sequence& s = slots_[static_cast<std::size_t>(slot)];
    s.active = false;                // until it has all its entries
    std::vector<std::int32_t> text;  // the prompt may be a part of s.tokens
    text.reserve(static_cast<std::size_t>(cache().capacity));
    text.assign(prompt.begin(), prompt.end());
    s.tokens = std::move(text);
    s.sampling = sampling;
    s.seed = seed;
    s.round = 0;
    s.tree.begin(s.tokens.back(), 0);

    rows_.clear();
    for (Index p = from; p < s.known(); ++p) rows_.add(s.tokens[static_cast<std::size_t>(p)], slot, p);
    Index row = 0;
    for (; row + chunk < rows_.size(); row += chunk)
      passes_.trunk(rows_, row, row + chunk, Answer::nothing, 0);
    draws_.assign(1, s.draw_of_place(0));
    passes_.trunk(rows_, row, rows_.size(),
                  options_.on_host() ? Answer::logits : s.picked(options_, model_.config.vocab_size), 1,
                  {draws_, {}});
    statistics_.prompt_tokens += s.known() - from;
    s.emitted_from = s.tokens.size();
    s.first_row = 0;
    s.log_probabilities.clear();
    s.tokens.push_back(plain_token(s, 0, 0));
    s.active = true;
    if (!policy_ || policy_->begin_sequence()) {
      const Stopwatch watch;
      const Index rows = s.behind(0);
      read_prompt(slot);
      if (policy_) wait_for_host(model_.device());
      if (policy_) policy_->read(rows, watch.seconds());
    }
    ++statistics_.tokens;
  }

  /// Whether entries of modules, or states that they carry, are read again.
  bool reads_back() const { return model_.design.attends || model_.design.chains; }

  static Index modules_of(const DraftingModel<T, D>& model) { return model.config.num_nextn_predict_layers; }
  Index longest() const { return model_.config.max_position_embeddings; }
  Index room(const Sequence& s) const { return cache().capacity - s.known(); }

  template <typename Holds>
  bool all_of(const std::vector<Index>& slots, const Holds& holds) const {
    return std::all_of(slots.begin(), slots.end(),
                       [&](Index slot) { return holds(slots_[static_cast<std::size_t>(slot)]); });
  }
  /// Whether drafts are cut by their leads: where the host waits for every draft in any case, since it makes
  /// them.
  bool cuts_drafts() const { return HostMemory<D> && policy_ && !options_.branches(); }
  /// How the tokens of some sequences are found, and their drafts.
  Answer picked(const std::vector<Index>& slots) const {
    Answer all = Answer::tokens;
    for (const Index slot : slots) {
      all = std::max(all, slots_[static_cast<std::size_t>(slot)].picked(options_, model_.config.vocab_size));
    }
    return all;
  }
  Answer drafted(const std::vector<Index>& slots) const {
    if (cuts_drafts()) return Answer::led;
    if (options_.verification == Verification::lossy_typical) return Answer::tokens;
    return all_of(slots, [&](const Sequence& s) { return !s.draws_drafts(options_); }) ? picked(slots)
                                                                                       : Answer::kept;
  }

  // Rows of the table of distributions: first the main model's, row by row of a verifying pass, then those
  // that drafts are drawn from.
  std::int32_t draft_row(Index slot, Index i) const {
    const auto all = static_cast<Index>(slots_.size());
    return static_cast<std::int32_t>(all * (most_drafts_ + 1) + slot * most_drafts_ + i);
  }

  /// The known tokens' last and the drafts of all running sequences, in one pass; by_tokens: tokens that
  /// plain decoding picks are all that is asked. Otherwise those of a greedy sequence beside sampled ones are
  /// settled from distributions that are one-hot: with the same outcome.   chain: drafts are on the device
  void verify(bool by_tokens, bool chain) {
    rows_.clear(branch_of(running_));
    draws_.clear();
    kept_.clear();
    for (const Index slot : running_) {
      Sequence& s = slots_[static_cast<std::size_t>(slot)];
      s.first_row = rows_.size();
      const Index e = s.known() - 1;
      for (Index d = 0; d <= s.tree.depth(); ++d) {
        for (Index node = s.tree.begin_of(d); node < s.tree.begin_of(d + 1); ++node) {
          s.add_node(rows_, slot, node, d, e, 0);
          draws_.push_back(s.draw_of_place(static_cast<std::size_t>(d)));
        }
      }
    }
    if (by_tokens) {
      const Answer answer = options_.on_host() ? Answer::logits : picked(running_);
      const Index told = chain ? rows_.size() - 1 : 0;
      passes_.trunk(rows_, 0, rows_.size(), answer, rows_.size(), {draws_, {}}, told);
      for (Index i = 0; i < told; ++i)
        slots_[static_cast<std::size_t>(running_[0])].tree.set(i + 1, passes_.draft(i));
      return;
    }
    for (Index r = 0; r < rows_.size(); ++r) kept_.push_back(static_cast<std::int32_t>(r));
    passes_.trunk(rows_, 0, rows_.size(), Answer::kept, rows_.size(), {draws_, kept_});
    settle();
  }

  /// Which drafts of the running sequences stand, by the distributions that passes kept.
  void settle() {
    rounds_.clear();
    for (const Index slot : running_) {
      const Sequence& s = slots_[static_cast<std::size_t>(slot)];
      rounds_.add(
          s.drafts(), s.first_row, s.draws_drafts(options_) ? draft_row(slot, 0) : -1,
          [&](std::size_t i) { return s.of_round(Sequence::to_keep, i); },
          [&](std::size_t i) { return s.of_place(i); });
    }
    passes_.settle({options_.verification, options_.typical_epsilon, options_.typical_delta}, rounds_);
  }

  /// Which drafts are the tokens that plain decoding picks.
  Verdict by_plain_tokens(Sequence& s) {
    Index d = 0;
    return verify_equal(
        [&](Index node) {
          s.stood = node;
          return plain_token(s, node, d);
        },
        [&](Index node, std::int32_t token) { return s.tree.child(node, d++, token); });
  }

  /// The token that plain decoding picks behind a node of level d of a sequence's tree. Asked in order: where
  /// log p is wanted, it is noted.
  std::int32_t plain_token(Sequence& s, Index node, Index d) {
    const Index row = s.first_row + node;
    if (!options_.on_host()) return passes_.token(row);
    const auto logits = passes_.logits(row);
    picked_from_.assign(logits.begin(), logits.end());
    if (options_.logits_hook) {
      text_ = s.tokens;
      text_.resize(s.tokens.size() + static_cast<std::size_t>(d));
      for (Index l = d; l > 0; --l, node = s.tree.parent(node))
        text_[s.tokens.size() + static_cast<std::size_t>(l - 1)] = s.tree.token(node);
      options_.logits_hook(text_, picked_from_);
    }
    const std::span<const double> z = picked_from_;
    const std::int32_t token = race_on_host(host_, z, s.draw_of_place(static_cast<std::size_t>(d)));
    if (options_.log_probabilities) {
      const double top = z[static_cast<std::size_t>(argmax(z))];
      double sum = 0;
      for (const double logit : z) sum += std::exp(logit - top);
      s.log_probabilities.push_back(z[static_cast<std::size_t>(token)] - top - std::log(sum));
    }
    return token;
  }

  /// Depth of the branches in a pass over these sequences.
  Index branch_of(const std::vector<Index>& slots) const {
    return all_of(slots, [](const Sequence& s) { return !s.branches; }) ? 0 : most_drafts_;
  }
  /// Candidates of place k, from 1.
  Index candidates(const Sequence& s, Index k) const { return s.branches ? options_.candidates(k) : 1; }

  /// Drafts s.want places for every running sequence, `longest` at most; returns whether modules had more to
  /// read than the last pass left them.   chain: drafts stay on the device
  bool draft(Index longest, bool chain) {
    bool catching_up = false;
    drafting_ = running_;
    for (Index k = 1; k <= longest; ++k) {
      const bool again = k > modules_;  // the last module once more, one position on, on its own output
      const Index module = std::min(k, modules_);
      // Whether rows are made from drafts: then each node has its own.
      const bool by_node = model_.design.follows_token() && k > 1;
      std::erase_if(drafting_, [&](Index slot) { return wants_less(slot, k); });
      if (drafting_.empty()) break;  // cut by their leads
      // Everything that is not final yet, and the newest rows of each sequence last: only those have logits.
      rows_.clear(branch_of(drafting_));
      Index best = 1, known_rows = 0;
      for (const Index slot : drafting_) {
        Sequence& s = slots_[static_cast<std::size_t>(slot)];
        best = std::max(best, candidates(s, k));
        if (again) continue;
        Index& ready = s.ready[static_cast<std::size_t>(module - 1)];
        const Index newest = s.known() - 2;
        catching_up = catching_up || newest - ready > most_drafts_ + modules_;
        const bool entries_by_node = by_node && model_.design.reads_token;
        for (Index p = ready; p < (entries_by_node ? s.final_entries(module, model_.design) : newest); ++p)
          rows_.add(s.told_at(module, p, model_.design), slot, p);
        known_rows = rows_.size();
        for (Index d = 1; entries_by_node && reads_back() && d < k - 1; ++d)
          s.add_level(rows_, slot, d, k, modules_, model_.design);
        ready = std::max(ready, s.final_entries(module, model_.design));
      }
      const Index first_asked = rows_.size();
      for (const Index slot : drafting_) {
        Sequence& s = slots_[static_cast<std::size_t>(slot)];
        const Index from = rows_.size() - first_asked;
        if (by_node) {
          s.add_level(rows_, slot, k - 1, k, modules_, model_.design);
        } else {
          const Index p = s.known() - 2 + (again ? k - modules_ : 0);
          rows_.add(s.told_at(module, p, model_.design), slot, p, p, again ? s.asked_from : p);
        }
        s.asked_from = from;
      }
      const Index asked = rows_.size() - first_asked;
      const Answer answer = best > 1 ? Answer::raced_cut : drafted(drafting_);
      const bool keeps = answer == Answer::kept;
      const InChain chained = chain ? InChain{k - 1, by_node ? rows_.size() - known_rows : 0} : InChain{};
      const Index last = std::max(asked, chained.told);
      Index begin = 0;
      for (; !keeps && begin + chunk + last < rows_.size(); begin += chunk)
        passes_.module(module, false, rows_, begin, begin + chunk, Answer::nothing, 0);
      draws_.clear();
      kept_.clear();
      for (const Index slot : drafting_) {
        const Sequence& s = slots_[static_cast<std::size_t>(slot)];
        const auto i = static_cast<std::size_t>(k - 1);
        if (answer == Answer::tokens) break;
        const Index rows = by_node ? s.tree.size() - s.tree.begin_of(k - 1) : 1;
        draws_.insert(draws_.end(), static_cast<std::size_t>(rows),
                      keeps ? Draw{s.sampling, s.of_round(Sequence::to_draft, i)} : s.draw_of_place(i));
        if (keeps) kept_.push_back(draft_row(slot, k - 1));
      }
      passes_.module(module, again, rows_, begin, rows_.size(), answer, asked, {draws_, kept_}, best,
                     chained);
      for (const Index slot : drafting_) {
        Sequence& s = slots_[static_cast<std::size_t>(slot)];
        if (!chain) {
          grow(s, k, by_node, best);
          if (cuts_drafts()) look_at_lead(s, k, passes_.lead(s.asked_from));
        } else {
          s.tree.next_level();
          s.tree.add(k - 1, 0);  // to be told
        }
      }
    }
    return catching_up;
  }

  /// Adds level k to a sequence's tree.   best: answers of a row
  void grow(Sequence& s, Index k, bool by_node, Index best) {
    s.tree.next_level();
    const Index first = s.tree.begin_of(k - 1);
    for (Index node = first; node < s.tree.begin_of(k); ++node) {
      const Index row = s.asked_from + (by_node ? node - first : 0);
      for (Index j = 0; j < candidates(s, k); ++j) {
        const std::int32_t token = passes_.token(row * best + j);
        if (token != no_token) s.tree.add(node, token);
      }
    }
  }

  /// Whether draft k of a sequence is its last in this round.
  void look_at_lead(Sequence& s, Index k, double lead) {
    s.leads.push_back(lead);
    s.all_stand *= policy_->chance(lead);
    if (!policy_->go_on(s.all_stand)) s.want = std::min(s.want, k);
  }

  /// Lets the modules read all of a prompt but what the first round reads anyway. Without it that round
  /// would.
  void read_prompt(Index slot) {
    Sequence& s = slots_[static_cast<std::size_t>(slot)];
    for (Index module = 1; module <= modules_; ++module) {
      Index& ready = s.ready[static_cast<std::size_t>(module - 1)];
      const Index last = std::min(s.final_entries(module, model_.design), s.known() - 2);
      for (; ready < last; ready = std::min(last, ready + chunk)) {
        rows_.clear();
        for (Index p = ready; p < std::min(last, ready + chunk); ++p)
          rows_.add(s.told_at(module, p, model_.design), slot, p);
        passes_.module(module, false, rows_, 0, rows_.size(), Answer::nothing, 0);
      }
    }
  }

  bool wants_less(Index slot, Index k) const { return slots_[static_cast<std::size_t>(slot)].want < k; }

  const DraftingModel<T, D> model_;
  const GenerateOptions options_;
  const Index most_drafts_;
  const Index modules_;     // that draft
  const Index most_nodes_;  // of a sequence's tree
  const Cpu host_{1};       // races where logits are on the host
  Passes<T, D> passes_;
  std::vector<Sequence> slots_;
  std::optional<DraftPolicy> policy_;
  DecodeStatistics statistics_;
  // Memory kept between passes.
  RowList rows_;
  std::vector<Index> running_, drafting_;
  std::vector<std::int32_t> kept_;
  std::vector<Draw> draws_;
  RoundList rounds_;
  Moves moves_;
  std::vector<double> picked_from_;
  std::vector<std::int32_t> text_;
};

/// T and D are the model's.
template <Drafts M>
Speculator(const M&, const GenerateOptions&, Index = 1, Index = 0)
    -> Speculator<typename M::value_type, typename M::device_type>;

}  // namespace mtpx
