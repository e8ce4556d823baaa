#pragma once

#include "views.hpp"

namespace mtpx {

// Decoding attends to the latents c themselves (DeepSeek-V2 sec. 2.1.2, "absorb"): with k = W_UK c and v =
// W_UV c,
//   q . k = (W_UK^T q) . c,   sum_j p_j v_j = W_UV sum_j p_j c_j

/// [q W_UK | q_rope], head by head.
///   q: [rows, H (nope + rope)]   w: [H (nope + v), latent], per head [W_UK; W_UV]   absorbed: [rows, H
///   (latent + rope)]
template <typename T>
void absorb_query(const Reference&, AttentionShape s, Index latent, Index rows, const T* q, const T* w,
                  T* absorbed) {
  const auto Q = eigen::matrix(q, rows, s.heads * (s.nope + s.rope));
  const auto W = eigen::matrix(w, s.heads * (s.nope + s.v), latent);
  auto A = eigen::matrix(absorbed, rows, s.heads * (latent + s.rope));
  for (Index h = 0; h < s.heads; ++h) {
    const auto of_head = Q.middleCols(h * (s.nope + s.rope), s.nope + s.rope);
    const eigen::Matrix<T> q_nope = of_head.leftCols(s.nope), W_UK = W.middleRows(h * (s.nope + s.v), s.nope);
    const eigen::Matrix<T> in_latent = q_nope * W_UK;
    A.middleCols(h * (latent + s.rope), latent + s.rope) << in_latent, of_head.rightCols(s.rope);
  }
}

/// Row r becomes entry positions[r] of sequence sequences[r].
///   latent: [rows, latent]   k_rope: [rows, rope]   cache: [sequences, capacity, latent + rope]
template <typename T>
void append_latent(const Reference&, LatentShape s, const std::int32_t* sequences,
                   const std::int32_t* positions, const T* latent, const T* k_rope, T* cache) {
  for (Index r = 0; r < s.rows; ++r) {
    T* const entry = cache + (sequences[r] * s.capacity + positions[r]) * (s.latent + s.rope);
    eigen::row(entry, s.latent) = eigen::row(latent + r * s.latent, s.latent);
    eigen::row(entry + s.latent, s.rope) = eigen::row(k_rope + r * s.rope, s.rope);
  }
}

/// out = softmax(scale q [c | k_rope]^T) c, for all heads of a row over entries 0 .. its position, in a tree
/// those of its branch.
///   q: [rows, H (latent + rope)]   cache: [sequences, capacity, latent + rope]   out: [rows, H latent]
template <typename T>
void latent_attention(const Reference&, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const TreePaths& paths, const T* q, const T* cache,
                      T scale, T* out) {
  const Index width = s.latent + s.rope;
  for (Index r = 0; r < s.rows; ++r) {
    const eigen::Matrix<T> Q = eigen::matrix(q + r * s.heads * width, s.heads, width);
    const auto sequence = eigen::matrix(cache + sequences[r] * s.capacity * width, s.capacity, width);
    eigen::Matrix<T> K(positions[r] + 1, width);
    for (Index j = 0; j <= positions[r]; ++j) K.row(j) = sequence.row(TreePaths::at(paths.of(r), j));
    eigen::Matrix<T> P = Q * K.transpose();
    eigen::Array<T> scores = scale * P;
    eigen::softmax(scores);
    P = scores;
    const eigen::Matrix<T> C = K.leftCols(s.latent);
    eigen::put(out + r * s.heads * s.latent, P * C);
  }
}

/// o = W_UV (attended latent), head by head.   attended: [rows, H latent]   o: [rows, H v]
template <typename T>
void expand_value(const Reference&, AttentionShape s, Index latent, Index rows, const T* attended, const T* w,
                  T* o) {
  const auto L = eigen::matrix(attended, rows, s.heads * latent);
  const auto W = eigen::matrix(w, s.heads * (s.nope + s.v), latent);
  auto O = eigen::matrix(o, rows, s.heads * s.v);
  for (Index h = 0; h < s.heads; ++h) {
    const eigen::Matrix<T> of_head = L.middleCols(h * latent, latent);
    const eigen::Matrix<T> W_UV = W.middleRows(h * (s.nope + s.v) + s.nope, s.v);
    const eigen::Matrix<T> v = of_head * W_UV.transpose();
    O.middleCols(h * s.v, s.v) = v;
  }
}

}  // namespace mtpx
