#pragma once

#include <mtpx/core/recorded.hpp>
#include <mtpx/decode/answer.hpp>
#include <mtpx/decode/cache.hpp>
#include <mtpx/ops/embedding.hpp>
#include <mtpx/ops/next_token.hpp>

#include <compare>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

namespace mtpx {

/// How tokens are found from a pass's last rows.
struct Draws {
  std::span<const Draw> of_rows{};       ///< one a row
  std::span<const std::int32_t> kept{};  ///< rows of the table, one a row, where distributions are kept
};

/// A run that belongs to a chain of drafts of one sequence, which nobody waits for: its draft stays on the
/// device, where the runs behind it find it.
struct InChain {
  Index place = -1;  ///< of the draft that the run makes, from 0; -1: it makes none
  Index told = 0;    ///< so many of its last rows have the newest drafts as their tokens
};

/// The passes of a model that decodes: rows go in, tokens after the last ones come out. A pass of few rows is
/// recorded where the device can (see Recorded): its inputs stand at the same addresses every time, so from
/// the third pass of a kind on the host does no more than to write them and to read the answer.
template <typename T, typename D>
class Passes {
 public:
  /// slots, positions: of the cache   modules: those that draft   most_rows: of one pass   most_answers:
  /// tokens that a pass is asked for   most_kept: rows of the table   branch: depth of the deepest tree, 0:
  /// chains
  Passes(const DraftingModel<T, D>& model, Index slots, Index positions, Index modules, Index most_rows,
         Index most_answers, Index most_kept, Index branch)
      : model_(model),
        cache_(model, slots, positions, modules),
        modules_(modules),
        most_kept_(most_kept),
        inputs_(model.device(), {(arrays + (branch > 0 ? 1 + branch : 0)) * most_rows}),
        tokens_(model.device(), {most_answers}),
        drafts_(model.device(), {most_answers}),
        leads_(model.device(), {HostMemory<D> ? most_answers : 1}),
        draws_(model.device(), {most_answers}),
        moves_(model.device(), {3 * most_answers}),
        newest_(modules > 0 && model.design.chains
                    ? Tensor<T, D>(model.device(), {most_answers, model.config.hidden_size})
                    : Tensor<T, D>()) {
    heads_.push_back(model.head(0));
    for (Index k = 1; k <= modules; ++k) {
      const bool same = k > 1 && model.head(k).shares(model.head(k - 1));
      heads_.push_back(same ? heads_.back() : model.draft_head(k));
    }
  }

  /// What was decoded so far.
  const KvCache<T, D>& cache() const { return cache_; }

  /// Rows [begin, end) of a list through the trunk; answers about the last `count` of them.   told: drafts of
  /// a chain that the last rows have as their tokens; they are answered, too (draft())
  void trunk(const RowList& list, Index begin, Index end, Answer answer, Index count, const Draws& draws = {},
             Index told = 0) {
    // A row must find the same path in every pass that is compared with another.
    const Index piece = count > 0 && end - begin == count ? most_alike_rows<T, D>() : end - begin;
    for (Index done = 0; begin < end;) {
      const Index n = std::min(piece, end - begin), asked = std::min(n, count);
      upload(list, begin, begin + n, part_of(draws, done, asked));
      tell(n, {told, told});
      const PromptRows prompt = list.prompt(begin, begin + n);
      run({0, false, n, 0, asked, answer, 1, list.depth}, [&] {
        const DecodeRows<D> rows = rows_of(n, list.depth, prompt);
        const Hidden<T, D> h = model_.decode(tape_, input(token_id, n).reshape({1, n}), rows, cache_.trunk);
        if (modules_ > 0) store_rows(h.carried.value(), rows, cache_.states[0]);
        ask(0, h.normed.value(), answer, n, asked, 1);
      });
      if (answer != Answer::kept) fetch(answer, done, asked, 1, told);  // settled rounds draw by themselves
      begin += n;
      done += asked;
    }
  }

  /// Rows [begin, end) of a list through a module (from 1), from the states of the depth before it or,
  /// `again`, from what the module's last run that was asked something carried: a row's source is then the
  /// number of the row of that answer.   best: tokens of an answer, the most likely or the first of the race
  /// chained: the answer about the last row stays on the device, see draft()
  void module(Index module, bool again, const RowList& list, Index begin, Index end, Answer answer,
              Index count, const Draws& draws = {}, Index best = 1, const InChain& chained = {}) {
    const auto depth = static_cast<std::size_t>(module - 1);
    const bool chain = model_.design.chains;
    const Index width = model_.config.hidden_size, first_asked = end - count;
    const StateCache<T, D>& states = cache_.states[chain ? depth : 0];
    // Text depends on what drafts are drawn from; that may not depend on how many sequences are drafted for.
    const Index piece = answer == Answer::kept ? most_alike_rows<T, D>() : end - begin;
    for (Index done = 0; begin < end;) {
      const Index n = std::min(piece, end - begin), asked = std::clamp(begin + n - first_asked, Index{0}, n);
      upload(list, begin, begin + n, part_of(draws, done, asked));
      tell(n, chained);
      const PromptRows prompt = list.prompt(begin, begin + n);
      run({module, again, n, done, asked, answer, best, list.depth}, [&] {
        const DecodeRows<D> rows = rows_of(n, list.depth, prompt);
        const auto ids = [&](Array array) { return input(array, n).reshape({1, n}); };
        const Var<T, D> from = again
                                   ? embedding(tape_, ids(source), Weight<T, D>(newest_))
                                   : tape_.constant(gather_rows(states, {rows.sequences, input(source, n)}));
        const Hidden<T, D> out =
            model_.decode_mtp(tape_, module, from, ids(token_id), rows, cache_.modules[depth]);
        if (chain && module < modules_) store_rows(out.carried.value(), rows, cache_.states[depth + 1]);
        ask(module, out.normed.value(), answer, n, asked, best);
        if (chain && asked > 0) {
          const Tensor<T, D> carried = out.carried.value().reshape({n, width});
          copy_into(carried.slice_front(n - asked, n), newest_.slice_front(done, done + asked));
        }
      });
      if (chained.place < 0) {
        fetch(answer, done, asked, best);
      } else {
        if constexpr (HostMemory<D>) require_token(0, tokens_.data()[0]);
        copy_on_device(model_.device(), drafts_.data() + chained.place, tokens_.data(), sizeof(std::int32_t));
      }
      begin += n;
      done += asked;
    }
  }

  /// Entries of the trunk, and its states, go to other places of their sequences. Nothing waits for it.
  /// moves: [3, n]: sequences, from, to
  void move(std::span<const std::int32_t> moves) {
    const auto n = static_cast<Index>(moves.size()) / 3;
    copy_to_device(model_.device(), moves_.data(), moves.data(), moves.size_bytes());
    run({-1, false, n, 0, n, Answer::nothing, 1, 0}, [&] {
      const auto part = [&](Index i) { return moves_.slice_front(i * n, (i + 1) * n); };
      const auto move_in = [&](const StateCache<T, D>& cache) {
        store_rows(gather_rows(cache, {part(0), part(1)}), {part(0), part(2)}, cache);
      };
      for (const LatentCache<T, D>& layer : cache_.trunk) move_in({layer.entries});
      if (modules_ > 0) move_in(cache_.states[0]);
    });
  }

  /// Settles rounds, one a sequence, by the distributions that were kept. Throws NumericError, as passes do
  /// that are asked for tokens, where no token can be chosen.
  void settle(const VerifyRule& rule, const RoundList& list) {
    const D& device = model_.device();
    const auto upload_all = [&](auto& memory, const auto& numbers) {
      keep_size(memory, static_cast<Index>(numbers.size()));
      copy_to_device(device, memory.data(), numbers.data(), numbers.size_bytes());
    };
    upload_all(round_integers_, list.integers());
    upload_all(round_numbers_, list.numbers());
    keep_size(verdicts_, list.count());
    const DraftRounds rounds{list.layout(),          list.count(),          model_.config.vocab_size,
                             round_integers_.data(), round_numbers_.data(), table_.data()};
    settle_rounds(rule, rounds, verdicts_);
    answered_verdicts_.resize(static_cast<std::size_t>(list.count()));
    copy_to_host(device, answered_verdicts_.data(), verdicts_.data(),
                 answered_verdicts_.size() * sizeof(Verdict));
    for (std::size_t i = 0; i < answered_verdicts_.size(); ++i)
      require_token(static_cast<Index>(i), answered_verdicts_[i].next);
  }

  /// Whether all passes since the last call of this took as long as such passes will take later: none was
  /// being recorded.
  bool took_as_later() { return std::exchange(as_later_, true); }

  /// The answer about row i of those asked about, or token i of them all where several were asked for.
  std::int32_t token(Index i) const { return answered_tokens_[static_cast<std::size_t>(i)]; }
  /// How far that token won its race by.
  double lead(Index i) const { return leads_.data()[i]; }
  /// Draft i of the chain that the trunk was told of last.
  std::int32_t draft(Index i) const { return answered_drafts_[static_cast<std::size_t>(i)]; }
  /// The logits of row i of those asked about, [V].
  std::span<const acc_t<T>> logits(Index i) const {
    const auto vocab = static_cast<std::size_t>(model_.config.vocab_size);
    return std::span(answered_logits_).subspan(static_cast<std::size_t>(i) * vocab, vocab);
  }
  /// How round i of those settled ended.
  Verdict verdict(std::size_t i) const { return answered_verdicts_[i]; }

 private:
  // What a pass is given beside paths: arrays of a number a row, one after the other.
  enum Array : Index { token_id, sequence, position, place, source, kept_row, arrays };

  struct Kind {
    Index module;  // 0: the trunk; -1: no pass, entries that are moved
    bool again;
    Index rows;
    Index done;  // rows answered in the pieces before
    Index asked;
    Answer answer;
    Index best;   // tokens of an answer
    Index depth;  // of the list's trees

    friend auto operator<=>(const Kind&, const Kind&) = default;
  };

  static Draws part_of(const Draws& all, Index begin, Index count) {
    const auto part = [&](auto span) {
      return span.empty() ? span
                          : span.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    };
    return {part(all.of_rows), part(all.kept)};
  }

  Tensor<std::int32_t, D> input(Index array, Index n) const {
    return inputs_.slice_front(array * n, (array + 1) * n);
  }
  DecodeRows<D> rows_of(Index n, Index depth, const PromptRows& prompt) const {
    const Tensor<std::int32_t, D> paths =
        depth == 0 ? Tensor<std::int32_t, D>()
                   : inputs_.slice_front(arrays * n, (arrays + 1 + depth) * n).reshape({n, 1 + depth});
    return {input(sequence, n), input(position, n), input(place, n), paths, prompt};
  }

  void upload(const RowList& list, Index begin, Index end, const Draws& draws) {
    staged_.clear();
    for (const auto* all : {&list.tokens, &list.sequences, &list.positions, &list.places, &list.sources})
      staged_.insert(staged_.end(), all->begin() + begin, all->begin() + end);
    staged_.insert(staged_.end(), draws.kept.begin(), draws.kept.end());
    if (list.depth > 0) {
      staged_.resize(static_cast<std::size_t>(arrays * (end - begin)));
      const auto path = [&](Index row) { return list.paths.begin() + row * (1 + list.depth); };
      staged_.insert(staged_.end(), path(begin), path(end));
    }
    if constexpr (!HostMemory<D>) check_ids(end - begin);
    copy_to_device(model_.device(), inputs_.data(), staged_.data(), staged_.size() * sizeof(std::int32_t));
    copy_to_device(model_.device(), draws_.data(), draws.of_rows.data(), draws.of_rows.size_bytes());
  }

  /// What the host's kernel checks by itself, in its words.
  void check_ids(Index n) const {
    const Index vocab = model_.config.vocab_size;
    for (Index i = 0; i < n; ++i) {
      const std::int32_t id = staged_[static_cast<std::size_t>(i)];
      if (id >= 0 && id < vocab) continue;
      throw NumericError(
          cat("[embedding] token id ", id, " at row 0, column ", i, " is outside the vocabulary of ", vocab));
    }
  }

  /// Puts drafts that are on the device in the place of the last tokens of n rows.
  void tell(Index n, const InChain& chained) {
    if (chained.told == 0) return;
    copy_on_device(model_.device(), input(token_id, n).data() + n - chained.told,
                   drafts_.data() + chained.place - chained.told,
                   static_cast<std::size_t>(chained.told) * sizeof(std::int32_t));
  }

  template <typename Work>
  void run(const Kind& kind, const Work& work) {
    if (kind.answer == Answer::kept && !table_.defined())
      table_ = Tensor<double, D>(model_.device(), {most_kept_, model_.config.vocab_size});
    if (kind.answer == Answer::logits && !logits_.defined())
      logits_ = Tensor<acc_t<T>, D>(model_.device(), {tokens_.size(), model_.config.vocab_size});
    if (kind.asked == 0 || kind.rows > most_alike_rows<T, D>()) return work();  // part of a prompt
    Recorded<D>& record = records_[kind];
    as_later_ = as_later_ && record.recorded();
    record(model_.device(), work);
  }

  /// The last `count` of n rows of x through the head of a depth (0: the main model).
  void ask(Index depth, const Tensor<T, D>& x, Answer answer, Index n, Index count, Index best) {
    if (answer == Answer::nothing || count == 0) return;
    const Tensor<T, D> read = x.reshape({n, model_.config.hidden_size}).slice_front(n - count, n);
    const TokenHead<T, D>& head = heads_[static_cast<std::size_t>(depth)];
    if (answer == Answer::logits) return copy_into(logits_of(read, head), logits_.slice_front(0, count));
    if (answer == Answer::tokens) return choose_tokens(read, head, tokens_);
    if (answer == Answer::raced || answer == Answer::raced_cut)
      return race_tokens(read, head, draws_, answer == Answer::raced, best, tokens_);
    if constexpr (HostMemory<D>) {
      if (answer == Answer::led) return race_for_leads(read, head, draws_, tokens_, leads_);
    }
    draw_tokens(read, head, draws_, tokens_,
                answer == Answer::kept ? Kept{table_.data(), input(kept_row, n).data()} : Kept{});
  }

  /// The answer about `count` rows becomes that about rows [done, done + count); `told` drafts of a chain
  /// come with it.
  void fetch(Answer answer, Index done, Index count, Index best, Index told = 0) {
    if (answer == Answer::nothing || count == 0) return;
    if (answer == Answer::logits) {
      const Index vocab = model_.config.vocab_size;
      answered_logits_.resize(
          std::max(answered_logits_.size(), static_cast<std::size_t>((done + count) * vocab)));
      copy_to_host(model_.device(), answered_logits_.data() + done * vocab, logits_.data(),
                   static_cast<std::size_t>(count * vocab) * sizeof(acc_t<T>));
      return;
    }
    // By way of memory that the device writes itself: the host waits for this.
    const auto size = [](Index numbers) { return static_cast<std::size_t>(numbers) * sizeof(std::int32_t); };
    if (arrived_ == nullptr) arrived_ = host_buffer(model_.device(), size(tokens_.size() + drafts_.size()));
    std::byte* const drafts = arrived_.get() + size(tokens_.size());
    queue_to_host(model_.device(), arrived_.get(), tokens_.data(), size(count * best));
    queue_to_host(model_.device(), drafts, drafts_.data(), size(told));
    wait_for_host(model_.device());
    const auto all = static_cast<std::size_t>((done + count) * best);
    answered_tokens_.resize(std::max(answered_tokens_.size(), all));
    std::memcpy(answered_tokens_.data() + done * best, arrived_.get(), size(count * best));
    answered_drafts_.resize(static_cast<std::size_t>(told));
    if (told > 0) std::memcpy(answered_drafts_.data(), drafts, size(told));
    for (Index i = 0; i < told; ++i) require_token(0, draft(i));
    for (Index i = done; i < done + count; ++i) require_token(i, token(i * best));
  }

  /// Memory of at least `count` numbers.
  template <typename I>
  void keep_size(Tensor<I, D>& memory, Index count) {
    if (!memory.defined() || memory.size() < count) memory = Tensor<I, D>(model_.device(), {count});
  }

  const DraftingModel<T, D> model_;
  KvCache<T, D> cache_;
  std::vector<TokenHead<T, D>> heads_;  // [1 + modules]: the main model's, those that pick drafts
  const Index modules_;
  const Index most_kept_;
  // What recorded passes read and write: the same memory for all of them.
  Tensor<std::int32_t, D> inputs_;  // [arrays * most_rows], and the paths of rows in trees
  Tensor<std::int32_t, D> tokens_;  // [most_answers]
  Tensor<std::int32_t, D> drafts_;  // [most_answers], of a chain
  Tensor<double, D> leads_;         // [most_answers], where the host can read them
  Tensor<Draw, D> draws_;           // [most_answers]
  Tensor<std::int32_t, D> moves_;   // [3 * most_answers]
  Tensor<double, D> table_;         // [most_kept, vocab], once distributions are kept
  Tensor<acc_t<T>, D> logits_;      // [most_answers, vocab], once they are asked for
  Tensor<T, D> newest_;             // [most_answers, hidden]
  std::map<Kind, Recorded<D>> records_;
  bool as_later_ = true;
  std::shared_ptr<std::byte[]> arrived_;  // answers, where they leave the device
  Tape tape_{Mode::inference};
  // Memory kept between passes.
  Tensor<std::int32_t, D> round_integers_;
  Tensor<double, D> round_numbers_;
  Tensor<Verdict, D> verdicts_;
  std::vector<std::int32_t> staged_, answered_tokens_, answered_drafts_;
  std::vector<Verdict> answered_verdicts_;
  std::vector<acc_t<T>> answered_logits_;
};

}  // namespace mtpx
