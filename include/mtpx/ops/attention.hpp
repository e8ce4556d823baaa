#pragma once

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/softmax.hpp>

#include <limits>

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
      {{"q", q}, {"kv", kv}, {"k_rope", k_rope}}, tape);
  require(!positions.defined() || (positions.size() == s.batch * s.time && positions.contiguous()),
          "attention", "every row needs one position", {{"q", q}, {"positions", positions}}, tape);
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

/// [B, T, T]: 1 where query i sees key j. Made on the host.
template <typename D>
Tensor<std::int32_t, D> seen_keys(const D& device, Index batch, Index time,
                                  const Tensor<std::int32_t, D>& positions = {}) {
  const auto at = positions.defined() ? positions.to_host() : std::vector<std::int32_t>();
  std::vector<std::int32_t> seen;
  for (Index row = 0; row < batch * time; ++row) {
    const Index i = row % time, first = at.empty() ? 0 : i - at[static_cast<std::size_t>(row)];
    for (Index j = 0; j < time; ++j) seen.push_back(j >= first && j <= i ? 1 : 0);
  }
  return Tensor<std::int32_t, D>::from(device, {batch, time, time}, seen);
}

/// The same as attention() out of primitives, head by head.
template <typename T, typename D>
Var<T, D> attention_composed(const Var<T, D>& q, const Var<T, D>& kv, const Var<T, D>& k_rope,
                             const AttentionShape& s, acc_t<T> scale,
                             const Tensor<std::int32_t, D>& positions = {}) {
  const auto seen = seen_keys(q.device(), s.batch, s.time, positions);
  Var<T, D> o;
  for (Index h = 0; h < s.heads; ++h) {
    const auto q_h = narrow(q, h * (s.nope + s.rope), s.nope + s.rope);
    const auto k_nope = narrow(kv, h * (s.nope + s.v), s.nope),
               v = narrow(kv, h * (s.nope + s.v) + s.nope, s.v);
    const auto score = matmul(q_h, concat(k_nope, k_rope), {.b = true}) * scale;
    const auto p = softmax(where(seen, score, -std::numeric_limits<double>::infinity()));
    const auto o_h = matmul(p, v);
    o = h == 0 ? o_h : concat(o, o_h);
  }
  return o;
}

}  // namespace mtpx
