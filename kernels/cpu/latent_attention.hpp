#pragma once

#include "gemm.hpp"

#include "../shapes.hpp"

namespace mtpx {

// Decoding attends to the latent itself (DeepSeek-V2 sec. 2.1.2, "absorb"): with the rows of W_UKV of head h
// split into W_UK [nope, latent] and W_UV [v, latent],
//   score = (q_nope . W_UK c + q_rope . k_rope) * scale = ((q_nope W_UK) . c + q_rope . k_rope) * scale
//   out   = W_UV (sum_j p_j c_j)
// so the cache holds c and k_rope only, and no key or value is ever expanded.

/// q [rows, heads * (nope + rope)] -> absorbed [rows, heads * (latent + rope)] = [q_nope W_UK | q_rope] per
/// head. w: kv_b_proj [heads * (nope + v), latent]. Of `s` only the sizes of a head are used.
template <typename T>
void absorb_query(const Cpu& cpu, AttentionShape s, Index latent, Index rows, const T* q, const T* w,
                  acc_t<T>* absorbed) {
  using A = acc_t<T>;
  const Index q_stride = s.heads * (s.nope + s.rope);
  const Index out_stride = s.heads * (latent + s.rope);
  std::vector<cpu::Product<T, T, A>> products;
  for (Index h = 0; h < s.heads; ++h) {
    products.push_back({rows, latent, s.nope, cpu::row_major(q + h * (s.nope + s.rope), q_stride),
                        cpu::row_major(w + h * (s.nope + s.v) * latent, latent),
                        absorbed + h * (latent + s.rope), out_stride});
  }
  cpu::multiply(cpu, std::span<const cpu::Product<T, T, A>>(products));
  for (Index r = 0; r < rows; ++r) {
    for (Index h = 0; h < s.heads; ++h) {
      const T* from = q + r * q_stride + h * (s.nope + s.rope) + s.nope;   // [rope]
      A* to = absorbed + r * out_stride + h * (latent + s.rope) + latent;  // [rope]
      for (Index c = 0; c < s.rope; ++c) to[c] = static_cast<A>(from[c]);
    }
  }
}

/// Writes row r's latent and rotated key into entry positions[r] of sequence sequences[r].
///   latent: [rows, latent] dense   k_rope: [rows, rope] dense   cache: [sequences, capacity, latent + rope]
template <typename T>
void append_latent(const Cpu&, LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,
                   const T* latent, const T* k_rope, T* cache) {
  for (Index r = 0; r < s.rows; ++r) {
    T* entry = cache + (sequences[r] * s.capacity + positions[r]) * (s.latent + s.rope);  // [latent | rope]
    std::copy_n(latent + r * s.latent, s.latent, entry);
    std::copy_n(k_rope + r * s.rope, s.rope, entry + s.latent);
  }
}

/// One query row against entries 0 .. positions[row] of its sequence, in tiles with a running maximum.
///   q: [rows, heads * (latent + rope)]   cache: [sequences, capacity, latent + rope]
///   out: [rows, heads * latent] = sum_j p_j c_j
/// Rows do not see each other, so a row's bits are the same alone or beside others.
template <typename T>
void latent_attention(const Cpu& cpu, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const acc_t<T>* q, const T* cache, acc_t<T> scale,
                      acc_t<T>* out) {
  using A = acc_t<T>;
  constexpr Index tile = 64;
  const Index width = s.latent + s.rope;
  cpu::parallel_for(cpu, s.rows, [&](Index r) {
    // All heads of a row together: the entries of a tile are read once.
    A* const scores = cpu::scratch<A>(s.heads * (tile + 2), 2);  // [heads, tile]
    A* const top = scores + s.heads * tile;                      // [heads]
    A* const total = top + s.heads;                              // [heads]
    const A* qr = q + r * s.heads * width;                       // [heads, width]
    A* o = out + r * s.heads * s.latent;                         // [heads, latent]
    std::fill_n(o, s.heads * s.latent, A(0));
    std::fill_n(top, s.heads, -std::numeric_limits<A>::infinity());
    std::fill_n(total, s.heads, A(0));
    const Index length = positions[r] + 1;
    for (Index begin = 0; begin < length; begin += tile) {
      const Index count = std::min<Index>(tile, length - begin);
      const T* entries = cache + (sequences[r] * s.capacity + begin) * width;  // [count, width]
      cpu::multiply_here(cpu::Product<A, T, A>{s.heads, count, width, cpu::row_major(qr, width),
                                               cpu::transposed(entries, width), scores, tile});
      for (Index h = 0; h < s.heads; ++h) {
        A* p = scores + h * tile;  // [tile]
        A highest = top[h];
        for (Index j = 0; j < count; ++j) highest = std::max(highest, p[j] * scale);
        const A shrink = begin == 0 ? A(0) : std::exp(top[h] - highest);
        cpu::Vec<A> sums{};
        for (Index j = 0; j < count; j += cpu::lanes<A>) {
          const Index left = count - j;
          cpu::Vec<A> e = cpu::exp<A>(cpu::load_up_to(p + j, left) * scale - highest);
          for (Index l = left; l < cpu::lanes<A>; ++l) e[static_cast<int>(l)] = A(0);
          cpu::store_up_to(p + j, e, left);
          sums += e;
        }
        total[h] = total[h] * shrink + cpu::sum<A>(sums);
        top[h] = highest;
        for (Index c = 0; c < s.latent; ++c) o[h * s.latent + c] *= shrink;
      }
      cpu::multiply_here(cpu::Product<A, T, A>{s.heads, s.latent, count, cpu::row_major<A>(scores, tile),
                                               cpu::row_major(entries, width), o, s.latent, true});
    }
    for (Index h = 0; h < s.heads; ++h) {
      for (Index c = 0; c < s.latent; ++c) o[h * s.latent + c] /= total[h];
    }
  });
}

/// o [rows, heads * v] = W_UV,h (attended latent of head h).   attended: [rows, heads * latent]
template <typename T>
void expand_value(const Cpu& cpu, AttentionShape s, Index latent, Index rows, const acc_t<T>* attended,
                  const T* w, T* o) {
  std::vector<cpu::Product<acc_t<T>, T, T>> products;
  for (Index h = 0; h < s.heads; ++h) {
    products.push_back({rows, s.v, latent, cpu::row_major(attended + h * latent, s.heads * latent),
                        cpu::transposed(w + (h * (s.nope + s.v) + s.nope) * latent, latent), o + h * s.v,
                        s.heads * s.v});
  }
  cpu::multiply(cpu, std::span<const cpu::Product<acc_t<T>, T, T>>(products));
}

}  // namespace mtpx
