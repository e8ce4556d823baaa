#pragma once

#include <mtpx/nn/mla.hpp>
#include <mtpx/nn/moe.hpp>
#include <mtpx/ops/decode_block.hpp>

namespace mtpx {

/// What makes a block.
struct BlockOptions {
  MlaOptions attention;           ///< sizes of its heads
  std::optional<MoeOptions> moe;  ///< absent: a dense feed-forward network
  Index intermediate = 0;         ///< inner width of the dense one
  double eps = 1e-6;              ///< of its two norms
};

/// Balance losses of the layers that have one, [1] each.
template <typename T, typename D>
using BalanceLosses = std::vector<Var<acc_t<T>, D>>;

/// One transformer layer, pre-norm (DeepSeek-V3 fig. 2):
///
///   h = x + attention(norm(x)),   y = h + ffn(norm(h)),   ffn dense or a mixture of experts
template <typename T, typename D>
struct Block {
  RmsNorm<T, D> input_layernorm;           ///< before the attention
  Mla<T, D> self_attn;                     ///< multi-head latent attention
  RmsNorm<T, D> post_attention_layernorm;  ///< before the feed-forward network
  Optional<SwiGlu<T, D>> mlp;              ///< the dense feed-forward network, or absent
  Optional<Moe<T, D>> moe;                 ///< the mixture of experts, or absent; files call it mlp, too

  using Output = typename Moe<T, D>::Output;  ///< of a layer: its state, and a balance loss

  Block() = default;
  [[gnu::cold]] Block(const D& device, const BlockOptions& o)
      : input_layernorm(device, o.attention.hidden, o.eps),
        self_attn(device, o.attention),
        post_attention_layernorm(device, o.attention.hidden, o.eps) {
    if (o.moe) {
      moe.emplace(device, *o.moe);
    } else {
      mlp.emplace(device, o.attention.hidden, o.intermediate, o.attention.int8_run);
    }
  }

  /// x: [B, T, hidden]   attend: function of the normed x, [B, T, hidden] -> [B, T, hidden], that calls
  /// self_attn for whole sequences or for decoding.
  template <typename Attend>
  Output operator()(const Var<T, D>& x, const Attend& attend) const {
    Tape& tape = tape_of("block", x);
    Var<T, D> attended;
    {
      const Tape::Scope scope(tape, "self_attn");
      attended = attend(self_attn, input_layernorm(x));
    }
    const auto [h, normed] = post_attention_layernorm.add(x, attended);
    const Tape::Scope scope(tape, "mlp");
    Output out = moe ? (*moe)(normed) : Output{(*mlp)(normed), {}};
    out.y = add(h, out.y);
    return out;
  }

  /// Rows of one or several sequences against their caches, for decoding: fused where the device can and the
  /// sizes let it, else op by op.   x: [1, N, hidden]   returns [1, N, hidden]; appends to the cache
  Var<T, D> decode(const Var<T, D>& x, const RopeTable<acc_t<T>, D>& table, const DecodeRows<D>& rows,
                   const LatentCache<T, D>& cache) const {
    if constexpr (fuses_decoding<T, D>) {
      const DecodeBlock<T> one[]{decode_pass(table, rows, cache)};
      if (decode_fits(one[0])) return decode_blocks<T, D>(x, one);
    }
    return (*this)(x, [&](const Mla<T, D>& mla,
                          const Var<T, D>& normed) { return mla.decode(normed, table, rows, cache); })
        .y;
  }

  /// What decode() computes, for a device that fuses it.
  DecodeBlock<T> decode_pass(const RopeTable<acc_t<T>, D>& table, const DecodeRows<D>& rows,
                             const LatentCache<T, D>& cache) const {
    DecodeBlock<T> p{self_attn.decode_shape(input_layernorm, table, rows, cache), {}};
    p.ffn.rows = p.attention.rows;
    p.ffn.hidden = p.attention.hidden;
    p.ffn.eps = post_attention_layernorm.eps;
    p.ffn.norm = post_attention_layernorm.weight.data();
    moe ? moe->describe(p.ffn) : mlp->describe(p.ffn);
    return p;
  }

  static void members(auto& self, auto&& visit) {
    visit("input_layernorm", self.input_layernorm);
    visit("self_attn", self.self_attn);
    visit("post_attention_layernorm", self.post_attention_layernorm);
    visit("mlp", self.mlp);
    visit("mlp", self.moe);
  }
};

}  // namespace mtpx
