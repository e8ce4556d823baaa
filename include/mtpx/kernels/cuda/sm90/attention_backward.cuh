#pragma once
// Causal attention of bf16 on Hopper, backward (FlashAttention-2, Dao 2023, arXiv 2307.08691, algorithm 2),
// without atomic sums: one kernel owns tiles of keys and sums dK and dV over the queries, one owns tiles of
// queries and sums dQ over the keys. Both recompute, tile by tile,
//
//   P = exp(scale Q K^T - lse),   dP = dO V^T,   dS = P (dP - delta),   delta_i = sum_c dO_ic O_ic
//
// That is 7 products a tile where 5 would do; it buys the same bits in every run. P and dS never leave
// the registers: as sums of one product they are the left operand of the next (dV += P^T dO, dK += dS^T Q,
// dQ += dS K), which is why the first kernel works on the transposed tiles. dS lacks the factor `scale`: it
// is put in where dQ and dK are stored.

#include "attention_forward.cuh"

namespace mtpx::cuda::sm90 {

// --- dK and dV ---------------------------------------------------------------------------------------------

template <int nope, int value>
struct KeysShared {
  static constexpr int width = nope + 64;
  static constexpr int slots = 3;
  alignas(1024) bf16 k[128 * width];
  alignas(1024) bf16 v[128 * value];
  alignas(1024) bf16 q[slots][64 * width];
  alignas(1024) bf16 d_o[slots][64 * value];
  alignas(16) QueryStats stats[slots];
  Queue queue;
  Barrier k_full, k_empty, v_full, v_empty, full[slots], empty[slots];
};

/// A block takes 128 keys of one head, 64 a warpgroup, and walks over tiles of 64 queries from the diagonal
/// on. The rows of its tiles are keys, the columns queries. While the exponentials of one tile are taken, dK
/// takes in the tile before; while its dS are, dV takes in P. `last`: of last_query_kernel.
template <int nope, int value, bool documents>
__global__ void __launch_bounds__(attention_threads, 1)
    attention_keys_kernel(const __grid_constant__ CUtensorMap q_map,
                          const __grid_constant__ CUtensorMap kv_map,
                          const __grid_constant__ CUtensorMap rope_map,
                          const __grid_constant__ CUtensorMap do_map, const QueryStats* stats,
                          const int* last, int time, int heads, int rope, Work work, float scale,
                          Sink<bf16> dkv, float* rope_parts) {
  using Shared = KeysShared<nope, value>;
  constexpr int width = Shared::width;
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    shared.queue.init_one();
    init(shared.k_full, 1);
    init(shared.v_full, 1);
    init(shared.k_empty, consumer_threads);
    init(shared.v_empty, consumer_threads);
    for (int slot = 0; slot < Shared::slots; ++slot) {
      init(shared.full[slot], 1);
      init(shared.empty[slot], consumer_threads);
    }
    fence_barriers();
  }
  __syncthreads();
  const int group = warpgroup();
  const int query_tiles = static_cast<int>(ceil_div(time, 64));
  Ring<Shared::slots> ring;

  if (group == 0) {  // copies
    fewer_registers<24>();
    if (threadIdx.x >= 32) return;
    for (int round = 0;; ++round) {
      const int at = shared.queue.push(work, round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int begin = item.rank * 128;
      const int end = documents ? last[b * work.tiles + item.rank] / 64 + 1 : query_tiles;
      if (threadIdx.x != 0) continue;
      wait(shared.k_empty, round % 2 ^ 1);
      arrive_expecting(shared.k_full, sizeof shared.k);
      load_slabs<128, nope / 64>(shared.k, kv_map, shared.k_full, b, begin, h * (nope + value));
      load_slabs<128, 1>(shared.k + 128 * nope, rope_map, shared.k_full, b, begin, 0);
      wait(shared.v_empty, round % 2 ^ 1);
      arrive_expecting(shared.v_full, sizeof shared.v);
      load_slabs<128, value / 64>(shared.v, kv_map, shared.v_full, b, begin, h * (nope + value) + nope);
#pragma unroll 1
      for (int tile = begin / 64; tile < end; ++tile, ring.next()) {
        Barrier& full = shared.full[ring.slot];
        wait(shared.empty[ring.slot], ring.parity ^ 1);
        arrive_expecting(full, sizeof shared.q[0] + sizeof shared.d_o[0] + sizeof(QueryStats));
        load_slabs<64, width / 64>(shared.q[ring.slot], q_map, full, b, tile * 64, h * (nope + rope));
        load_slabs<64, value / 64>(shared.d_o[ring.slot], do_map, full, b, tile * 64, h * value);
        load_bytes(&shared.stats[ring.slot], stats + Index{item.head} * query_tiles + tile, full,
                   sizeof(QueryStats));
      }
    }
  } else {  // multiplies; dK and dV alone are 160 registers
    more_registers<240>();
    const int half = group - 1;
    const bf16* const k = shared.k + half * 64 * 64;  // its 64 rows of each slab
    const bf16* const v = shared.v + half * 64 * 64;
    const float factor = scale * log2_e;
    for (int round = 0;; ++round) {
      const int at = shared.queue.pop(round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int begin = item.rank * 128 + half * 64;
      const int key = begin + sum_row();  // of this thread's first row
      const int end = documents ? last[b * work.tiles + item.rank] / 64 + 1 : query_tiles;
      const int start = item.rank * 2 + half;  // the tile on the diagonal
      float dk[width / 2], dv[value / 2], s[32], dp[32];
      std::uint32_t p[4][4], ds[4][4];
      wait(shared.k_full, round % 2);
      if (half == 1) {  // the first queries come before all of this half's keys
        wait(shared.full[ring.slot], ring.parity);
        release(shared.empty[ring.slot]);
        ring.next();
      }
      if (start >= end) {  // the sequence ends before this half's keys
        wait(shared.v_full, round % 2);
        release(shared.k_empty);
        release(shared.v_empty);
        continue;
      }
      const auto start_s = [&](int slot) {
        products_begin();
        multiply_transposed<64, width, 128, 64>(s, k, shared.q[slot]);
        products_end();
      };
      const auto s_to_p = [&](int slot, int tile) {
        const QueryStats& of = shared.stats[slot];
#pragma unroll
        for (int at = 0; at < 32; at += 4) {
          const float2 lse = *reinterpret_cast<const float2*>(of.lse + at * 2 + sum_column());
#pragma unroll
          for (int i = 0; i < 4; ++i)
            s[at + i] = exp2_fast(s[at + i] * factor - (i % 2 == 0 ? lse.x : lse.y));
        }
        if (documents || tile == start) {
#pragma unroll
          for (int at = 0; at < 32; ++at) {
            const int column = at / 4 * 8 + sum_column() + at % 2;
            const int row = key + at / 2 % 2 * 8;
            if (row > tile * 64 + column || (documents && row < of.low[column])) s[at] = 0;
          }
        }
      };
      const auto take_dv_and_ds = [&](int slot, bool accumulate) {
        products_begin();
        multiply_transposed<64, value, 128, 64>(dp, v, shared.d_o[slot]);
        products_end();
        multiply<value, 64>(dv, p, shared.d_o[slot], accumulate);
        products_end();
        products_wait<1>();
        keep(dp);
        const QueryStats& of = shared.stats[slot];
#pragma unroll
        for (int at = 0; at < 32; at += 2) {
          const float2 delta = *reinterpret_cast<const float2*>(of.delta + at / 4 * 8 + sum_column());
          const std::uint32_t pair = p[at / 8][at % 8 / 2];
          dp[at] = __uint_as_float(pair << 16) * (dp[at] - delta.x);
          dp[at + 1] = __uint_as_float(pair & 0xffff0000U) * (dp[at + 1] - delta.y);
        }
        pack<64>(dp, ds);
        products_wait<0>();
        keep(dv);
      };

      wait(shared.full[ring.slot], ring.parity);
      start_s(ring.slot);
      products_wait<0>();
      keep(s);
      s_to_p(ring.slot, start);
      pack<64>(s, p);
      wait(shared.v_full, round % 2);
      for (int tile = start + 1; tile < end; ++tile) {
        const int before = ring.slot;
        ring.next();
        take_dv_and_ds(before, tile - 1 > start);
        wait(shared.full[ring.slot], ring.parity);
        start_s(ring.slot);
        multiply<width, 64>(dk, ds, shared.q[before], tile - 1 > start);
        products_end();
        products_wait<1>();
        keep(s);
        s_to_p(ring.slot, tile);
        products_wait<0>();
        keep(dk);
        release(shared.empty[before]);
        pack<64>(s, p);
      }
      release(shared.k_empty);
      take_dv_and_ds(ring.slot, end - 1 > start);
      release(shared.v_empty);
      products_begin();
      multiply<width, 64>(dk, ds, shared.q[ring.slot], end - 1 > start);
      products_end();
      products_wait<0>();
      keep(dk);
      release(shared.empty[ring.slot]);
      ring.next();

      const int rows = time - begin;
      const Index row = Index{b} * time + begin;
      if (rope_parts != nullptr) {
#pragma unroll
        for (int at = nope / 2; at < width / 2; at += 2) {
          const int r = sum_row() + at / 2 % 2 * 8;
          const int column = at / 4 * 8 + sum_column() - nope;
          if (r >= rows || column >= rope) continue;
          float* const to = rope_parts + (Index{item.head} * time + begin + r) * rope;  // [rope]
          *reinterpret_cast<float2*>(to + column) = make_float2(dk[at] * scale, dk[at + 1] * scale);
        }
      }
      const float one[2] = {1, 1}, scales[2] = {scale, scale};
      if (dkv.data != nullptr) {
        bf16* const to = dkv.data + (row * heads + h) * (nope + value);  // [nope | value]
        store_sums<nope>(dk, scales, to, Index{heads} * (nope + value), rows, nope, dkv.accumulate);
        store_sums<value>(dv, one, to + nope, Index{heads} * (nope + value), rows, value, dkv.accumulate);
      }
    }
  }
}

// --- dQ ----------------------------------------------------------------------------------------------------

template <int nope, int value>
struct QueriesShared {
  static constexpr int width = nope + 64;
  static constexpr int slots = 3;
  alignas(1024) bf16 q[128 * width];
  alignas(1024) bf16 d_o[128 * value];
  alignas(1024) bf16 k[slots][64 * width];
  alignas(1024) bf16 v[slots][64 * value];
  Queue queue;
  Barrier queries_full, queries_empty, full[slots], empty[slots];
};

/// A block takes 128 queries of one head, 64 a warpgroup, and walks over tiles of 64 keys from the diagonal
/// back. While dQ takes in one tile, the scores of the next are on their way.
template <int nope, int value, bool documents>
__global__ void __launch_bounds__(attention_threads, 1)
    attention_queries_kernel(const __grid_constant__ CUtensorMap q_map,
                             const __grid_constant__ CUtensorMap kv_map,
                             const __grid_constant__ CUtensorMap rope_map,
                             const __grid_constant__ CUtensorMap do_map, const QueryStats* stats,
                             const std::int32_t* positions, int time, int heads, int rope, Work work,
                             float scale, Sink<bf16> dq) {
  using Shared = QueriesShared<nope, value>;
  constexpr int width = Shared::width;
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    shared.queue.init_one();
    init(shared.queries_full, 1);
    init(shared.queries_empty, consumer_threads);
    for (int slot = 0; slot < Shared::slots; ++slot) {
      init(shared.full[slot], 1);
      init(shared.empty[slot], consumer_threads);
    }
    fence_barriers();
  }
  __syncthreads();
  const int group = warpgroup();
  const int stats_tiles = static_cast<int>(ceil_div(time, 64));
  Ring<Shared::slots> ring;

  if (group == 0) {  // copies
    fewer_registers<copying_registers>();
    if (threadIdx.x >= 32) return;
    for (int round = 0;; ++round) {
      const int at = shared.queue.push(work, round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int begin = (work.tiles - 1 - item.rank) * 128;
      const int first = documents ? first_key(positions + Index{b} * time, begin, 128, time) / 64 : 0;
      if (threadIdx.x != 0) continue;
      wait(shared.queries_empty, round % 2 ^ 1);
      arrive_expecting(shared.queries_full, sizeof shared.q + sizeof shared.d_o);
      load_slabs<128, width / 64>(shared.q, q_map, shared.queries_full, b, begin, h * (nope + rope));
      load_slabs<128, value / 64>(shared.d_o, do_map, shared.queries_full, b, begin, h * value);
#pragma unroll 1
      for (int tile = begin / 64 + 1; tile >= first; --tile, ring.next()) {
        Barrier& full = shared.full[ring.slot];
        wait(shared.empty[ring.slot], ring.parity ^ 1);
        arrive_expecting(full, sizeof shared.k[0] + sizeof shared.v[0]);
        load_slabs<64, nope / 64>(shared.k[ring.slot], kv_map, full, b, tile * 64, h * (nope + value));
        load_slabs<64, 1>(shared.k[ring.slot] + 64 * nope, rope_map, full, b, tile * 64, 0);
        load_slabs<64, value / 64>(shared.v[ring.slot], kv_map, full, b, tile * 64,
                                   h * (nope + value) + nope);
      }
    }
  } else {  // multiplies
    more_registers<multiplying_registers>();
    const int half = group - 1;
    const bf16* const q = shared.q + half * 64 * 64;  // its 64 rows of each slab
    const bf16* const d_o = shared.d_o + half * 64 * 64;
    const float factor = scale * log2_e;
    for (int round = 0;; ++round) {
      const int at = shared.queue.pop(round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int last = (work.tiles - 1 - item.rank) * 2 + half;  // the tile on the diagonal
      const int query = last * 64 + sum_row();                   // of this thread's first row
      float lse[2] = {INFINITY, INFINITY}, delta[2] = {0, 0};
      int low[2] = {0, 0};
      if (last < stats_tiles) {
        const QueryStats& of = stats[Index{item.head} * stats_tiles + last];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          lse[i] = of.lse[sum_row() + 8 * i];
          delta[i] = of.delta[sum_row() + 8 * i];
          low[i] = of.low[sum_row() + 8 * i];
        }
      }
      int first = 0, highest_low = 0;
      if constexpr (documents) {
        first = first_key(positions + Index{b} * time, last / 2 * 128, 128, time) / 64;
        highest_low = __reduce_max_sync(whole_warp, max(low[0], low[1]));
      }
      float sums[width / 2], s[32], dp[32];
      std::uint32_t ds[4][4];
      const auto start = [&](int slot) {
        products_begin();
        multiply_transposed<64, width, 128, 64>(s, q, shared.k[slot]);
        multiply_transposed<64, value, 128, 64>(dp, d_o, shared.v[slot]);
        products_end();
      };
      const auto s_to_ds = [&](int tile) {
#pragma unroll
        for (int at = 0; at < 32; ++at) s[at] = exp2_fast(s[at] * factor - lse[at / 2 % 2]);
        if (tile == last || (documents && highest_low > tile * 64)) {
          mask(s, query, tile * 64 + sum_column(), low, 0);
        }
#pragma unroll
        for (int at = 0; at < 32; ++at) s[at] *= dp[at] - delta[at / 2 % 2];
      };
      wait(shared.queries_full, round % 2);
      if (half == 0) {  // the last tile is the other half's alone
        wait(shared.full[ring.slot], ring.parity);
        release(shared.empty[ring.slot]);
        ring.next();
      }
      wait(shared.full[ring.slot], ring.parity);
      start(ring.slot);
      products_wait<0>();
      keep(s);
      keep(dp);
      s_to_ds(last);
      pack<64>(s, ds);
      for (int tile = last - 1; tile >= first; --tile) {
        const int before = ring.slot;
        ring.next();
        wait(shared.full[ring.slot], ring.parity);
        start(ring.slot);
        multiply<width, 64>(sums, ds, shared.k[before], tile < last - 1);
        products_end();
        products_wait<1>();
        keep(s);
        keep(dp);
        s_to_ds(tile);
        products_wait<0>();
        keep(sums);
        release(shared.empty[before]);
        pack<64>(s, ds);
      }
      release(shared.queries_empty);
      products_begin();
      multiply<width, 64>(sums, ds, shared.k[ring.slot], first < last);
      products_end();
      products_wait<0>();
      keep(sums);
      release(shared.empty[ring.slot]);
      ring.next();

      const float scales[2] = {scale, scale};
      const Index row = Index{b} * time + last * 64;
      store_sums<width>(sums, scales, dq.data + (row * heads + h) * (nope + rope),
                        Index{heads} * (nope + rope), time - last * 64, nope + rope, dq.accumulate);
    }
  }
}

// --- Host --------------------------------------------------------------------------------------------------

template <int nope, int value, typename T>
void launch_attention_backward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                               const std::int32_t* positions, float scale, const T* o, const float* lse,
                               const T* d_o, Sink<T> dq, Sink<T> dkv, float* rope_parts) {
  const int time = static_cast<int>(s.time), heads = static_cast<int>(s.heads),
            rope = static_cast<int>(s.rope);
  const int stats_tiles = static_cast<int>(ceil_div(s.time, 64));
  const Workspace<int> next(device, 2);  // of each kernel
  set_zero(device, next.data(), 2 * sizeof(int));
  const Work work{static_cast<int>(s.batch * s.heads), static_cast<int>(ceil_div(s.time, 128)), next.data()};
  const Work queries_work{work.heads, work.tiles, next.data() + 1};
  const unsigned blocks = grid_for(device, Index{work.heads} * work.tiles, 1, 1);
  const auto map = [&](const bf16* x, Index columns, int rows) {
    return sequence_map(device, x, s.batch, s.time, columns, rows);
  };
  const Index q_columns = s.heads * (s.nope + s.rope), kv_columns = s.heads * (s.nope + s.v);

  const Workspace<QueryStats> stats(device, Index{work.heads} * stats_tiles);
  launch(device, "attention_stats", attention_stats_kernel<value>,
         static_cast<unsigned>(work.heads * stats_tiles), 256, 0, o, d_o, lse, positions, time, heads,
         stats_tiles, stats.data());
  if (dkv || rope_parts != nullptr) {
    const Workspace<int> last(device, positions == nullptr ? 0 : s.batch * work.tiles);
    if (positions != nullptr) {
      launch(device, "last_query", last_query_kernel<128>, static_cast<unsigned>(s.batch * work.tiles), 32, 0,
             positions, time, work.tiles, last.data());
    }
    launch(device, "attention_keys",
           positions == nullptr ? attention_keys_kernel<nope, value, false>
                                : attention_keys_kernel<nope, value, true>,
           blocks, attention_threads, sizeof(KeysShared<nope, value>), map(q, q_columns, 64),
           map(kv, kv_columns, 128), map(k_rope, s.rope, 128), map(d_o, s.heads * s.v, 64), stats.data(),
           last.data(), time, heads, rope, work, scale, dkv, rope_parts);
  }
  if (dq) {
    launch(device, "attention_queries",
           positions == nullptr ? attention_queries_kernel<nope, value, false>
                                : attention_queries_kernel<nope, value, true>,
           blocks, attention_threads, sizeof(QueriesShared<nope, value>), map(q, q_columns, 128),
           map(kv, kv_columns, 64), map(k_rope, s.rope, 64), map(d_o, s.heads * s.v, 128), stats.data(),
           positions, time, heads, rope, queries_work, scale, dq);
  }
}

/// attention_backward() where attention_here(); false elsewhere. Of dk_rope, the heads' parts [batch, heads,
/// time, rope], unless null.
template <typename T>
bool attention_backward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                        const std::int32_t* positions, float scale, const T* o, const float* lse,
                        const T* d_o, Sink<T> dq, Sink<T> dkv, float* rope_parts) {
  if (!attention_here(s, false, scale, q, kv, k_rope, o, d_o, dq.data, dkv.data)) return false;
  (s.nope == 128 ? launch_attention_backward<128, 128, T>
                 : launch_attention_backward<64, 64, T>)(device, s, q, kv, k_rope, positions, scale, o, lse,
                                                         d_o, dq, dkv, rope_parts);
  return true;
}

}  // namespace mtpx::cuda::sm90
