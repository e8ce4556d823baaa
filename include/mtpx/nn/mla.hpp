#pragma once

#include <mtpx/nn/linear.hpp>
#include <mtpx/nn/rms_norm.hpp>
#include <mtpx/nn/yarn.hpp>
#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/latent_attention.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/rope.hpp>

namespace mtpx {

/// Sizes of multi-head latent attention, and the factor of its scores.
struct MlaOptions {
  Index hidden = 0;        ///< width of x and y
  Index heads = 0;         ///< H, of queries; keys share one rotated part
  Index q_lora_rank = 0;   ///< 0: queries straight from the hidden state
  Index kv_lora_rank = 0;  ///< width of c^KV, what the cache keeps beside k^R
  Index nope = 0;          ///< width of a head's query and key without position
  Index rope = 0;          ///< width of their rotated part
  Index v = 0;             ///< width of a head's value
  double scale = 0;        ///< of the scores, see attention_scale()
  Int8Run int8_run{};      ///< of the weights but kv_b_proj, which is read by heads and from both sides
};

/// Epsilon of the two latent norms: the published code's default, whatever the model's rms_norm_eps.
inline constexpr double latent_norm_eps = 1e-6;

/// cos and sin of positions 0 .. positions - 1 for the rotated part of heads, computed in double.
template <typename A, typename D>
[[gnu::cold]] RopeTable<A, D> make_rope_table(const D& device, Index positions, Index rope, double theta,
                                              const std::optional<RopeScaling>& scaling) {
  const std::vector<double> frequencies = rope_frequencies(rope, theta, scaling);
  const double magnitude = rope_magnitude(scaling);
  const auto table = [&](double (*function)(double)) {
    Tensor<A, D> all(device, {positions, rope / 2});
    all.assign_by([&](Index first, std::span<A> out) {
      for (A& value : out) {
        const Index position = first / (rope / 2), pair = first % (rope / 2);
        value = static_cast<A>(magnitude * function(static_cast<double>(position) *
                                                    frequencies[static_cast<std::size_t>(pair)]));
        ++first;
      }
    });
    return all;
  };
  return {table(&std::cos), table(&std::sin)};
}

/// Multi-head latent attention (DeepSeek-V3 sec. 2.1.1, Eq. 1-11).
///
///   c^Q = norm(W_DQ x),  [q^C | q^R] per head = W_UQ c^Q,  q^R rotated              (Eq. 6-9)
///   [c^KV | k^R] = W_DKV x,  c^KV normed,  k^R rotated, one for all heads           (Eq. 1, 3)
///   [k^C | v] per head = W_UKV norm(c^KV)                                           (Eq. 2, 5)
///   y = W_O [softmax((q^C k^C + q^R k^R) scale) v]                                  (Eq. 10-11)
///
/// The norms of the latents are named in sec. 4.2 only. Without q_lora_rank, q_proj stands for Eq. 6-7.
template <typename T, typename D>
struct Mla {
  MlaOptions options;  ///< sizes
  /// W_UQ alone, [H * (nope + rope), hidden]; or W_DQ, [q_lora_rank, hidden], and W_UQ, [.., q_lora_rank]
  Optional<Linear<T, D>> q_proj, q_a_proj, q_b_proj;
  Optional<RmsNorm<T, D>> q_a_layernorm;  ///< of c^Q; absent with q_proj
  Linear<T, D> kv_a_proj_with_mqa;        ///< W_DKV and W_KR, [kv_lora_rank + rope, hidden]
  RmsNorm<T, D> kv_a_layernorm;           ///< of c^KV
  Linear<T, D> kv_b_proj;                 ///< W_UK and W_UV per head, [H * (nope + v), kv_lora_rank]
  Linear<T, D> o_proj;                    ///< W_O, [hidden, H * v]

  Mla() = default;
  [[gnu::cold]] Mla(const D& device, const MlaOptions& o)
      : options(o),
        kv_a_proj_with_mqa(device, o.hidden, o.kv_lora_rank + o.rope, o.int8_run),
        kv_a_layernorm(device, o.kv_lora_rank, latent_norm_eps),
        kv_b_proj(device, o.kv_lora_rank, o.heads * (o.nope + o.v)),
        o_proj(device, o.heads * o.v, o.hidden, o.int8_run) {
    const Index q_width = o.heads * (o.nope + o.rope);
    if (o.q_lora_rank > 0) {
      q_a_proj.emplace(device, o.hidden, o.q_lora_rank, o.int8_run);
      q_a_layernorm.emplace(device, o.q_lora_rank, latent_norm_eps);
      q_b_proj.emplace(device, o.q_lora_rank, q_width, o.int8_run);
    } else {
      q_proj.emplace(device, o.hidden, q_width, o.int8_run);
    }
  }

  /// Whole sequences, for training and scoring.
  ///
  /// x: [B, T, hidden], normed   positions: [B, T], for the rotation   returns [B, T, hidden]
  /// window: [B, T] or undefined: how far back each row may look (see attention()).
  Var<T, D> operator()(const Var<T, D>& x, const RopeTable<acc_t<T>, D>& table,
                       const Tensor<std::int32_t, D>& positions,
                       const Tensor<std::int32_t, D>& window) const {
    const Parts parts = project(x, table, positions);
    const Shape shape = x.shape();
    const Var<T, D> o =
        attention(parts.q, kv_b_proj(parts.latent), parts.k_rope, head_shape(shape[0], shape[1]),
                  static_cast<acc_t<T>>(options.scale), window);
    return o_proj(o);
  }

  /// Rows of one or several sequences against their caches, for decoding.   x: [1, N, hidden], normed
  Var<T, D> decode(const Var<T, D>& x, const RopeTable<acc_t<T>, D>& table, const DecodeRows<D>& rows,
                   const LatentCache<T, D>& cache) const {
    const Parts parts = project(x, table, rows.positions);
    const AttentionShape shape = head_shape(1, rows.count());
    const auto scale = static_cast<acc_t<T>>(options.scale);
    if constexpr (reads_prompts<T, D>) {
      if (rows.prompt.sequence >= 0 && rows.count() > most_alike_rows<T, D>())
        return o_proj(prompt_attention<T, D>(parts.q, parts.latent, parts.k_rope, kv_b_proj.weight, shape,
                                             scale, rows, cache));
    }
    return o_proj(latent_attention<T, D>(parts.q, parts.latent, parts.k_rope, kv_b_proj.weight, shape, scale,
                                         rows, cache));
  }

  /// What decode() computes, and the norm before it, for a device that fuses them.
  DecodeAttention<T> decode_shape(const RmsNorm<T, D>& norm, const RopeTable<acc_t<T>, D>& table,
                                  const DecodeRows<D>& rows, const LatentCache<T, D>& cache) const {
    DecodeAttention<T> p;
    p.rows = rows.count();
    p.hidden = options.hidden;
    p.q_rank = options.q_lora_rank;
    p.latent = options.kv_lora_rank;
    p.heads = head_shape(1, rows.count());
    p.eps = norm.eps;
    p.latent_eps = kv_a_layernorm.eps;
    p.scale = static_cast<acc_t<T>>(options.scale);
    p.norm = norm.weight.data();
    p.q_a = (q_proj ? *q_proj : *q_a_proj).weight.data();
    if (!q_proj) {
      p.q_norm = q_a_layernorm->weight.data();
      p.q_b = q_b_proj->weight.data();
    }
    p.kv_a = kv_a_proj_with_mqa.weight.data();
    p.kv_norm = kv_a_layernorm.weight.data();
    p.kv_b = kv_b_proj.weight.data();
    p.o = o_proj.weight.data();
    p.cos = table.cos.data();
    p.sin = table.sin.data();
    p.sequences = rows.sequences.data();
    p.positions = rows.positions.data();
    p.places = rows.places().data();
    p.paths = rows.tree_paths();
    p.cache = cache.entries.data();
    p.capacity = cache.capacity();
    return p;
  }

  static void members(auto& self, auto&& visit) {
    visit("q_proj", self.q_proj);
    visit("q_a_proj", self.q_a_proj);
    visit("q_a_layernorm", self.q_a_layernorm);
    visit("q_b_proj", self.q_b_proj);
    visit("kv_a_proj_with_mqa", self.kv_a_proj_with_mqa);
    visit("kv_a_layernorm", self.kv_a_layernorm);
    visit("kv_b_proj", self.kv_b_proj);
    visit("o_proj", self.o_proj);
  }

 private:
  struct Parts {
    Var<T, D> q, latent, k_rope;
  };

  AttentionShape head_shape(Index batch, Index time) const {
    return {batch, time, options.heads, options.nope, options.rope, options.v};
  }

  Parts project(const Var<T, D>& x, const RopeTable<acc_t<T>, D>& table,
                const Tensor<std::int32_t, D>& positions) const {
    Var<T, D> q = q_proj ? (*q_proj)(x) : (*q_b_proj)((*q_a_layernorm)((*q_a_proj)(x)));
    const Var<T, D> kv = kv_a_proj_with_mqa(x);
    return {rope(std::move(q), options.heads, positions, table),
            kv_a_layernorm(narrow(kv, 0, options.kv_lora_rank)),
            rope(narrow(kv, options.kv_lora_rank, options.rope), 1, positions, table)};
  }
};

}  // namespace mtpx
