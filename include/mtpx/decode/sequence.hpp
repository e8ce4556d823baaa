#pragma once

#include <mtpx/core/rng.hpp>
#include <mtpx/decode/answer.hpp>
#include <mtpx/decode/cache.hpp>
#include <mtpx/decode/options.hpp>
#include <mtpx/decode/tree.hpp>
#include <mtpx/mtp/design.hpp>

#include <algorithm>
#include <vector>

namespace mtpx {

/// A sequence that is decoded: its text, how it is sampled, and what it has drafted in this round.
struct Sequence {
  bool active = false;               ///< whether it is decoded: its slot is taken
  std::vector<std::int32_t> tokens;  ///< prompt and all that was emitted
  SamplingOptions sampling{};        ///< its own
  std::uint64_t seed = 0;            ///< of its random numbers
  std::uint64_t round = 0;           ///< passes so far
  std::size_t emitted_from = 0;      ///< where the tokens that were emitted last begin
  std::vector<Index> ready;          ///< [modules]: entries of module k + 1 that are final
  Index want = 0;                    ///< depth of what is drafted in this round
  bool branches = false;             ///< whether places have the candidates that are asked for, or one each
  DraftTree tree;                    ///< what was drafted
  std::vector<double> leads{};       ///< of its drafts, where they are wanted
  double all_stand = 1;              ///< the chance that all of them stand
  Index stood = 0;                   ///< the deepest node of it that stood
  Index asked_from = 0;              ///< first of its rows in the last answer of a module
  Index first_row = 0;               ///< of this round's logits
  std::vector<double> log_probabilities{};  ///< of what was emitted last

  /// Tokens so far.
  Index known() const { return static_cast<Index>(tokens.size()); }
  /// The drafts of a chain.
  std::span<const std::int32_t> drafts() const { return tree.tokens().subspan(1); }

  /// Rows that modules would read before it has a draft, but for the `usual` ones of a round.
  Index behind(Index usual) const {
    Index rows = 0;
    for (const Index from : ready) rows += std::max<Index>(0, known() - 2 - usual - from);
    return rows;
  }

  /// Random numbers. A token that is emitted has the noise, or the number in [0, 1), of its place, whatever
  /// was drafted before. What drafts are drawn and kept with is new in every round, since what a round
  /// refused says something about the numbers that it was refused with: and it is none of the others, or a
  /// replacement would lean on the draft that it replaces.
  enum Use : std::uint64_t { to_draw = 0x73616d70, to_keep, to_draft };
  /// The number of the place so many tokens behind those that are known.
  double of_place(std::size_t ahead) const { return Philox::uniform(seed, to_draw, tokens.size() + ahead); }
  /// How the token of that place is found.
  Draw draw_of_place(std::size_t ahead) const {
    return {sampling, of_place(ahead), {seed, tokens.size() + ahead}};
  }
  /// Number i of this round.
  double of_round(Use use, std::size_t i) const {
    return Philox::uniform(seed, use + (static_cast<std::uint64_t>(i) << 32), round);
  }

  /// Begins a round.   most: places to draft   wide: whether with several candidates
  void begin_round(Index most, bool wide) {
    want = most;
    branches = wide;
    leads.clear();
    all_stand = 1;
    tree.begin(tokens.back(), most);
  }

  /// How many entries of a module are final: p + k <= e. Where depths read no token, entries are final once
  /// the trunk has decoded their position.
  Index final_entries(Index module, const MtpDesign& design) const {
    return known() - (design.reads_token ? module : 1);
  }
  /// The token that a depth is told at a final entry p. Where it is told none, p's own stands in.
  std::int32_t told_at(Index module, Index p, const MtpDesign& design) const {
    const Index i = design.follows_token() ? p + module : p;
    return tokens[static_cast<std::size_t>(std::min(i, known() - 1))];
  }

  /// Whether its drafts are drawn, and verified as such.
  bool draws_drafts(const GenerateOptions& options) const {
    return !options.same_text(sampling) && options.verification != Verification::lossy_typical;
  }
  /// How the device picks its tokens where no distributions are kept. Places that drafts are drawn for have
  /// numbers, not noise, so that a sequence without a draft beside others settles as it would alone.
  Answer picked(const GenerateOptions& options, Index vocab) const {
    if (sampling.greedy()) return Answer::tokens;
    if (!options.same_text(sampling)) return Answer::drawn;
    return sampling.cuts(vocab) ? Answer::raced_cut : Answer::raced;
  }

  /// Adds a row of a node of level d of the tree.   slot: of this sequence   base: where node 0 stands
  void add_node(RowList& rows, Index slot, Index node, Index d, Index base, Index source) const {
    rows.add(tree.token(node), slot, base + d, base + tree.place(node), source);
    if (rows.depth == 0) return;
    const std::span<std::int32_t> path = rows.path_of_last();
    path[0] = static_cast<std::int32_t>(base + 1);
    for (; d > 0; --d, node = tree.parent(node))
      path[static_cast<std::size_t>(d)] = static_cast<std::int32_t>(base + tree.place(node));
  }

  /// Adds the rows of level d of the tree, of depth k, where `modules` draft. Depths that chain read the
  /// state of the depth before that was made with the parent's token.
  void add_level(RowList& rows, Index slot, Index d, Index k, Index modules, const MtpDesign& design) const {
    const bool again = k > modules;
    if (!design.reads_token) {  // one state for all of them, whose entry says nothing of the token
      const Index p = known() - 2 + (again ? k - modules : 0);
      for (Index node = tree.begin_of(d); node < tree.begin_of(d + 1); ++node)
        rows.add(tree.token(node), slot, p, p, again ? asked_from : p);
      return;
    }
    const Index base = known() - 1 - std::min(k, modules);
    if (base + d < 0) return;  // the sequence is shorter than what depth k looks ahead
    for (Index node = tree.begin_of(d); node < tree.begin_of(d + 1); ++node) {
      const Index parent = tree.parent(node);
      const Index source = again ? asked_from + parent - tree.begin_of(d - 1)
                                 : base + (design.chains ? 1 + tree.place(parent) : d);
      add_node(rows, slot, node, d, base, source);
    }
  }

  /// So many tokens of the tree, up to the node that stood, and `next` become text; `moves` is told of
  /// entries that are not where they belong.
  void accept(const Verdict& verdict, Index slot, Moves& moves) {
    const Index e = known() - 1;
    tokens.resize(tokens.size() + static_cast<std::size_t>(verdict.accepted));
    Index node = stood;
    for (Index d = verdict.accepted; d > 0; --d, node = tree.parent(node)) {
      tokens[static_cast<std::size_t>(e + d)] = tree.token(node);
      if (tree.place(node) != d) moves.add(slot, e + tree.place(node), e + d);
    }
    tokens.push_back(verdict.next);
  }
};

}  // namespace mtpx
