#pragma once

#include <mtpx/ops/decode_block.hpp>

namespace mtpx {

/// The keys and values of one layer, as multi-head latent attention keeps them: per token the normed latent
/// and the rotated key, latent + rope numbers, whatever the number of heads.
template <typename T, typename D>
struct LatentCache {
  Tensor<T, D> entries;  ///< [sequences, capacity, latent + rope]

  /// Positions of a sequence that fit.
  Index capacity() const { return entries.shape()[1]; }
};

/// Rows that stand next to each other in one sequence, in their order.
struct PromptRows {
  Index sequence = -1;  ///< whose they are; -1: any rows
  Index before = 0;     ///< how many of its entries stand before the first
};

/// Where the rows of a decoding pass belong.
template <typename D>
struct DecodeRows {
  Tensor<std::int32_t, D> sequences;  ///< [N]: index into the cache
  Tensor<std::int32_t, D> positions;  ///< [N]: the row's entry; it attends to entries 0 .. position
  /// [N]: where that entry stands, of rows in trees; undefined: at its position
  Tensor<std::int32_t, D> own_places{};
  Tensor<std::int32_t, D> paths{};  ///< [N, 1 + depth], see TreePaths; undefined: no row is in a tree
  PromptRows prompt{};              ///< what the host knows of them

  /// N, rows of the pass.
  Index count() const { return positions.size(); }
  /// [N]: where the rows' own entries stand.
  const Tensor<std::int32_t, D>& places() const { return own_places.defined() ? own_places : positions; }
  /// What else a row in a tree attends to.
  TreePaths tree_paths() const {
    return paths.defined() ? TreePaths{paths.data(), paths.shape().width() - 1} : TreePaths{};
  }
};

/// Attention in the latent space, for decoding (DeepSeek-V2 sec. 2.1.2, "absorb"; equal to attention() up to
/// rounding): appends the rows to the cache, then lets each attend to its sequence up to itself.
///
///   score_j = scale * ((q_nope W_UK) . c_j + q_rope . k_rope,j),   o = W_UV sum_j softmax_j(score_j) c_j
///
/// q: [1, N, H * (nope + rope)], rotated   latent: [1, N, latent], normed   k_rope: [1, N, rope], rotated
/// w: kv_b_proj, [H * (nope + v), latent]   returns [1, N, H * v]
/// Rows in trees attend to their own branch alone, entry by entry in the order of positions: so they have the
/// bits that they have in a sequence without branches.
/// A row's bits do not depend on the rows beside it. Inference only.   Throws ShapeError, Error on a
/// recording tape.
template <typename T, typename D>
Var<T, D> latent_attention(const Var<T, D>& q, const Var<T, D>& latent, const Var<T, D>& k_rope,
                           const Weight<T, D>& w, const AttentionShape& shape, acc_t<T> scale,
                           const DecodeRows<D>& rows, const LatentCache<T, D>& cache) {
  Tape& tape = tape_of("latent_attention", q, latent, k_rope, w);
  if (tape.recording()) throw Error("[latent_attention] has no backward; use a tape in inference mode");
  const Index width = latent.shape().width();
  const LatentShape s{q.rows().count, shape.heads, width, shape.rope, cache.capacity()};
  require(rows.count() == s.rows && latent.rows().count == s.rows && k_rope.rows().count == s.rows &&
              latent.value().contiguous() && k_rope.value().contiguous() && q.value().contiguous(),
          "latent_attention", "q, latent and k_rope need one dense row per decoded token",
          {{"q", q}, {"latent", latent}, {"k_rope", k_rope}, {"rows", Shape{rows.count()}}}, tape);
  require(w.shape() == Shape{shape.heads * (shape.nope + shape.v), width} &&
              cache.entries.shape().width() == width + shape.rope,
          "latent_attention", "w is [H * (nope + v), latent], the cache [sequences, capacity, latent + rope]",
          {{"w", w}, {"cache", cache.entries}, {"latent", latent}}, tape);
  const D& device = q.device();
  using A = acc_t<T>;
  Tensor<A, D> absorbed(device, {s.rows, shape.heads, width + shape.rope});
  Tensor<A, D> attended(device, {s.rows, shape.heads, width});
  Tensor<T, D> o(device, q.shape().with_width(shape.heads * shape.v));
  append_latent(device, s, rows.sequences.data(), rows.places().data(), latent.data(), k_rope.data(),
                cache.entries.data());
  absorb_query(device, shape, width, s.rows, q.data(), w.data(), absorbed.data());
  latent_attention(device, s, rows.sequences.data(), rows.positions.data(), rows.tree_paths(),
                   absorbed.data(), cache.entries.data(), scale, attended.data());
  expand_value(device, shape, width, s.rows, attended.data(), w.data(), o.data());
  return tape.constant(o);
}

/// Whether D reads prompts by prompt_attention(): where a row of a long pass has bits of its own anyway.
template <typename T, typename D>
inline constexpr bool reads_prompts = fuses_decoding<T, D>;

/// The same of a prompt's rows (DecodeRows::prompt), which attend as training does: to keys and values per
/// head, of their own latents or, where entries stand before them, of what the cache holds. Equal to
/// latent_attention() up to rounding.
///
/// q: [1, N, H * (nope + rope)], rotated   latent: [1, N, latent], normed   k_rope: [1, N, rope], rotated
/// w: kv_b_proj, [H * (nope + v), latent]   returns [1, N, H * v]; appends to the cache
/// Holds keys and values of all before + N entries meanwhile, [before + N, H * (nope + v)]. Inference only.
/// Throws ShapeError, Error on a recording tape.
template <typename T, typename D>
Var<T, D> prompt_attention(const Var<T, D>& q, const Var<T, D>& latent, const Var<T, D>& k_rope,
                           const Weight<T, D>& w, const AttentionShape& shape, acc_t<T> scale,
                           const DecodeRows<D>& rows, const LatentCache<T, D>& cache) {
  Tape& tape = tape_of("prompt_attention", q, latent, k_rope, w);
  if (tape.recording()) throw Error("[prompt_attention] has no backward; use a tape in inference mode");
  const PromptRows& of = rows.prompt;
  const Index width = latent.shape().width(), both = shape.heads * (shape.nope + shape.v),
              count = rows.count();
  const LatentShape s{count, shape.heads, width, shape.rope, cache.capacity()};
  require(of.sequence >= 0 && of.before >= 0 && of.before + count <= s.capacity && q.rows().count == count &&
              latent.rows().count == count && k_rope.rows().count == count && latent.value().contiguous() &&
              k_rope.value().contiguous() && q.value().contiguous(),
          "prompt_attention", "q, latent and k_rope need one dense row per token of a prompt that fits",
          {{"q", q}, {"latent", latent}, {"k_rope", k_rope}, {"rows", Shape{count}}}, tape);
  require(w.shape() == Shape{both, width} && cache.entries.shape().width() == width + shape.rope,
          "prompt_attention", "w is [H * (nope + v), latent], the cache [sequences, capacity, latent + rope]",
          {{"w", w}, {"cache", cache.entries}, {"latent", latent}}, tape);
  const D& device = q.device();
  append_latent(device, s, rows.sequences.data(), rows.places().data(), latent.data(), k_rope.data(),
                cache.entries.data());
  AttentionShape all = shape;
  all.batch = 1;
  all.time = of.before + count;
  all.before = of.before;
  const Index entry = width + shape.rope;
  const T* const entries = cache.entries.data() + of.sequence * s.capacity * entry;  // [time, entry]
  const bool fresh = of.before == 0;
  Tensor<T, D> kv(device, {all.time, both});
  linear_forward(device, Rows{all.time, width, fresh ? width : entry}, fresh ? latent.data() : entries, both,
                 w.data(), kv.data());
  Tensor<T, D> rotated;
  if (!fresh) {
    rotated = Tensor<T, D>(device, {all.time, shape.rope});
    copy_rows(device, all.time, shape.rope, entries + width, entry, rotated.data(), shape.rope, false);
  }
  Tensor<T, D> o(device, q.shape().with_width(shape.heads * shape.v));
  Tensor<acc_t<T>, D> lse(device, {shape.heads, count});
  attention_forward(device, all, q.data(), static_cast<const T*>(kv.data()),
                    fresh ? k_rope.data() : static_cast<const T*>(rotated.data()),
                    static_cast<const std::int32_t*>(nullptr), scale, o.data(), lse.data());
  return tape.constant(o);
}

}  // namespace mtpx
