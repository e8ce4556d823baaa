#pragma once

#include <mtpx/mtp/design.hpp>
#include <mtpx/nn/block.hpp>

namespace mtpx {

/// A hidden state as the next depth and as the output head read it.
template <typename T, typename D>
struct Hidden {
  Var<T, D> carried;  ///< what the next depth reads: after the norm by default, else before it
  Var<T, D> normed;   ///< what the output head reads
};

/// What depths share with the main model, parameters and gradients: the embedding that they read (DeepSeek-V3
/// Eq. 21) and the final norm, for depths that have none of their own; the output head is the caller's.
/// Constants where depths are detached.
template <typename T, typename D>
struct MtpShared {
  Weight<T, D> embed_tokens;  ///< [vocab, hidden]
  Weight<acc_t<T>, D> norm;   ///< [hidden], the final norm's gain
  acc_t<T> eps{};             ///< of that norm
};

/// How a depth that is told a token reads it (DeepSeek-V3 Eq. 21; this order is that of the published
/// weights).
///
///   h'_i = M [norm(Emb(t_{i+k})) ; norm(h_i)]
template <typename T, typename D>
struct MtpInput {
  RmsNorm<T, D> enorm, hnorm;                     ///< of the embedding, of the hidden state
  Linear<T, D> eh_proj;                           ///< [hidden, 2 * hidden]
  MtpConcat order = MtpConcat::embedding_hidden;  ///< which comes first in eh_proj

  MtpInput() = default;
  MtpInput(const D& device, Index hidden, double eps, MtpConcat concat_order, const Int8Run& int8_run = {})
      : enorm(device, hidden, eps),
        hnorm(device, hidden, eps),
        eh_proj(device, 2 * hidden, hidden, int8_run),
        order(concat_order) {}

  /// h, e: [B, R, hidden], states and embeddings   returns [B, R, hidden]
  Var<T, D> operator()(const Var<T, D>& h, const Var<T, D>& e) const {
    const Var<T, D> from_token = enorm(e);
    const Var<T, D> from_state = hnorm(h);
    const Var<T, D> joined = order == MtpConcat::embedding_hidden ? concat(from_token, from_state)
                                                                  : concat(from_state, from_token);
    return eh_proj(joined);
  }
  /// The same, in one launch where a device fuses that for the few rows of a decoding pass.
  Var<T, D> read(const Var<T, D>& h, const Var<T, D>& e) const {
    if constexpr (fuses_decoding<T, D>) {
      const bool token_first = order == MtpConcat::embedding_hidden;
      const RmsNorm<T, D>&a = token_first ? enorm : hnorm, &b = token_first ? hnorm : enorm;
      const DecodeInputs<T> p{h.rows().count,  h.shape().width(),    a.eps, b.eps, a.weight.data(),
                              b.weight.data(), eh_proj.weight.data()};
      const bool dense = h.value().contiguous() && e.value().contiguous();
      if (dense && !h.tape()->recording() && decode_fits(p))
        return token_first ? decode_inputs(e, h, p) : decode_inputs(h, e, p);
    }
    return (*this)(h, e);
  }

  static void members(auto& self, auto&& visit) {
    visit("enorm", self.enorm);
    visit("hnorm", self.hnorm);
    visit("eh_proj", self.eh_proj);
  }
};

/// How what a depth says depends on the token before, whatever state it comes from: a bias of its logits that
/// is a matrix [vocab, vocab] of rank r, through the output head W,
///
///   logits_i = W (normed_i + P E(t_{i+k})) = W normed_i + (W P) E(t_{i+k})
///
/// a first-order Markov chain beside the heads. One pass gives the states of all heads; their drafts are then
/// picked one after the other, each given the draft before it.
template <typename T, typename D>
struct MtpMarkov {
  Parameter<T, D> embed;  ///< E, [vocab, r]
  Linear<T, D> proj;      ///< P, [hidden, r]

  MtpMarkov() = default;
  MtpMarkov(const D& device, Index vocab, Index hidden, Index rank)
      : embed(device, {vocab, rank}), proj(device, rank, hidden) {}

  static void members(auto& self, auto&& visit) {
    visit("embed.weight", self.embed);
    visit("proj", self.proj);
  }
};

/// What one depth has of its own. Depth k (from 1) turns the state h_i that it reads, of depth k - 1 or of
/// the trunk, into the state from which the shared head predicts t_{i+k+1}.
///
///   h' = input(h, Emb(t_{i+k})), or h where no token is read          (DeepSeek-V3 Eq. 21)
///   h^k = block(h'), or W_k h' where depths do not attend             (Eq. 22)
///   normed = norm(h^k), its own or the main model's                   (what Eq. 23 reads), and the bias of
///                                                                     MtpMarkov, where there is one
///
/// With all of its own it is DeepSeek-V3's module (sec. 2.2): depths see each other's states, so the causal
/// chain is complete. With a block or a matrix alone it is a head of Gloeckle et al. 2024 (arXiv 2404.19737,
/// sec. 2), which is given no later token and no other head's state; DeepSeek-V3's report calls those
/// "independent output heads".
template <typename T, typename D>
struct MtpModule {
  Optional<MtpInput<T, D>> input;            ///< of designs that read a token
  Optional<Block<T, D>> block;               ///< of designs that attend
  Optional<Linear<T, D>> linear;             ///< of others: [hidden, hidden]
  Optional<RmsNorm<T, D>> norm;              ///< of designs with one of their own; shared_head.norm in files
  Optional<Parameter<T, D>> embed_tokens;    ///< [vocab, hidden], where it is not the main model's
  Optional<Linear<T, D>> head;               ///< [vocab, hidden], the same; shared_head.head in files
  Optional<MtpMarkov<T, D>> markov;          ///< of designs with a bias from the token before
  MtpHidden carries = MtpHidden::post_norm;  ///< what the next depth reads

  /// What a call gives.
  struct Output {
    Hidden<T, D> hidden;       ///< [B, R, hidden]
    Var<acc_t<T>, D> balance;  ///< [1], of a block with experts; else undefined
  };

  MtpModule() = default;
  [[gnu::cold]] MtpModule(const D& device, const BlockOptions& o, const MtpDesign& design, MtpConcat order,
                          MtpHidden hidden)
      : carries(hidden) {
    const Index width = o.attention.hidden;
    if (design.reads_token) input.emplace(device, width, o.eps, order, o.attention.int8_run);
    if (design.attends) {
      block.emplace(device, o);
    } else {
      linear.emplace(device, width, width, o.attention.int8_run);
    }
    if (design.own_norm) norm.emplace(device, width, o.eps);
  }

  /// h: [B, R, hidden], the states that it reads   e: [B, R, hidden], embeddings of the tokens k ahead, or
  /// undefined where none are read   m: [B, R, r], of the same tokens by MtpMarkov::embed, or undefined
  /// run: Block's call, block(x) or a checkpoint of it
  /// returns [B, R, hidden] states
  template <typename Run>
  Output operator()(const Var<T, D>& h, const Var<T, D>& e, const Var<T, D>& m, const MtpShared<T, D>& shared,
                    const Run& run) const {
    const Var<T, D> x = input ? input->read(h, e) : h;
    const typename Block<T, D>::Output out =
        block ? run(*block, x) : typename Block<T, D>::Output{(*linear)(x), {}};
    const Var<T, D> normed = norm ? (*norm)(out.y) : rms_norm<T, D>(out.y, shared.norm, shared.eps);
    const Var<T, D> carried = carries == MtpHidden::post_norm ? normed : out.y;
    if (!markov) return {{carried, normed}, out.balance};
    const Var<T, D> bias = markov->proj(m);
    return {{carried, add(normed, bias)}, out.balance};
  }

  static void members(auto& self, auto&& visit) {
    visit("embed_tokens.weight", self.embed_tokens);
    visit("", self.input);
    visit("", self.block);
    visit("linear", self.linear);
    visit("shared_head.norm", self.norm);
    visit("shared_head.head", self.head);
    visit("markov", self.markov);
  }
};

}  // namespace mtpx
