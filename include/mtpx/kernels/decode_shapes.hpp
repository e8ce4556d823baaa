#pragma once
// The halves of a block as one decoding pass runs them, for devices that fuse them. Plain numbers and
// pointers: every compiler sees this file.

#include "shapes.hpp"

namespace mtpx {

/// h = x + Mla(norm(x)) for a few rows against their caches (nn/mla.hpp). Matrices are [out, in].
template <typename T>
struct DecodeAttention {
  Index rows = 0;                     ///< of the pass, at most fused_rows
  Index hidden = 0;                   ///< width of x and h
  Index q_rank = 0;                   ///< 0: queries straight from the hidden state
  Index latent = 0;                   ///< width of what the cache keeps beside the rotated key
  AttentionShape heads{};             ///< heads, nope, rope and v
  acc_t<T> eps{};                     ///< of the norm before it
  acc_t<T> latent_eps{};              ///< of the norms of the latents
  acc_t<T> scale{};                   ///< of the scores
  const acc_t<T>* norm = nullptr;     ///< [hidden]
  const T* q_a = nullptr;             ///< [q_rank, hidden]; without q_rank [heads * (nope + rope), hidden]
  const acc_t<T>* q_norm = nullptr;   ///< [q_rank]
  const T* q_b = nullptr;             ///< [heads * (nope + rope), q_rank]
  const T* kv_a = nullptr;            ///< [latent + rope, hidden]
  const acc_t<T>* kv_norm = nullptr;  ///< [latent]
  const T* kv_b = nullptr;            ///< [heads * (nope + v), latent]
  const T* o = nullptr;               ///< [hidden, heads * v]
  const acc_t<T>* cos = nullptr;      ///< [positions, rope / 2]
  const acc_t<T>* sin = nullptr;      ///< the same
  const std::int32_t* sequences = nullptr;  ///< [rows]
  const std::int32_t* positions = nullptr;  ///< [rows]
  const std::int32_t* places = nullptr;     ///< [rows], of their entries
  TreePaths paths{};                        ///< of rows in trees
  T* cache = nullptr;                       ///< [sequences, capacity, latent + rope]
  Index capacity = 0;                       ///< positions of a sequence that fit
};

/// y = h + ffn(norm(h)) for a few rows: a dense network, or a mixture of experts with or without a shared
/// one.
template <typename T>
struct DecodeFeedForward {
  Index rows = 0;                    ///< of the pass, at most fused_rows
  Index hidden = 0;                  ///< width of h and y
  acc_t<T> eps{};                    ///< of the norm before it
  const acc_t<T>* norm = nullptr;    ///< [hidden]
  Routing routing{};                 ///< of the mixture; n_experts = 0: none
  Index inner = 0;                   ///< of one expert
  const acc_t<T>* router = nullptr;  ///< [n_experts, hidden]
  const acc_t<T>* bias = nullptr;    ///< [n_experts]
  const T* gate = nullptr;           ///< [n_experts, inner, hidden]
  const T* up = nullptr;             ///< [n_experts, inner, hidden]
  const T* down = nullptr;           ///< [n_experts, hidden, inner]
  Index shared_inner = 0;            ///< of the shared experts, or of the dense network; 0: none
  const T* shared_gate = nullptr;    ///< [shared_inner, hidden]
  const T* shared_up = nullptr;      ///< [shared_inner, hidden]
  const T* shared_down = nullptr;    ///< [hidden, shared_inner]
};

/// y = h + ffn(norm(h)) with h = x + Mla(norm(x)): a block.
template <typename T>
struct DecodeBlock {
  DecodeAttention<T> attention{};  ///< its first half
  DecodeFeedForward<T> ffn{};      ///< its second
};

/// y = w [norm(first) ; norm(second)] for a few rows: what a depth of DeepSeek-V3 reads (Eq. 21).
template <typename T>
struct DecodeInputs {
  Index rows = 0;                         ///< of the pass, at most fused_rows
  Index hidden = 0;                       ///< width of each of the two, and of y
  acc_t<T> first_eps{};                   ///< of the first's norm
  acc_t<T> second_eps{};                  ///< of the second's
  const acc_t<T>* first_norm = nullptr;   ///< [hidden], gain of the first's norm
  const acc_t<T>* second_norm = nullptr;  ///< [hidden], of the second's
  const T* w = nullptr;                   ///< [hidden, 2 * hidden]
};

/// Most rows of a fused pass.
inline constexpr Index fused_rows = 16;
/// Most rows that a GPU's products give the same bits whatever stands beside them.
inline constexpr Index alike_rows = 64;

/// Whether the fused kernels take these sizes: whole packs of eight numbers, rows that shared memory can
/// hold. How many rows there are does not matter, up to fused_rows: a row must take the same path in every
/// pass.
template <typename T>
bool decode_fits(const DecodeAttention<T>& p) {
  const AttentionShape& s = p.heads;
  return p.rows <= fused_rows && p.hidden % 8 == 0 && p.hidden <= 5120 && p.q_rank % 8 == 0 &&
         p.q_rank <= 5120 && p.latent % 8 == 0 && p.latent <= 512 && s.nope % 8 == 0 && s.rope % 8 == 0 &&
         s.v % 8 == 0 && (p.latent + s.rope) % 16 == 0 && s.rope <= 512;
}
/// The same for a feed-forward network, whose router, if any, takes sigmoids.
template <typename T>
bool decode_fits(const DecodeFeedForward<T>& p) {
  const Routing& r = p.routing;
  const bool routes = r.n_experts == 0 || (r.n_experts <= 256 && r.n_group <= 32 && r.top_k <= 32 &&
                                           r.scoring == ScoringFunc::sigmoid);
  return p.rows <= fused_rows && p.hidden % 8 == 0 && p.hidden <= 5120 && p.inner % 8 == 0 &&
         p.shared_inner % 8 == 0 && routes;
}
/// The same for what a depth reads.
template <typename T>
bool decode_fits(const DecodeInputs<T>& p) {
  return p.rows <= fused_rows && p.hidden % 8 == 0 && p.hidden <= 2560;
}
/// The same for a block.
template <typename T>
bool decode_fits(const DecodeBlock<T>& p) {
  return decode_fits(p.attention) && decode_fits(p.ffn);
}

}  // namespace mtpx
