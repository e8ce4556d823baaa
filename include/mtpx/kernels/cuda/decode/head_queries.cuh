#pragma once
// The queries of a head, from what they are made of to what is compared with the cache, in one launch: a
// cluster of blocks a head. What a block makes of them it stores into the shared memory of all.

#include "../../decode_shapes.hpp"
#include "new_entries.cuh"

namespace mtpx::cuda {

inline constexpr int head_blocks = 8;      // of a cluster
inline constexpr int head_most_tiles = 3;  // of 8 outputs, that a block makes
inline constexpr int head_most_outputs = head_blocks * head_most_tiles * stream_outputs;
inline constexpr int absorb_columns_of_block = 64;
inline constexpr int absorb_rows = 4;  // of q that a block holds sums of

/// Whether a launch of clusters takes these heads; the same for every number of rows. Without q_rank, where
/// every head would norm the whole hidden state, it is slower for one row.
template <typename T>
bool joins_queries(const DecodeAttention<T>& p) {
  return p.q_rank > 0 && p.heads.nope + p.heads.rope <= head_most_outputs &&
         p.latent <= head_blocks * absorb_columns_of_block;
}

/// The address of p in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ std::uint32_t in_block(const void* p, int rank) {
  std::uint32_t there = 0;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(there)
      : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(p))), "r"(rank));
#endif
  return there;
}
__device__ __forceinline__ void store_in_cluster(std::uint32_t to, bf16 x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.u16 [%0], %1;" ::"r"(to), "h"(x.bits) : "memory");
#endif
}

/// Where a launch of heads reads and writes.
struct HeadQueries {
  const bf16* x = nullptr;      // [rows, in]
  const float* gain = nullptr;  // [in]: norm of x
  float eps = 0;
  int in = 0;
  const bf16* w_q = nullptr;     // [heads * (nope + rope), in]
  const bf16* w_kv_b = nullptr;  // [heads * (nope + v), latent]
  float* absorbed = nullptr;     // [rows, heads, latent + rope]
};

/// Dynamic shared memory: normed rows, sums of warps, made rows [rows][outputs].
template <int tiles>
std::size_t head_queries_shared(Index rows, Index in) {
  return NormedRows::bytes(rows, in) +
         sizeof(float) * head_most_tiles * stream_warps * stream_rows(tiles) * stream_outputs +
         sizeof(bf16) * static_cast<std::size_t>(rows) * head_most_outputs;
}

/// absorbed = [q_nope W_UK | rotated q_rope] with q = W_q norm(x): blocks blockIdx.x of head blockIdx.y. The
/// cluster behind the heads makes the cache entries.   batch: steps of a warp that are loaded early
template <int tiles, int batch>
__global__ void __launch_bounds__(stream_threads, 2)
    fused_head_queries(AttentionShape s, int rows, HeadQueries p, NewEntries entries) {
  extern __shared__ float4 memory[];
  __shared__ float absorb_sums[stream_warps][absorb_rows][absorb_columns_of_block];
  constexpr int N = wide<bf16>;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int rank = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int nope = static_cast<int>(s.nope), rope = static_cast<int>(s.rope),
            heads = static_cast<int>(s.heads), latent = entries.latent;
  if (head == heads) {
#pragma unroll 1
    for (int row = rank; row < rows; row += head_blocks) make_entry(entries, row);
    return;
  }
  const NormedRows normed(memory, p.in);
  float* const sums_of = reinterpret_cast<float*>(normed.rows + rows * normed.ld);  // [tiles][warps][rows][8]
  constexpr int tile_sums = stream_rows(tiles) * stream_outputs;
  bf16* const made = reinterpret_cast<bf16*>(sums_of + head_most_tiles * stream_warps * tile_sums);
  const int outputs = nope + rope;
  const bf16* const w = p.w_q + head * static_cast<Index>(outputs) * p.in;
  // This block's outputs: whole tiles of 8, neighbours.
  const int each = (outputs + head_blocks * stream_outputs - 1) / (head_blocks * stream_outputs);
  const int first = rank * each * stream_outputs, end = min(outputs, first + each * stream_outputs);
  const StreamPart part(p.in, stream_warps, warp);
  StreamLoads<batch> loads[head_most_tiles];
  const auto row_of = [&](int t) {
    return w + min(first + t * stream_outputs + lane / 4, outputs - 1) * static_cast<Index>(p.in);
  };
#pragma unroll
  for (int t = 0; t < head_most_tiles; ++t)
    loads[t].load(row_of(t), part.first, first + t * stream_outputs < end ? part.end : 0);
  // Of W_UK: a warp takes four rows at a time, eight neighbouring columns a lane.
  constexpr int ahead = 4;
  const int slab = rank * absorb_columns_of_block, column = slab + lane % 8 * N;
  const int first_n = warp * 4 + lane / 8;
  const bf16* const wk = p.w_kv_b + head * (s.nope + s.v) * latent + column;  // [nope][latent]
  uint4 absorbing[ahead];
  const auto load_absorbing = [&](int from) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int n = from + 32 * i;
      absorbing[i] = load_once(wk + n * latent, n < nope && column < latent);
    }
  };
  load_absorbing(first_n);
  const auto angle = [&](int i) {
    return entries.positions[i / (rope / 2)] * static_cast<Index>(rope / 2) + i % (rope / 2);
  };
  const bool turns = slab == 0 && thread < rows * (rope / 2);
  const float early_cos = turns ? entries.cos[angle(thread)] : 0.0F,
              early_sin = turns ? entries.sin[angle(thread)] : 0.0F;
  normed.take_gain(p.in, p.gain);
  let_next_start();
  cluster_sync();  // every block's memory is there
  wait_for_previous();
  normed.take_rows(rows, p.in, p.x, p.in, p.eps);
  const StreamRows<tiles> from(normed.rows, normed.ld, rows);
#pragma unroll
  for (int t = 0; t < head_most_tiles; ++t) {
    if (first + t * stream_outputs >= end) break;
    StreamSums<tiles> sums;
    stream_row(row_of(t), part, loads[t], from, sums);
    sums.store(sums_of + (t * stream_warps + warp) * tile_sums);
  }
  __syncthreads();
  const int mine = max(0, end - first);
#pragma unroll 1
  for (int i = thread; i < rows * mine; i += stream_threads) {
    const int r = i / mine, c = i % mine;
    float total = 0;
#pragma unroll
    for (int n = 0; n < stream_warps; ++n)
      total += sums_of[(c / stream_outputs * stream_warps + n) * tile_sums + r * stream_outputs +
                       c % stream_outputs];
    const bf16 rounded = narrow<bf16>(total);
#pragma unroll
    for (int b = 0; b < head_blocks; ++b)
      store_in_cluster(in_block(made + r * outputs + first + c, b), rounded);
  }
  cluster_sync();
  if (slab >= latent) return;
#pragma unroll 1
  for (int at = 0; at < rows; at += absorb_rows) {
    const int some = min(absorb_rows, rows - at);
    const bf16* const q = made + at * outputs;  // [rows][nope | rope]
    float sum[absorb_rows][N] = {};
#pragma unroll 1
    for (int n = first_n; n - first_n < nope; n += 32 * ahead) {
      if (n > first_n || (at > 0 && nope > 32 * ahead)) load_absorbing(n);
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const bf16* const wi = reinterpret_cast<const bf16*>(&absorbing[i]);
#pragma unroll
        for (int r = 0; r < absorb_rows; ++r) {
          if (r >= some) break;
          const float x = n + 32 * i < nope ? widen(q[r * outputs + n + 32 * i]) : 0.0F;
#pragma unroll
          for (int j = 0; j < N; ++j) sum[r][j] = fmaf(x, widen(wi[j]), sum[r][j]);
        }
      }
    }
    if (at > 0) __syncthreads();  // sums before these may still be read
#pragma unroll
    for (int r = 0; r < absorb_rows; ++r) {
      if (r >= some) break;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float x = sum[r][j];
        x += __shfl_xor_sync(whole_warp, x, 8);
        x += __shfl_xor_sync(whole_warp, x, 16);
        if (lane < 8) absorb_sums[warp][r][lane * N + j] = x;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < some * absorb_columns_of_block; i += stream_threads) {
      const int r = i / absorb_columns_of_block, c = i % absorb_columns_of_block;
      if (slab + c >= latent) continue;
      float total = 0;
#pragma unroll
      for (int n = 0; n < stream_warps; ++n) total += absorb_sums[n][r][c];
      p.absorbed[((at + r) * s.heads + head) * (latent + rope) + slab + c] = total;
    }
  }
  if (slab > 0) return;
#pragma unroll 1
  for (int i = thread; i < rows * (rope / 2); i += stream_threads) {
    const int r = i / (rope / 2), j = i % (rope / 2);
    const bf16* const turned = made + r * outputs + nope + 2 * j;  // [2]
    const float c = i == thread ? early_cos : entries.cos[angle(i)],
                n = i == thread ? early_sin : entries.sin[angle(i)];
    float* const to = p.absorbed + (r * s.heads + head) * (latent + rope) + latent + 2 * j;  // [2]
    const exact::Rotated<float> pair(widen(turned[0]), widen(turned[1]), c, n);
    to[0] = widen(narrow<bf16>(pair.even));
    to[1] = widen(narrow<bf16>(pair.odd));
  }
}

}  // namespace mtpx::cuda
