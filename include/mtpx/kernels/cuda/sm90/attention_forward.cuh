#pragma once
// Causal attention of bf16 on Hopper, forward: FlashAttention's tiles and running softmax (Dao et al. 2022,
// arXiv 2205.14135, algorithm 1) with the overlap of FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608,
// algorithm 2): while the tensor cores work on the next scores and the last P V, the other units take the
// softmax.
//
// A block takes 128 queries of one head, 64 a warpgroup, and walks over tiles of 128 keys from the diagonal
// back to key 0: the first tile of every query holds a key that it sees, so the running maximum is never
// infinite, and only this tile needs the causal mask. Shared memory: Q, two tiles of K, two of V. P stays in
// registers. Tiles of queries are those of their keys: where keys stand before the first query, the first
// tile may begin before it, with zeros that nobody stores. Values wider than a tile's `value` columns take a
// launch for each such slice.

#include "attention_common.cuh"

namespace mtpx::cuda::sm90 {

template <int nope, int value>
struct ForwardShared {
  static constexpr int width = nope + 64;
  alignas(1024) bf16 q[128 * width];
  alignas(1024) bf16 k[2][128 * width];
  alignas(1024) bf16 v[2][128 * value];
  Queue queue;
  Barrier q_full, q_empty, k_full[2], k_empty[2], v_full[2], v_empty[2];
};

/// The rows of a thread in the running softmax: m = max_j s_j and l = sum_j exp(scale (s_j - m)).
struct RunningSoftmax {
  float factor;  // scale * log2(e): exp(scale x) = 2^(factor x)
  float top[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // over this thread's columns

  /// Takes in scores [64, 2 n]: s becomes exp(scale (s - m)) with the new m, `shrink` what sums so far lose
  /// by it.
  template <int n>
  __device__ __forceinline__ void take(float (&s)[n], float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = top[i];
#pragma unroll
      for (int at = 2 * i; at < n; at += 4) highest = fmaxf(highest, fmaxf(s[at], s[at + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(whole_warp, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(whole_warp, highest, 2));
      const float shift = highest * factor;
      shrink[i] = exp2_fast(top[i] * factor - shift);
      top[i] = highest;
      float sum = 0;
#pragma unroll
      for (int at = 2 * i; at < n; at += 4) {
        s[at] = exp2_fast(s[at] * factor - shift);
        s[at + 1] = exp2_fast(s[at + 1] * factor - shift);
        sum += s[at] + s[at + 1];
      }
      total[i] = total[i] * shrink[i] + sum;
    }
  }

  /// The whole rows' sums.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      total[i] += __shfl_xor_sync(whole_warp, total[i], 1);
      total[i] += __shfl_xor_sync(whole_warp, total[i], 2);
    }
  }
};

/// What a launch takes of the values, and which keys stand before the queries.
struct ForwardPart {
  int v;      // width of a head's values
  int first;  // column of the slice
  int before;
};

/// `documents`: whether there are positions. The two warpgroups take turns: one is in the softmax while the
/// other feeds the tensor cores (FlashAttention-3's ping-pong).
template <int nope, int value, bool documents>
__global__ void __launch_bounds__(attention_threads, 1)
    attention_forward_kernel(const __grid_constant__ CUtensorMap q_map,
                             const __grid_constant__ CUtensorMap kv_map,
                             const __grid_constant__ CUtensorMap rope_map, const std::int32_t* positions,
                             int time, int heads, int rope, ForwardPart part, Work work, float scale, bf16* o,
                             float* lse) {
  using Shared = ForwardShared<nope, value>;
  constexpr int width = Shared::width;
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    shared.queue.init_one();
    init(shared.q_full, 1);
    init(shared.q_empty, consumer_threads);
    for (int slot = 0; slot < 2; ++slot) {
      init(shared.k_full[slot], 1);
      init(shared.v_full[slot], 1);
      init(shared.k_empty[slot], consumer_threads);
      init(shared.v_empty[slot], consumer_threads);
    }
    fence_barriers();
  }
  __syncthreads();
  const int group = warpgroup();
  Ring<2> ring;

  if (group == 0) {  // copies
    fewer_registers<copying_registers>();
    if (threadIdx.x >= 32) return;
    for (int round = 0;; ++round) {
      const int at = shared.queue.push(work, round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int last = part.before / 128 + work.tiles - 1 - item.rank;
      const int first = documents ? first_key(positions + Index{b} * time, last * 128, 128, time) / 128 : 0;
      if (threadIdx.x != 0) continue;
      wait(shared.q_empty, round % 2 ^ 1);
      arrive_expecting(shared.q_full, sizeof shared.q);
      load_slabs<128, width / 64>(shared.q, q_map, shared.q_full, b, last * 128 - part.before,
                                  h * (nope + rope));
#pragma unroll 1
      for (int tile = last; tile >= first; --tile, ring.next()) {
        Barrier& k_full = shared.k_full[ring.slot];
        Barrier& v_full = shared.v_full[ring.slot];
        bf16* const k = shared.k[ring.slot];
        wait(shared.k_empty[ring.slot], ring.parity ^ 1);
        arrive_expecting(k_full, sizeof shared.k[0]);
        load_slabs<128, nope / 64>(k, kv_map, k_full, b, tile * 128, h * (nope + part.v));
        load_slabs<128, 1>(k + 128 * nope, rope_map, k_full, b, tile * 128, 0);
        wait(shared.v_empty[ring.slot], ring.parity ^ 1);
        arrive_expecting(v_full, sizeof shared.v[0]);
        load_slabs<128, value / 64>(shared.v[ring.slot], kv_map, v_full, b, tile * 128,
                                    h * (nope + part.v) + nope + part.first);
      }
    }
  } else {  // multiplies
    more_registers<multiplying_registers>();
    const int half = group - 1;
    const bf16* const q = shared.q + half * 64 * 64;  // its 64 rows of each slab
    const auto begin_turn = [&] { named_barrier(1 + half, 256); };
    const auto end_turn = [&] { named_arrive(2 - half, 256); };
    if (half == 1) end_turn();  // the first turn is the other's
    for (int round = 0;; ++round) {
      const int at = shared.queue.pop(round);
      if (at >= work.count()) break;
      const Item item(work, at);
      const int b = item.head / heads, h = item.head % heads;
      const int last = part.before / 128 + work.tiles - 1 - item.rank;
      const int query = last * 128 + half * 64 + sum_row();  // of this thread's first row
      int first = 0, low[2] = {0, 0}, highest_low = 0;
      if constexpr (documents) {
        const std::int32_t* const p = positions + Index{b} * time;
        first = first_key(p, last * 128, 128, time) / 128;
        for (int i = 0; i < 2; ++i) {
          if (query + 8 * i < time) low[i] = query + 8 * i - p[query + 8 * i];
        }
        highest_low = __reduce_max_sync(whole_warp, max(low[0], low[1]));
      }

      RunningSoftmax softmax{scale * log2_e};
      float out[value / 2], s[64], shrink[2];
      std::uint32_t p[8][4];
      wait(shared.q_full, round % 2);
      wait(shared.k_full[ring.slot], ring.parity);
      begin_turn();
      products_begin();
      multiply_transposed<128, width, 128, 128>(s, q, shared.k[ring.slot]);
      products_end();
      end_turn();
      products_wait<0>();
      keep(s);
      release(shared.k_empty[ring.slot]);
      mask(s, query, last * 128 + sum_column(), low, -INFINITY);
      softmax.take(s, shrink);
      pack<128>(s, p);

      for (int tile = last - 1; tile >= first; --tile) {
        const Ring<2> before = ring;  // S of this tile, P V of the one before
        ring.next();
        wait(shared.k_full[ring.slot], ring.parity);
        begin_turn();
        products_begin();
        multiply_transposed<128, width, 128, 128>(s, q, shared.k[ring.slot]);
        products_end();
        wait(shared.v_full[before.slot], before.parity);
        multiply<value, 128>(out, p, shared.v[before.slot], tile < last - 1);
        products_end();
        end_turn();
        products_wait<1>();
        keep(s);
        release(shared.k_empty[ring.slot]);
        if (documents && highest_low > tile * 128) {
          mask(s, query, tile * 128 + sum_column(), low, -INFINITY);
        }
        softmax.take(s, shrink);
        products_wait<0>();
        keep(out);
        release(shared.v_empty[before.slot]);
#pragma unroll
        for (int at = 0; at < value / 2; ++at) out[at] *= shrink[at / 2 % 2];
        pack<128>(s, p);
      }
      release(shared.q_empty);
      wait(shared.v_full[ring.slot], ring.parity);
      products_begin();
      multiply<value, 128>(out, p, shared.v[ring.slot], first < last);
      products_end();
      softmax.finish();
      products_wait<0>();
      keep(out);
      release(shared.v_empty[ring.slot]);
      ring.next();

      const float inverse[2] = {1 / softmax.total[0], 1 / softmax.total[1]};
      const int queries = time - part.before, begin = last * 128 + half * 64 - part.before;
      store_sums<value>(out, inverse, o + ((Index{b} * queries + begin) * heads + h) * part.v + part.first,
                        Index{heads} * part.v, queries - begin, value, false, -begin);
      for (int i = 0; i < 2; ++i) {
        const int row = query + 8 * i - part.before;
        if (threadIdx.x % 4 == 0 && row >= 0 && row < queries) {
          lse[Index{item.head} * queries + row] = softmax.top[i] * scale + logf(softmax.total[i]);
        }
      }
    }
  }
}

/// Of the values' columns from `first` on.
template <int nope, int value, typename T>
void launch_attention_forward(const Cuda& device, AttentionShape s, Index first, const T* q, const T* kv,
                              const T* k_rope, const std::int32_t* positions, float scale, T* o, float* lse) {
  const Workspace<int> next(device, 1);
  set_zero(device, next.data(), sizeof(int));
  const Work work{static_cast<int>(s.batch * s.heads),
                  static_cast<int>(ceil_div(s.time, 128) - s.before / 128), next.data()};
  const ForwardPart part{static_cast<int>(s.v), static_cast<int>(first), static_cast<int>(s.before)};
  launch(device, "attention_forward",
         positions == nullptr ? attention_forward_kernel<nope, value, false>
                              : attention_forward_kernel<nope, value, true>,
         grid_for(device, Index{work.heads} * work.tiles, 1, 1), attention_threads,
         sizeof(ForwardShared<nope, value>),
         sequence_map(device, q, s.batch, s.queries(), s.heads * (s.nope + s.rope), 128),
         sequence_map(device, kv, s.batch, s.time, s.heads * (s.nope + s.v), 128),
         sequence_map(device, k_rope, s.batch, s.time, s.rope, 128), positions, static_cast<int>(s.time),
         static_cast<int>(s.heads), static_cast<int>(s.rope), part, work, scale, o, lse);
}

/// Whether the Hopper kernels take these widths and addresses: forward alone, values of several slices, too.
/// A negative scale would turn the maximum around.
template <typename... Pointers>
bool attention_here(AttentionShape s, bool forward, float scale, const Pointers*... pointers) {
  const bool nope = s.nope == 128 || s.nope == 64;
  return nope && (s.v == s.nope || (forward && s.v > 0 && s.v % 64 == 0)) && s.rope >= 8 && s.rope <= 64 &&
         s.rope % 8 == 0 && scale > 0 && s.batch * s.queries() > 0 &&
         s.batch * s.heads * ceil_div(s.time, 64) < (Index{1} << 30) &&
         can_be_wide<bf16>(8, 8, reinterpret_cast<const bf16*>(pointers)...);
}

/// attention_forward() where attention_here(); false elsewhere.
template <typename T>
bool attention_forward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                       const std::int32_t* positions, float scale, T* o, float* lse) {
  if (!attention_here(s, true, scale, q, kv, k_rope, o)) return false;
  for (Index first = 0; first < s.v;) {
    const bool wide = s.nope == 128 && s.v - first >= 128;
    (wide ? launch_attention_forward<128, 128, T>
     : s.nope == 128
         ? launch_attention_forward<128, 64, T>
         : launch_attention_forward<64, 64, T>)(device, s, first, q, kv, k_rope, positions, scale, o, lse);
    first += wide ? 128 : 64;
  }
  return true;
}

}  // namespace mtpx::cuda::sm90
