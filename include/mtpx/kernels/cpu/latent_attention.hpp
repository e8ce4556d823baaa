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

/// How `entries` of a sequence are cut into parts, so that one row keeps several threads busy. Rows that see
/// nearly as many are cut at the same places.
struct LatentParts {
  static constexpr Index most = 16;
  static constexpr Index least = 128;  // entries of a part
  Index length;                        // of all parts but the last
  Index count;

  explicit LatentParts(Index entries)
      : length(least * ((entries + most * least - 1) / (most * least))),
        count((entries + length - 1) / length) {}
  bool operator==(const LatentParts&) const = default;
};

/// Rows that stand beside each other, of one sequence and with the same cuts.
struct LatentGroup {
  Index first, rows;
  LatentParts parts;
};

/// What parts leave behind of each row and head: o = sum_j e^(score_j - top) c_j, the highest score, and
/// sum_j e^(score_j - top).
template <typename A>
struct LatentSums {
  A *o, *top, *total;  // [rows, heads, latent], [rows, heads], [rows, heads]; of parts one after the other
  Index rows_heads, latent;

  static Index numbers(LatentShape s) { return LatentParts::most * s.rows * s.heads * (s.latent + 2); }
  LatentSums(LatentShape s, A* memory)
      : o(memory),
        top(o + LatentParts::most * s.rows * s.heads * s.latent),
        total(top + LatentParts::most * s.rows * s.heads),
        rows_heads(s.rows * s.heads),
        latent(s.latent) {}
  /// Those of a part, from head `i` of all rows' heads on.
  LatentSums at(Index part, Index i) const {
    LatentSums there = *this;
    there.o += (part * rows_heads + i) * latent;
    there.top += part * rows_heads + i;
    there.total += part * rows_heads + i;
    return there;
  }
};

/// Scores of a tile become e^(score - top), with the running maximum and sum of a row's head. Returns what
/// the sums before are to be multiplied by.
template <typename A>
A soften(A* p, Index count, A scale, A& top, A& total) {
  Vec<A> most = broadcast<A>(top);
  for (Index j = 0; j < count; j += lanes<A>) {
    Vec<A> scaled = load_up_to(p + j, count - j) * scale;
    store_up_to(p + j, scaled, count - j);
    for (Index l = count - j; l < lanes<A>; ++l) scaled[static_cast<int>(l)] = top;
    most = max(scaled, most);
  }
  A highest = most[0];
  for (int l = 1; l < static_cast<int>(lanes<A>); ++l) highest = std::max<A>(highest, most[l]);
  const A shrink = total == A(0) ? A(0) : exact::exp(top - highest);
  RowSum<A> sums;
  for (Index j = 0; j < count; j += lanes<A>) {
    const Index left = count - j;
    Vec<A> e = exact::exp(load_up_to(p + j, left) - highest);
    for (Index l = left; l < lanes<A>; ++l) e[static_cast<int>(l)] = A(0);
    store_up_to(p + j, e, left);
    sums.add(j, e);
  }
  total = fma(total, shrink, sums.total());
  top = highest;
  return shrink;
}

/// Entries [first, end) of one sequence, seen by all heads of several rows, in tiles with a running maximum.
/// What all rows see is read once for all of them, what some see beyond it by each.
///   q: [rows, heads, width]   sequence: [capacity, width]   positions: [rows]
template <typename T>
void attend_part(LatentShape s, Index first, Index end, Index rows, const acc_t<T>* q, const T* sequence,
                 const std::int32_t* positions, const TreePaths& paths, acc_t<T> scale,
                 const LatentSums<acc_t<T>>& to) {
  using A = acc_t<T>;
  constexpr Index tile = 64;
  const Index width = s.latent + s.rope, all = rows * s.heads;
  A* const scores = scratch<A>(all * tile, 2);  // [rows, heads, tile]
  std::fill_n(to.o, all * s.latent, A(0));
  std::fill_n(to.top, all, -std::numeric_limits<A>::infinity());
  std::fill_n(to.total, all, A(0));
  const auto end_of = [&](Index r) { return std::min<Index>(end, positions[r] + 1); };
  Index shared = end, last = first;  // all rows see the entries before `shared`, none those from `last` on
  for (Index r = 0; r < rows; ++r) {
    const std::int32_t* const path = paths.of(r);
    shared = std::min({shared, end_of(r), path == nullptr ? end : Index{path[0]}});
    last = std::max(last, end_of(r));
  }
  for (Index begin = first; begin < last; begin += tile) {
    const T* const at = sequence + begin * width;  // [tile, width]
    const Index together = std::clamp<Index>(shared - begin, 0, tile);
    // Without branches an entry is everybody's, seen or not.
    const Index scored = paths.paths == nullptr ? std::min(tile, last - begin) : together;
    if (scored > 0)
      multiply_here(
          Product<A, T, A>{all, scored, width, row_major(q, width), transposed(at, width), scores, tile});
    // The entries of row r behind the common ones: [more, width].
    const auto more = [&](Index r) { return std::min(tile, end_of(r) - begin) - together; };
    const auto own = [&](Index r) {
      const std::int32_t* const path = paths.of(r);
      if (path == nullptr) return at + together * width;
      T* const gathered = scratch<T>(tile * width, 3);
      for (Index j = 0; j < more(r); ++j)
        std::copy_n(sequence + TreePaths::at(path, begin + together + j) * width, width,
                    gathered + j * width);
      return static_cast<const T*>(gathered);
    };
    for (Index r = 0; r < rows; ++r) {
      const Index count = together + more(r);
      if (count <= 0) continue;
      A* const mine = scores + r * s.heads * tile;  // [heads, tile]
      if (count > scored)
        multiply_here(Product<A, T, A>{s.heads, more(r), width, row_major(q + r * s.heads * width, width),
                                       transposed(own(r), width), mine + together, tile});
      for (Index i = r * s.heads; i < (r + 1) * s.heads; ++i) {
        const A shrink = soften(scores + i * tile, count, scale, to.top[i], to.total[i]);
        if (begin == first || shrink == A(1)) continue;
        for (Index c = 0; c < s.latent; ++c) to.o[i * s.latent + c] *= shrink;
      }
    }
    if (together > 0)
      multiply_here(Product<A, T, A>{all, s.latent, together, row_major<A>(scores, tile),
                                     row_major(at, width), to.o, s.latent, true});
    for (Index r = 0; r < rows; ++r) {
      if (more(r) <= 0) continue;
      multiply_here(Product<A, T, A>{
          s.heads, s.latent, more(r), row_major<A>(scores + r * s.heads * tile + together, tile),
          row_major(own(r), width), to.o + r * s.heads * s.latent, s.latent, true});
    }
  }
}

}  // namespace cpu

/// One query row against entries 0 .. positions[row] of its sequence, in a tree those of its branch.
///   q: [rows, heads * (latent + rope)]   cache: [sequences, capacity, latent + rope]
///   out: [rows, heads * latent] = sum_j p_j c_j
/// Long sequences are cut into parts, so that one row keeps several threads busy; where the cuts are depends
/// on the row's position alone, and parts are joined in their order. Which rows are read for together changes
/// no sum, so a row's bits are the same alone or beside others.
template <typename T>
void latent_attention(const Cpu& cpu, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const TreePaths& paths, const acc_t<T>* q,
                      const T* cache, acc_t<T> scale, acc_t<T>* out) {
  using A = acc_t<T>;
  constexpr Index most_rows = 64;  // of all heads together: their scores stay in a first-level cache
  const Index width = s.latent + s.rope;
  const auto parts_of = [&](Index r) { return cpu::LatentParts(positions[r] + 1); };
  Index longest = 0, most = 1;
  for (Index r = 0; r < s.rows; ++r) {
    longest = std::max<Index>(longest, positions[r] + 1);
    most = std::max(most, parts_of(r).count);
  }
  // As many rows together as leave every thread a task.
  const Index spread = (cpu.threads() + most - 1) / most;
  const Index together = std::clamp<Index>(s.rows / spread, 1, std::max<Index>(1, most_rows / s.heads));
  thread_local std::vector<cpu::LatentGroup> groups;  // kept, so that decoding allocates nothing
  groups.clear();
  for (Index r = 0; r < s.rows; ++r) {
    if (!groups.empty() && groups.back().rows < together && sequences[r] == sequences[r - 1] &&
        groups.back().parts == parts_of(r)) {
      ++groups.back().rows;
    } else {
      groups.push_back({r, 1, parts_of(r)});
    }
  }
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(cpu::LatentSums<A>::numbers(s)) * sizeof(A));
  const cpu::LatentSums<A> sums(s, static_cast<A*>(buffer.data()));
  constexpr Index worth_sharing = 1 << 15;
  const cpu::LatentGroup* const all = groups.data();
  cpu::parallel_for(
      cpu, static_cast<Index>(groups.size()) * most,
      [&](Index task) {
        const cpu::LatentGroup& group = all[task / most];
        const Index part = task % most, begin = part * group.parts.length;
        if (part >= group.parts.count) return;
        cpu::attend_part(s, begin, begin + group.parts.length, group.rows, q + group.first * s.heads * width,
                         cache + sequences[group.first] * s.capacity * width, positions + group.first,
                         paths.from(group.first), scale, sums.at(part, group.first * s.heads));
      },
      s.rows * longest * s.heads * width >= worth_sharing);
  for (Index r = 0; r < s.rows; ++r) {
    const Index parts = parts_of(r).count;
    for (Index i = r * s.heads; i < (r + 1) * s.heads; ++i) {
      A highest = -std::numeric_limits<A>::infinity();
      for (Index part = 0; part < parts; ++part) highest = std::max(highest, *sums.at(part, i).top);
      A* const o = out + i * s.latent;  // [latent]
      std::fill_n(o, s.latent, A(0));
      A total = 0;
      for (Index part = 0; part < parts; ++part) {
        const cpu::LatentSums<A> from = sums.at(part, i);
        const A share = exact::exp(*from.top - highest);
        total = exact::fma(share, *from.total, total);
        for (Index c = 0; c < s.latent; ++c) o[c] = exact::fma(share, from.o[c], o[c]);
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
