#pragma once

#include "products/gemm.hpp"

#include "../shapes.hpp"

namespace mtpx {

namespace cpu {

inline constexpr Index query_tile = 64;
inline constexpr Index key_tile = 64;

/// What one (sequence, head) reads. All rows belong to one sequence.
template <typename T>
struct AttentionHead {
  AttentionShape s;
  const T* q;       // [time - before] rows of nope + rope, s.heads * (nope + rope) apart
  const T* k_nope;  // [time] rows of nope, s.heads * (nope + v) apart
  const T* v;       // [time] rows of v, as far apart
  const T* k_rope;  // [time] rows of rope, shared by all heads
  const std::int32_t* positions;

  AttentionHead(AttentionShape shape, Index task, const T* q_all, const T* kv_all, const T* k_rope_all,
                const std::int32_t* positions_all)
      : s(shape) {
    const Index b = task / s.heads;
    const Index h = task % s.heads;
    q = q_all + b * s.queries() * q_stride() + h * (s.nope + s.rope);
    k_nope = kv_all + b * s.time * kv_stride() + h * (s.nope + s.v);
    v = k_nope + s.nope;
    k_rope = k_rope_all + b * s.time * s.rope;
    positions = positions_all == nullptr ? nullptr : positions_all + b * s.time;
  }

  Index q_stride() const { return s.heads * (s.nope + s.rope); }
  Index kv_stride() const { return s.heads * (s.nope + s.v); }
  Index width() const { return s.nope + s.rope; }

  /// The first key that query i sees; the last is i itself.
  Index first_key(Index i) const { return positions == nullptr ? 0 : std::max<Index>(0, i - positions[i]); }

  /// Keys [begin, begin + count) as dense rows [nope | rope].
  void gather_keys(Index begin, Index count, acc_t<T>* to) const {
    for (Index j = 0; j < count; ++j) {
      const T* nope = k_nope + (begin + j) * kv_stride();
      const T* rope = k_rope + (begin + j) * s.rope;
      for (Index c = 0; c < s.nope; ++c) to[j * width() + c] = static_cast<acc_t<T>>(nope[c]);
      for (Index c = 0; c < s.rope; ++c) to[j * width() + s.nope + c] = static_cast<acc_t<T>>(rope[c]);
    }
  }
};

/// Row i of a tile of scores: columns that query `i` sees, as offsets into keys [begin, begin + count).
struct Visible {
  Index low, high;
  template <typename T>
  Visible(const AttentionHead<T>& head, Index i, Index begin, Index count)
      : low(std::clamp<Index>(head.first_key(i) - begin, 0, count)),
        high(std::clamp<Index>(i + 1 - begin, 0, count)) {}
  bool any() const { return low < high; }
};

/// p[c] = exp(s[c] * scale - shift) where visible, else 0; returns their sum. A row is padded to key_tile.
template <typename A>
A exponentials(A* row, const Visible& seen, A scale, A shift) {
  RowSum<A> total;
  for (Index c = 0; c < key_tile; c += lanes<A>) {
    Vec<A> p = exact::exp(fma(load(row + c), broadcast<A>(scale), broadcast<A>(-shift)));
    if (c < seen.low || c + lanes < A >> seen.high) {
      for (Index l = 0; l < lanes<A>; ++l) {
        if (c + l < seen.low || c + l >= seen.high) p[static_cast<int>(l)] = A(0);
      }
    }
    store(row + c, p);
    total.add(c, p);
  }
  return total.total();
}

}  // namespace cpu

/// Causal attention in tiles with a running maximum and sum (Dao et al. 2022, arXiv 2205.14135): no row of
/// scores is ever held whole. Tiles start at key 0, so a query's bits depend on itself and its keys alone.
/// Queries are counted from s.before on.
template <typename T>
void attention_forward(const Cpu& cpu, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                       const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse) {
  using namespace cpu;
  using A = acc_t<T>;
  const Index tiles = (s.queries() + query_tile - 1) / query_tile;
  const Index width = s.nope + s.rope;
  parallel_for(cpu, s.batch * s.heads * tiles, [&](Index task) {
    const AttentionHead<T> head(s, task / tiles, q, kv, k_rope, positions);
    const Index first = s.before + (task % tiles) * query_tile;
    const Index count = std::min(query_tile, s.time - first);
    A* const keys = scratch<A>(key_tile * width + query_tile * key_tile + query_tile * (s.v + 2), 2);
    A* const scores = keys + key_tile * width;      // [query_tile, key_tile]
    A* const out = scores + query_tile * key_tile;  // [query_tile, v]
    A* const top = out + query_tile * s.v;          // [query_tile] running maximum of scale * score
    A* const total = top + query_tile;              // [query_tile] running sum
    std::fill(out, out + query_tile * s.v, A(0));
    std::fill(top, top + query_tile, -std::numeric_limits<A>::infinity());
    std::fill(total, total + query_tile, A(0));

    Index begin = s.time;
    for (Index i = 0; i < count; ++i) begin = std::min(begin, head.first_key(first + i));
    for (begin = begin / key_tile * key_tile; begin < first + count; begin += key_tile) {
      const Index seen_keys = std::min(key_tile, first + count - begin);
      head.gather_keys(begin, seen_keys, keys);
      std::fill(scores, scores + query_tile * key_tile, A(0));
      multiply_here(Product<T, A, A>{
          count, seen_keys, width, row_major(head.q + (first - s.before) * head.q_stride(), head.q_stride()),
          transposed<A>(keys, width), scores, key_tile});
      for (Index i = 0; i < count; ++i) {
        A* row = scores + i * key_tile;  // [key_tile]
        const Visible seen(head, first + i, begin, seen_keys);
        if (!seen.any()) {
          std::fill(row, row + key_tile, A(0));
          continue;
        }
        A highest = top[i];
        for (Index c = seen.low; c < seen.high; ++c) highest = std::max(highest, row[c] * scale);
        const A shrink = total[i] == A(0) ? A(0) : exact::exp(top[i] - highest);
        total[i] = exact::fma(total[i], shrink, exponentials(row, seen, scale, highest));
        top[i] = highest;
        for (Index c = 0; c < s.v; ++c) out[i * s.v + c] *= shrink;
      }
      multiply_here(Product<A, T, A>{count, s.v, seen_keys, row_major<A>(scores, key_tile),
                                     row_major(head.v + begin * head.kv_stride(), head.kv_stride()), out, s.v,
                                     true});
    }
    const Index b = task / tiles / s.heads;
    const Index h = task / tiles % s.heads;
    const Index row = first - s.before;
    for (Index i = 0; i < count; ++i) {
      T* to = o + ((b * s.queries() + row + i) * s.heads + h) * s.v;  // [v]
      for (Index c = 0; c < s.v; ++c) to[c] = static_cast<T>(out[i * s.v + c] / total[i]);
      lse[(b * s.heads + h) * s.queries() + row + i] = top[i] + exact::log(total[i]);
    }
  });
}

/// Recomputes p = exp(scale * score - lse) tile by tile. With d_i = sum_c do_ic o_ic:
///   dv_j = sum_i p_ij do_i,   ds_ij = p_ij (do_i . v_j - d_i) scale,   dq_i = sum_j ds_ij k_j,   dk_j =
///   sum_i ds_ij q_i
/// One task is one head of one sequence; the heads' parts of dk_rope are then added in order.
template <typename T>
void attention_backward(const Cpu& cpu, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                        const std::int32_t* positions, acc_t<T> scale, const T* o, const acc_t<T>* lse,
                        const T* d_o, Sink<T> dq, Sink<T> dkv, Sink<T> dk_rope) {
  using namespace cpu;
  using A = acc_t<T>;
  const Index width = s.nope + s.rope;
  const Index o_stride = s.heads * s.v;
  const Buffer rope_parts(cpu.pool(),
                          static_cast<std::size_t>(s.batch * s.heads * s.time * s.rope) * sizeof(A));
  A* const parts = static_cast<A*>(rope_parts.data());  // [batch, heads, time, rope]

  parallel_for(cpu, s.batch * s.heads, [&](Index task) {
    const AttentionHead<T> head(s, task, q, kv, k_rope, positions);
    const Index b = task / s.heads;
    const Index h = task % s.heads;
    const T* o_head = o + b * s.time * o_stride + h * s.v;
    const T* do_head = d_o + b * s.time * o_stride + h * s.v;
    const A* lse_head = lse + task * s.time;
    A* at = scratch<A>(s.time * (width + 1) + key_tile * (2 * width + s.v) + 2 * query_tile * key_tile, 2);
    const auto take = [&at](Index size) { return std::exchange(at, at + size); };
    A* const dq_head = take(s.time * width);    // [time, width]
    A* const delta = take(s.time);              // [time]
    A* const keys = take(key_tile * width);     // [key_tile, width]
    A* const dk = take(key_tile * width);       // [key_tile, width]
    A* const dv = take(key_tile * s.v);         // [key_tile, v]
    A* const p = take(query_tile * key_tile);   // [query_tile, key_tile]
    A* const ds = take(query_tile * key_tile);  // [query_tile, key_tile]
    std::fill(dq_head, dq_head + s.time * width, A(0));
    for (Index i = 0; i < s.time; ++i) {
      A dot(0);  // in the order of do_i . v_j: where a query sees one key alone, ds is 0 to the last bit
      for (Index c = 0; c < s.v; ++c)
        dot = exact::fma(static_cast<A>(do_head[i * o_stride + c]), static_cast<A>(o_head[i * o_stride + c]),
                         dot);
      delta[i] = dot;
    }
    for (Index begin = 0; begin < s.time; begin += key_tile) {
      const Index count = std::min(key_tile, s.time - begin);
      head.gather_keys(begin, count, keys);
      std::fill(dk, dk + key_tile * width, A(0));
      std::fill(dv, dv + key_tile * s.v, A(0));
      for (Index first = begin; first < s.time; first += query_tile) {
        const Index rows = std::min(query_tile, s.time - first);
        bool any = false;
        for (Index i = 0; i < rows && !any; ++i) any = Visible(head, first + i, begin, count).any();
        if (!any) continue;
        const auto q_tile = row_major(head.q + first * head.q_stride(), head.q_stride());  // [rows, width]
        const auto do_tile = row_major(do_head + first * o_stride, o_stride);              // [rows, v]
        std::fill(p, p + query_tile * key_tile, A(0));
        multiply_here(Product<T, A, A>{rows, count, width, q_tile, transposed<A>(keys, width), p, key_tile});
        multiply_here(Product<T, T, A>{rows, count, s.v, do_tile,
                                       transposed(head.v + begin * head.kv_stride(), head.kv_stride()), ds,
                                       key_tile});
        for (Index i = 0; i < rows; ++i) {
          exponentials(p + i * key_tile, Visible(head, first + i, begin, count), scale, lse_head[first + i]);
          for (Index c = 0; c < count; ++c) {
            ds[i * key_tile + c] = p[i * key_tile + c] * (ds[i * key_tile + c] - delta[first + i]) * scale;
          }
        }
        multiply_here(Product<A, T, A>{count, s.v, rows, transposed<A>(p, key_tile), do_tile, dv, s.v, true});
        multiply_here(
            Product<A, T, A>{count, width, rows, transposed<A>(ds, key_tile), q_tile, dk, width, true});
        multiply_here(Product<A, A, A>{rows, width, count, row_major<A>(ds, key_tile),
                                       row_major<A>(keys, width), dq_head + first * width, width, true});
      }
      for (Index j = 0; j < count; ++j) {
        const Index t = begin + j;
        if (dkv) {
          T* to = dkv.data + (b * s.time + t) * head.kv_stride() + h * (s.nope + s.v);  // [nope | v]
          const auto write = [&](Index c, A value) {
            to[c] = static_cast<T>(dkv.accumulate ? static_cast<A>(to[c]) + value : value);
          };
          for (Index c = 0; c < s.nope; ++c) write(c, dk[j * width + c]);
          for (Index c = 0; c < s.v; ++c) write(s.nope + c, dv[j * s.v + c]);
        }
        std::copy_n(dk + j * width + s.nope, s.rope, parts + (task * s.time + t) * s.rope);
      }
    }
    if (!dq) return;
    for (Index i = 0; i < s.time; ++i) {
      for (Index c = 0; c < width; c += lanes<A>) {
        put(dq.data + (b * s.time + i) * head.q_stride() + h * width + c,
            load_up_to(dq_head + i * width + c, width - c), width - c, dq.accumulate);
      }
    }
  });

  if (!dk_rope) return;
  parallel_chunks(cpu, s.batch * s.time, s.heads * s.rope, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      const Index b = row / s.time;
      for (Index c = 0; c < s.rope; ++c) {
        A total = dk_rope.accumulate ? static_cast<A>(dk_rope.data[row * s.rope + c]) : A(0);
        for (Index h = 0; h < s.heads; ++h)
          total += parts[((b * s.heads + h) * s.time + row % s.time) * s.rope + c];
        dk_rope.data[row * s.rope + c] = static_cast<T>(total);
      }
    }
  });
}

}  // namespace mtpx
