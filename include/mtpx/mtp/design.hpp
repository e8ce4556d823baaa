#pragma once
// What predicts the tokens after the next one, as facts. Everything else asks for the fact that it needs, not
// for a design's name.

#include <mtpx/core/shape.hpp>

#include <cstddef>

namespace mtpx {

/// The order in which an MTP module's eh_proj reads its two inputs. The weights and nearly all code put the
/// embedding first; the paper (DeepSeek-V3 eq. 21) and MiMo put the hidden state first.
enum class MtpConcat { embedding_hidden, hidden_embedding };

/// Which hidden state feeds the next depth: after the final norm of the depth before (as DeepSeek's own
/// modelling file does), or before it. Either choice trains; drafts need the one that was trained.
enum class MtpHidden { post_norm, pre_norm };

/// What predicts the tokens after the next one: the designs that a configuration can name.
enum class MtpHeads {
  sequential,  ///< a module per depth, each reading the depth before it (DeepSeek-V3 sec. 2.2)
  repeated,    ///< the same, one module for all depths
  parallel,    ///< a transformer layer per depth, all on one trunk: the last of the num_hidden_layers is the
               ///< next-token head's own (Gloeckle et al. 2024)
  linear       ///< a matrix per depth, on the state after all layers (its ablation)
};

/// How the depths' losses are put together: lambda times their mean (DeepSeek-V3 Eq. 25), or lambda times
/// their sum (with lambda = 1 that of Gloeckle et al. 2024, sec. 2).
enum class LossReduction { mean, sum };

/// A design of multi-token prediction. Depth k (from 1) turns a state and, by design, the embedding of the
/// token k ahead into the state from which the shared output head predicts t_{i+k+1}. The facts are
/// independent of each other: any combination trains and drafts, see Transformer's constructor. For a design
/// with a name, add a value of MtpHeads, its facts in design_of(), and the name in io/config_json.hpp.
struct MtpDesign {
  bool chains = true;  ///< depth k reads what depth k - 1 carries; otherwise all read one state of the trunk,
                       ///< none needs another, and none can run again on its own output
  bool reads_token = true;      ///< and the embedding of t_{i+k}, through enorm, hnorm, eh_proj
  bool attends = true;          ///< its block is a transformer layer, with a latent cache; otherwise a matrix
  bool own_norm = true;         ///< a norm of its own before the output head; otherwise the final norm
  bool shares_weights = false;  ///< one module for all depths
  /// What a depth says depends on the token before the one that it predicts, by a bias of its logits of this
  /// rank (MtpMarkov); 0: none. So heads that read one state draft a block whose tokens go together.
  Index markov_rank = 0;
  Index own_layers = 0;  ///< last layers of the trunk that are the next-token head's own: depths that do not
                         ///< chain read the state before them

  // How it was published: the loss, and by what lambda is divided late in training.
  LossReduction reduction = LossReduction::mean;  ///< of the depths' losses
  double lambda = 0.3;                            ///< their weight
  double late_divisor = 3;                        ///< what lambda is divided by late in training
  double decay = 1;  ///< depth k's weight among them is this to the power k - 1, with the same sum

  /// Whether what depth k says of t_{i+k+1} depends on t_{i+k}.
  bool follows_token() const { return reads_token || markov_rank > 0; }
  /// Sets of weights for `depth` depths.
  Index modules(Index depth) const { return shares_weights && depth > 1 ? 1 : depth; }
  /// Of `depth` depths, those that draft with entries of their own. A module that is all of them runs again
  /// on its own output, a token on, as it was trained to: what was accepted is then read once, not by each.
  Index drafting(Index depth) const { return chains && reads_token ? modules(depth) : depth; }
  /// Which of them is that of depth k (from 1), from 0.
  std::size_t module(Index k) const { return shares_weights ? 0 : static_cast<std::size_t>(k - 1); }
};

/// The facts of a design that has a name.
constexpr MtpDesign design_of(MtpHeads heads) {
  MtpDesign design;
  if (heads == MtpHeads::sequential) return design;
  if (heads == MtpHeads::repeated) {
    design.shares_weights = true;
    design.decay = 0.6;  // one module serves all depths, the nearest most (FastMTP: arXiv 2509.18362)
    return design;
  }
  design.chains = design.reads_token = design.own_norm = false;
  design.attends = heads == MtpHeads::parallel;
  design.own_layers = heads == MtpHeads::parallel ? 1 : 0;
  design.reduction = LossReduction::sum;
  design.lambda = design.late_divisor = 1;
  return design;
}

/// Whether modules of one design can serve the other: they differ in how many share their weights alone.
constexpr bool exchangeable(MtpHeads a, MtpHeads b) {
  const MtpDesign x = design_of(a), y = design_of(b);
  return x.chains == y.chains && x.reads_token == y.reads_token && x.attends == y.attends &&
         x.own_norm == y.own_norm && x.own_layers == y.own_layers;
}

}  // namespace mtpx
