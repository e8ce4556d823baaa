#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// Causal attention over the head layout of multi-head latent attention (DeepSeek-V3 Eq. 9-11): keys are
/// [k_nope of the head | k_rope shared by all heads], so no key is ever copied per head.
///
///   score_ij = scale * (q_nope,i . k_nope,j + q_rope,i . k_rope,j),   o_i = sum_j softmax_j(score_ij) v_j,
///   j <= i
///
/// q: [B, T, H * (nope + rope)]   kv: [B, T, H * (nope + v)], per head [k_nope | v]   k_rope: [B, T, rope]
/// positions: [B, T] or undefined. Query i sees keys j with i - position_i <= j <= i: where positions restart
/// at a document's first token, documents do not see each other. Undefined: all j <= i.
/// returns [B, T, H * v]
/// Saves for backward: q, kv, k_rope, o, and one number per row and head (lse); never a [T, T] matrix.
/// Throws ShapeError.
template <typename T, typename D>
Var<T, D> attention(const Var<T, D>& q, const Var<T, D>& kv, const Var<T, D>& k_rope,
                    const AttentionShape& shape, acc_t<T> scale,
                    const Tensor<std::int32_t, D>& positions = {}) {
  Tape& tape = tape_of("attention", q, kv, k_rope);
  const AttentionShape s = shape;
  const auto is = [&](const Var<T, D>& x, Index width) {
    return x.shape() == Shape{s.batch, s.time, width} && x.value().contiguous();
  };
  require(
      is(q, s.heads * (s.nope + s.rope)) && is(kv, s.heads * (s.nope + s.v)) && is(k_rope, s.rope),
      "attention",
      [&] {
        return cat("q, kv and k_rope must be dense [", s.batch, ", ", s.time, ", *] of ", s.heads,
                   " heads with nope ", s.nope, ", rope ", s.rope, ", v ", s.v);
      },
      {{"q", q.shape()}, {"kv", kv.shape()}, {"k_rope", k_rope.shape()}}, tape);
  require(!positions.defined() || (positions.size() == s.batch * s.time && positions.contiguous()),
          "attention", "every row needs one position", {{"q", q.shape()}, {"positions", positions.shape()}},
          tape);
  Tensor<T, D> o(q.device(), {s.batch, s.time, s.heads * s.v});
  Tensor<acc_t<T>, D> lse(q.device(), {s.batch, s.heads, s.time});
  attention_forward(q.device(), s, q.data(), kv.data(), k_rope.data(), positions.data_or_null(), scale,
                    o.data(), lse.data());
  return tape.record("attention", o, [q, kv, k_rope, s, scale, positions, o, lse](const Tensor<T, D>& d_o) {
    const Sink<T> dq = q.sink();  // before kv's: the two may be the same Var
    const Sink<T> dkv = kv.sink();
    attention_backward(q.device(), s, q.data(), kv.data(), k_rope.data(), positions.data_or_null(), scale,
                       o.data(), lse.data(), d_o.data(), dq, dkv, k_rope.sink());
  });
}

}  // namespace mtpx
