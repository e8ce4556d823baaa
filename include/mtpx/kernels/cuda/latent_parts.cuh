#pragma once
// How latent_attention() cuts a sequence into parts, and the kernel that attends to a part in bf16.

#include "products/few_rows.cuh"

namespace mtpx::cuda {

inline constexpr int latent_tile = 64;        // entries that a block holds at a time
inline constexpr int latent_most_parts = 64;  // of a sequence
inline constexpr int latent_heads = 8;        // that a block serves
inline constexpr int latent_threads = 256;

/// Entries of a part of a sequence of `length`.
__host__ __device__ constexpr int latent_part(int length) {
  const int tiles = (length + latent_tile - 1) / latent_tile;
  return (tiles + latent_most_parts - 1) / latent_most_parts * latent_tile;
}
__host__ __device__ constexpr int latent_parts(int length) {
  return (length + latent_part(length) - 1) / latent_part(length);
}
/// Parts of the longest sequence that a cache has room for.
inline int latent_most(Index capacity) {
  return static_cast<int>(std::min<Index>(latent_most_parts, ceil_div(capacity, latent_tile)));
}

/// What the parts leave behind:  o [rows, parts, heads, latent] = sum_j e^(score_j - top) c_j;
/// top, total [rows, parts, heads, 2]: the highest score, and sum_j e^(score_j - top).
template <typename A>
struct LatentPartials {
  A* o = nullptr;
  A* top_total = nullptr;
  int parts = 0;  // room for so many

  static Index numbers(Index rows, Index heads, Index latent, int parts) {
    return rows * parts * heads * (latent + 2);
  }
  LatentPartials(A* memory, Index rows, Index heads, Index latent, int most)
      : o(memory), top_total(memory + rows * most * heads * latent), parts(most) {}
};

// --- bf16: mma.sync --------------------------------------------------------------------------------------
//
// Eight heads are eight rows of an operand; the other eight are what bf16 cuts off the same numbers, so that
// queries and probabilities keep 16 bits.

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(p)))
               : "memory");
}
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[2], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(p)))
               : "memory");
}
__device__ __forceinline__ void load_transposed(std::uint32_t (&r)[2], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(p)))
               : "memory");
}
__device__ __forceinline__ void copy_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
__device__ __forceinline__ void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// x as a bf16 and what that leaves out.
__device__ __forceinline__ void put_halves(bf16* high, bf16* low, float x) {
  *high = narrow<bf16>(x);
  *low = narrow<bf16>(x - widen(*high));
}

inline constexpr int latent_pad = 8;           // numbers, so that rows start in other banks
inline constexpr int latent_column_tiles = 8;  // of 8 columns, that a warp holds sums of
inline constexpr int probability_row = latent_tile + latent_pad;

/// Dynamic shared memory: entries [64][width + pad], queries [16][width + pad], scores [8][64], probabilities
/// [16][64 + pad], shrink [8].
inline std::size_t latent_shared(Index width) {
  const auto row = static_cast<std::size_t>(width + latent_pad);
  return (latent_tile + 16) * row * sizeof(bf16) + latent_heads * latent_tile * sizeof(float) +
         16 * probability_row * sizeof(bf16) + latent_heads * sizeof(float);
}
inline bool latent_fits(Index latent, Index rope) {
  return (latent + rope) % 16 == 0 && latent % 8 == 0 && latent <= 8 * 8 * latent_column_tiles &&
         latent_shared(latent + rope) <= 200 * 1024;
}

/// Part blockIdx.x of row blockIdx.y, heads from 8 blockIdx.z on.
///   q: [rows, heads, latent + rope]   cache: [sequences, capacity, latent + rope]
/// T: bf16   early: entries that no row of this pass writes are loaded before the kernels before this one are
/// done
template <typename T>
__global__ void __launch_bounds__(latent_threads)
    latent_parts_bf16(LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,
                      const TreePaths paths, const float* q, const T* cache, float scale,
                      LatentPartials<float> to, bool early) {
  extern __shared__ float4 memory[];
  const int latent = static_cast<int>(s.latent), width = latent + static_cast<int>(s.rope);
  const int ld = width + latent_pad;
  bf16* const entries = reinterpret_cast<bf16*>(memory);                               // [64][ld]
  bf16* const queries = entries + latent_tile * ld;                                    // [16][ld]
  float* const scores = reinterpret_cast<float*>(queries + 16 * ld);                   // [8][64]
  bf16* const chances = reinterpret_cast<bf16*>(scores + latent_heads * latent_tile);  // [16][64 + pad]
  float* const shrink = reinterpret_cast<float*>(chances + 16 * probability_row);      // [8]
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Index row = blockIdx.y;
  const int first_head = static_cast<int>(blockIdx.z) * latent_heads;
  const int heads = min(latent_heads, static_cast<int>(s.heads) - first_head);
  let_next_start();
  if (!early) wait_for_previous();
  const int length = positions[row] + 1, sequence = sequences[row];
  const int begin = static_cast<int>(blockIdx.x) * latent_part(length);
  if (begin >= length) return;
  const int end = min(length, begin + latent_part(length));
  const bf16* const all = cache + sequence * s.capacity * width;  // [capacity, width]
  const std::int32_t* const path = paths.of(row);
  constexpr int warps = latent_threads / 32;
  // Whole entries a warp: to divide by their width would take longer than to copy them.
  const auto fetch = [&](int at, int from, int until) {  // entries at + from .. at + until of this tile
    until = min(until, end - at);
#pragma unroll 1
    for (int j = from + warp; j < until; j += warps) {
      const bf16* const entry = all + TreePaths::at(path, at + j) * width;
#pragma unroll 3
      for (int c = lane * wide<bf16>; c < width; c += 32 * wide<bf16>)
        copy_16(entries + j * ld + c, entry + c);
    }
  };
  int known = 0;  // entries of the first tile that are under way
  if (early) {
    int fresh = length;  // the first entry that this pass writes
#pragma unroll 1
    for (int r = lane; r < static_cast<int>(s.rows); r += 32) {
      if (sequences[r] == sequence) fresh = min(fresh, positions[r]);
    }
    fresh = __reduce_min_sync(whole_warp, fresh);
    known = max(0, min(latent_tile, fresh - begin));
    fetch(begin, 0, known);
    wait_for_previous();
  }
  static_assert(warps == latent_heads);
  const float* const mine = q + (row * s.heads + first_head + warp) * width;  // of a head a warp, [width]
  constexpr int at_once = 5;
#pragma unroll 1
  for (int first = 4 * lane; first < width; first += at_once * 128) {
    float4 x[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int c = first + 128 * i;
      x[i] = warp < heads && c < width ? *reinterpret_cast<const float4*>(mine + c) : float4{};
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int c = first + 128 * i;
      if (c >= width) break;
      Pack<bf16, 4> high, low;
      put_halves(&high.value[0], &low.value[0], x[i].x);
      put_halves(&high.value[1], &low.value[1], x[i].y);
      put_halves(&high.value[2], &low.value[2], x[i].z);
      put_halves(&high.value[3], &low.value[3], x[i].w);
      *reinterpret_cast<Pack<bf16, 4>*>(queries + warp * ld + c) = high;
      *reinterpret_cast<Pack<bf16, 4>*>(queries + (warp + 8) * ld + c) = low;
    }
  }
  float sum[latent_column_tiles][4] = {};
  float top = -INFINITY, total = 0;  // of head `warp`
#pragma unroll 1
  for (int at = begin; at < end; at += latent_tile, known = 0) {
    if (at > begin) __syncthreads();
    fetch(at, known, latent_tile);
    copies_done();
    // Entries beyond the end: zeros, since 0 times what memory holds need not be 0.
#pragma unroll 1
    for (int j = end - at + warp; j < latent_tile; j += warps) {
      for (int c = lane * wide<bf16>; c < width; c += 32 * wide<bf16>)
        *reinterpret_cast<uint4*>(entries + j * ld + c) = uint4{};
    }
    __syncthreads();
    float score[4][4] = {};
    const bf16* const query = queries + lane % 16 * ld + lane / 16 * 8;
    const bf16* const entry = entries + (8 * warp + lane % 8) * ld + lane / 8 % 2 * 8;
    int k = 0;
#pragma unroll 1
    for (; k + 64 <= width; k += 64) {
      std::uint32_t a[4][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_matrices(a[i], query + k + 16 * i);
        load_matrices(b[i], entry + k + 16 * i);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) mma(score[i], a[i][0], a[i][1], a[i][2], a[i][3], b[i][0], b[i][1]);
    }
#pragma unroll 1
    for (; k < width; k += 16) {
      std::uint32_t a[4], b[2];
      load_matrices(a, query + k);
      load_matrices(b, entry + k);
      mma(score[0], a[0], a[1], a[2], a[3], b[0], b[1]);
    }
    const int column = 8 * warp + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float x = ((score[0][i] + score[1][i]) + (score[2][i] + score[3][i])) +
                      ((score[0][i + 2] + score[1][i + 2]) + (score[2][i + 2] + score[3][i + 2]));
      scores[lane / 4 * latent_tile + column + i] = at + column + i < end ? x * scale : -INFINITY;
    }
    __syncthreads();
    const float first = scores[warp * latent_tile + lane], second = scores[warp * latent_tile + lane + 32];
    const float highest = fmaxf(top, warp_max(fmaxf(first, second)));
    const float less = expf(top - highest);  // 0 at first
    const float p0 = expf(first - highest), p1 = expf(second - highest);
    put_halves(chances + warp * probability_row + lane, chances + (warp + 8) * probability_row + lane, p0);
    put_halves(chances + warp * probability_row + lane + 32,
               chances + (warp + 8) * probability_row + lane + 32, p1);
    total = total * less + warp_sum(p0 + p1);
    top = highest;
    if (lane == 0) shrink[warp] = less;
    __syncthreads();
    const float factor = shrink[lane / 4];
    std::uint32_t a[latent_tile / 16][4];
#pragma unroll
    for (int k = 0; k < latent_tile / 16; ++k)
      load_matrices(a[k], chances + lane % 16 * probability_row + 16 * k + lane / 16 * 8);
#pragma unroll
    for (int i = 0; i < latent_column_tiles; ++i) {
      const int c = 8 * (warp + 8 * i);
      if (c >= latent) break;
#pragma unroll
      for (int n = 0; n < 4; ++n) sum[i][n] *= factor;
      std::uint32_t b[latent_tile / 16][2];
#pragma unroll
      for (int k = 0; k < latent_tile / 16; ++k)
        load_transposed(b[k], entries + (16 * k + lane % 16) * ld + c);
#pragma unroll
      for (int k = 0; k < latent_tile / 16; ++k)
        mma(sum[i], a[k][0], a[k][1], a[k][2], a[k][3], b[k][0], b[k][1]);
    }
  }
  const Index block = (row * to.parts + blockIdx.x) * s.heads + first_head;
  if (lane / 4 < heads) {
    float* const o = to.o + (block + lane / 4) * latent;  // [latent]
#pragma unroll
    for (int i = 0; i < latent_column_tiles; ++i) {
      const int c = 8 * (warp + 8 * i);
      if (c >= latent) break;
      *reinterpret_cast<float2*>(o + c + lane % 4 * 2) =
          make_float2(sum[i][0] + sum[i][2], sum[i][1] + sum[i][3]);
    }
  }
  if (warp < heads && lane == 0)
    *reinterpret_cast<float2*>(to.top_total + 2 * (block + warp)) = make_float2(top, total);
}

}  // namespace mtpx::cuda
