#pragma once

#include "products/gemm.hpp"

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
  thread_local std::vector<cpu::Product<T, T, A>> products;  // kept, so that decoding allocates nothing
  products.clear();
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

namespace cpu {

/// Entries [first, first + count_all) of one sequence, seen by all heads of one row, in tiles with a running
/// maximum.
///   q: [heads, width]   sequence: [capacity, width]   path: of the row (TreePaths)
///   o: [heads, latent] = sum_j e^(score_j - top) c_j   top: [heads], the highest score   total: [heads]
template <typename T>
void attend_part(LatentShape s, Index first, Index count_all, const acc_t<T>* q, const T* sequence,
                 const std::int32_t* path, acc_t<T> scale, acc_t<T>* o, acc_t<T>* top, acc_t<T>* total) {
  using A = acc_t<T>;
  constexpr Index tile = 64;
  const Index width = s.latent + s.rope;
  A* const scores = scratch<A>(s.heads * tile, 2);  // [heads, tile]
  std::fill_n(o, s.heads * s.latent, A(0));
  std::fill_n(top, s.heads, -std::numeric_limits<A>::infinity());
  std::fill_n(total, s.heads, A(0));
  for (Index begin = 0; begin < count_all; begin += tile) {
    const Index count = std::min<Index>(tile, count_all - begin);
    const T* at = sequence + (first + begin) * width;  // [count, width]
    if (path != nullptr && first + begin + count > path[0]) {
      T* const together = scratch<T>(tile * width, 3);
      for (Index j = 0; j < count; ++j)
        std::copy_n(sequence + TreePaths::at(path, first + begin + j) * width, width, together + j * width);
      at = together;
    }
    multiply_here(
        Product<A, T, A>{s.heads, count, width, row_major(q, width), transposed(at, width), scores, tile});
    for (Index h = 0; h < s.heads; ++h) {
      A* p = scores + h * tile;  // [tile]
      Vec<A> most = broadcast<A>(top[h]);
      for (Index j = 0; j < count; j += lanes<A>) {
        Vec<A> scaled = load_up_to(p + j, count - j) * scale;
        store_up_to(p + j, scaled, count - j);
        for (Index l = count - j; l < lanes<A>; ++l) scaled[static_cast<int>(l)] = top[h];
        most = max(scaled, most);
      }
      A highest = most[0];
      for (int l = 1; l < static_cast<int>(lanes<A>); ++l) highest = std::max<A>(highest, most[l]);
      const A shrink = begin == 0 ? A(0) : exact::exp(top[h] - highest);
      RowSum<A> sums;
      for (Index j = 0; j < count; j += lanes<A>) {
        const Index left = count - j;
        Vec<A> e = exact::exp(load_up_to(p + j, left) - highest);
        for (Index l = left; l < lanes<A>; ++l) e[static_cast<int>(l)] = A(0);
        store_up_to(p + j, e, left);
        sums.add(j, e);
      }
      total[h] = fma(total[h], shrink, sums.total());
      top[h] = highest;
      if (begin > 0 && shrink != A(1)) {
        for (Index c = 0; c < s.latent; ++c) o[h * s.latent + c] *= shrink;
      }
    }
    multiply_here(Product<A, T, A>{s.heads, s.latent, count, row_major<A>(scores, tile), row_major(at, width),
                                   o, s.latent, true});
  }
}

}  // namespace cpu

/// One query row against entries 0 .. positions[row] of its sequence, in a tree those of its branch.
///   q: [rows, heads * (latent + rope)]   cache: [sequences, capacity, latent + rope]
///   out: [rows, heads * latent] = sum_j p_j c_j
/// Long sequences are cut into parts, so that one row keeps several threads busy; where the cuts are depends
/// on the row's position alone, and parts are joined in their order. Rows do not see each other, so a row's
/// bits are the same alone or beside others.
template <typename T>
void latent_attention(const Cpu& cpu, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const TreePaths& paths, const acc_t<T>* q,
                      const T* cache, acc_t<T> scale, acc_t<T>* out) {
  using A = acc_t<T>;
  constexpr Index most_parts = 16;
  constexpr Index least_part = 128;  // entries
  const Index width = s.latent + s.rope;
  const Index partial = s.heads * (s.latent + 2);  // [heads, latent], [heads] and [heads]
  const auto part_length = [&](Index length) {
    const Index parts = std::min(most_parts, (length + least_part - 1) / least_part);
    return (length + parts - 1) / parts;
  };
  const auto parts_of = [&](Index length) {
    return (length + part_length(length) - 1) / part_length(length);
  };
  Index longest = 0;
  Index most = 1;
  for (Index r = 0; r < s.rows; ++r) {
    longest = std::max<Index>(longest, positions[r] + 1);
    most = std::max(most, parts_of(positions[r] + 1));
  }
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(s.rows * most_parts * partial) * sizeof(A));
  A* const memory = static_cast<A*>(buffer.data());  // [rows, most_parts, partial]
  constexpr Index worth_sharing = 1 << 15;
  cpu::parallel_for(
      cpu, s.rows * most,
      [&](Index task) {
        const Index r = task / most;
        const Index length = positions[r] + 1;
        const Index begin = task % most * part_length(length);
        if (begin >= length) return;
        A* const o = memory + (r * most_parts + task % most) * partial;
        A* const top = o + s.heads * s.latent;
        cpu::attend_part(s, begin, std::min(length - begin, part_length(length)), q + r * s.heads * width,
                         cache + sequences[r] * s.capacity * width, paths.of(r), scale, o, top,
                         top + s.heads);
      },
      s.rows * longest * s.heads * width >= worth_sharing);
  for (Index r = 0; r < s.rows; ++r) {
    const Index parts = parts_of(positions[r] + 1);
    const A* const first = memory + r * most_parts * partial;
    for (Index h = 0; h < s.heads; ++h) {
      A highest = -std::numeric_limits<A>::infinity();
      for (Index i = 0; i < parts; ++i)
        highest = std::max(highest, first[i * partial + s.heads * s.latent + h]);
      A* const o = out + (r * s.heads + h) * s.latent;  // [latent]
      std::fill_n(o, s.latent, A(0));
      A total = 0;
      for (Index i = 0; i < parts; ++i) {
        const A* const from = first + i * partial;
        const A share = exact::exp(from[s.heads * s.latent + h] - highest);
        total = exact::fma(share, from[s.heads * (s.latent + 1) + h], total);
        for (Index c = 0; c < s.latent; ++c) o[c] = exact::fma(share, from[h * s.latent + c], o[c]);
      }
      for (Index c = 0; c < s.latent; ++c) o[c] /= total;
    }
  }
}

/// o [rows, heads * v] = W_UV,h (attended latent of head h).   attended: [rows, heads * latent]
template <typename T>
void expand_value(const Cpu& cpu, AttentionShape s, Index latent, Index rows, const acc_t<T>* attended,
                  const T* w, T* o) {
  thread_local std::vector<cpu::Product<acc_t<T>, T, T>> products;
  products.clear();
  for (Index h = 0; h < s.heads; ++h) {
    products.push_back({rows, s.v, latent, cpu::row_major(attended + h * latent, s.heads * latent),
                        cpu::transposed(w + (h * (s.nope + s.v) + s.nope) * latent, latent), o + h * s.v,
                        s.heads * s.v});
  }
  cpu::multiply(cpu, std::span<const cpu::Product<acc_t<T>, T, T>>(products));
}

}  // namespace mtpx
