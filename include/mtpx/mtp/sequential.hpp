#pragma once

#include <mtpx/model/config.hpp>
#include <mtpx/nn/block.hpp>

namespace mtpx {

/// A hidden state as the next depth and as the output head read it.
template <typename T, typename D>
struct Hidden {
  Var<T, D> carried;  ///< what the next depth's hnorm reads: after the norm by default, else before it
  Var<T, D> normed;   ///< what the output head reads
};

/// One sequential multi-token-prediction module (DeepSeek-V3 sec. 2.2, Eq. 21-23). Module k (from 1) turns
/// the hidden state of depth k - 1 at position i and the embedding of token t_{i+k} into the hidden state
/// from which the shared head predicts t_{i+k+1}. Depths see each other's states, so the causal chain is
/// complete.
///
///   h'_i = M [norm(Emb(t_{i+k})) ; norm(h^{k-1}_i)]    (Eq. 21; this order is that of the published weights)
///   h^k  = block(h'),   normed = norm(h^k)             (Eq. 22)
///
/// Embedding and output head are the main model's: parameters and gradients (Eq. 23).
template <typename T, typename D>
struct MtpModule {
  RmsNorm<T, D> enorm, hnorm;  ///< of the embedding, of the hidden state
  Linear<T, D> eh_proj;        ///< [hidden, 2 * hidden]
  Block<T, D> block;
  RmsNorm<T, D> norm;  ///< shared_head.norm in model files
  MtpConcat order = MtpConcat::embedding_hidden;
  MtpHidden carries = MtpHidden::post_norm;

  struct Output {
    Hidden<T, D> hidden;
    Var<acc_t<T>, D> balance;
  };

  MtpModule() = default;
  MtpModule(const D& device, const BlockOptions& o, MtpConcat concat_order, MtpHidden hidden)
      : enorm(device, o.attention.hidden, o.eps),
        hnorm(device, o.attention.hidden, o.eps),
        eh_proj(device, 2 * o.attention.hidden, o.attention.hidden),
        block(device, o),
        norm(device, o.attention.hidden, o.eps),
        order(concat_order),
        carries(hidden) {}

  /// h: [B, R, hidden], rows 1 .. R of the previous depth's carried state   e: [B, R, hidden], embeddings of
  /// the tokens k ahead   run: Block's call, block(x) or a checkpoint of it   returns [B, R, hidden] states
  template <typename Run>
  Output operator()(const Var<T, D>& h, const Var<T, D>& e, const Run& run) const {
    const Var<T, D> from_token = enorm(e);
    const Var<T, D> from_state = hnorm(h);
    const Var<T, D> joined = order == MtpConcat::embedding_hidden ? concat(from_token, from_state)
                                                                  : concat(from_state, from_token);
    const typename Block<T, D>::Output out = run(block, eh_proj(joined));
    const Var<T, D> normed = norm(out.y);
    return {{carries == MtpHidden::post_norm ? normed : out.y, normed}, out.balance};
  }

  static void members(auto& self, auto&& visit) {
    visit("enorm", self.enorm);
    visit("hnorm", self.hnorm);
    visit("eh_proj", self.eh_proj);
    visit("", self.block);
    visit("shared_head.norm", self.norm);
  }
};

}  // namespace mtpx
