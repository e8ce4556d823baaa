#pragma once
// What the Hopper attention kernels share: whole sequences for the copy engine, the order of the work,
// products over tiles, masks, and wide stores of sums.
//
// A block is a warpgroup that copies and two that multiply, each with 64 rows of the block's 128. `nope` and
// `value` are multiples of 64, and `rope` is one slab of 64 columns: where rotary keys are narrower, the copy
// engine fills the rest of the keys' slab with zeros, which whatever stands beside a query's columns is
// multiplied by. So a query or key is width = nope + 64 wide in shared memory, and [k_nope | k_rope] never
// stands in global memory.

#include "wgmma.cuh"

namespace mtpx::cuda::sm90 {

inline constexpr int attention_threads = 3 * 128;
inline constexpr int copying_registers = 40, multiplying_registers = 232;  // 3 * 168 in all
inline constexpr float log2_e = 1.4426950408889634F;

// --- Sequences and the copy engine -------------------------------------------------------------------------

/// x [batch, time, columns] in boxes of [1, box_rows, 64] (see tiled_map()). Rows past the end of a sequence
/// arrive as zeros: a tile that reaches beyond it sees nothing of the next one.
inline CUtensorMap sequence_map(const Cuda& device, const bf16* x, Index batch, Index time, Index columns,
                                int box_rows) {
  const auto bytes = static_cast<cuuint64_t>(columns) * sizeof(bf16);
  return tiled_map<3>(
      device, x,
      {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(time), static_cast<cuuint64_t>(batch)},
      {bytes, bytes * static_cast<cuuint64_t>(time)}, {64, static_cast<cuuint32_t>(box_rows), 1});
}

/// Starts the copy of rows [row, row + rows) of sequence b, 64 * slabs columns from `column` on, as slabs
/// of 64. One thread.
template <int rows, int slabs>
__device__ __forceinline__ void load_slabs(bf16* to, const CUtensorMap& map, Barrier& barrier, int b, int row,
                                           int column) {
#pragma unroll
  for (int slab = 0; slab < slabs; ++slab) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to + slab * rows * 64)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(column + 64 * slab), "r"(row), "r"(b)
        : "memory");
  }
}

/// Starts the copy of `bytes` neighbours, a multiple of 16. One thread.
__device__ __forceinline__ void load_bytes(void* to, const void* from, Barrier& barrier, int bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}

/// A consumer's thread is done with a slot, which all of them make free. (One arrival a warp would do, behind
/// a
/// __syncwarp(); but checkers of races then see no order between the other lanes' reads and the next copy.)
inline constexpr unsigned consumer_warps = 8, consumer_threads = 32 * consumer_warps;
__device__ __forceinline__ void release(Barrier& barrier) { arrive(barrier); }

/// Tells a named barrier that this thread has come, without waiting.
__device__ __forceinline__ void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// --- The order of the work ---------------------------------------------------------------------------------

/// All (head, tile) of a kernel; rank 0 is the tile with the most work, which the causal mask makes fall by
/// even steps. In groups of heads, so that the second cache holds what a group reads, the heaviest tiles
/// first. Blocks take the next one when they are ready for it: who takes which differs from run to run, the
/// results do not.
struct Work {
  int heads;  // of all sequences
  int tiles;
  int* next;  // how many were taken beyond the first of every block; zero at the start
  static constexpr int group = 8;

  __device__ __forceinline__ int count() const { return heads * tiles; }
};

/// One of them.
struct Item {
  int head;
  int rank;
  __device__ __forceinline__ Item(const Work& work, int at) {
    const int first = at / (work.group * work.tiles) * work.group;
    const int members = min(work.group, work.heads - first);
    const int within = at - first * work.tiles;
    rank = within / members;
    head = first + within % members;
  }
};

/// Where the copying warp tells the others of a block what is next.
struct Queue {
  Barrier full, empty;
  int at;

  __device__ __forceinline__ void init_one() {
    init(full, 1);
    init(empty, consumer_warps);
  }
  /// The copying warp, in round 0, 1, ..: what is next, for itself and the others. From work.count() on: no
  /// more.
  __device__ __forceinline__ int push(const Work& work, int round) {
    int taken = 0;
    if (threadIdx.x % 32 == 0) {
      taken = static_cast<int>(blockIdx.x);
      if (round > 0) taken = static_cast<int>(gridDim.x) + atomicAdd(work.next, 1);
      wait(empty, round % 2 ^ 1);
      at = taken;
      arrive(full);
    }
    return __shfl_sync(whole_warp, taken, 0);
  }
  /// The others.
  __device__ __forceinline__ int pop(int round) {
    wait(full, round % 2);
    int taken = 0;
    if (threadIdx.x % 32 == 0) {
      taken = at;
      arrive(empty);
    }
    return __shfl_sync(whole_warp, taken, 0);
  }
};

/// The least key that queries [first, first + count) see: i - positions[i], at most `first`. Whole warps.
__device__ __forceinline__ int first_key(const std::int32_t* positions, int first, int count, int time) {
  int least = first;
  for (int i = first + static_cast<int>(threadIdx.x) % 32; i < min(first + count, time); i += 32) {
    least = min(least, max(0, i - positions[i]));
  }
  return __reduce_min_sync(whole_warp, least);
}

// --- Products over tiles -----------------------------------------------------------------------------------

/// sums [64, n] = A B^T over `width` columns: 64 rows of A's slabs of `a_rows`, n rows of B's slabs of
/// `b_rows`.
template <int n, int width, int a_rows, int b_rows>
__device__ __forceinline__ void multiply_transposed(float (&sums)[n / 2], const bf16* a, const bf16* b) {
#pragma unroll
  for (int slab = 0; slab < width / 64; ++slab) {
    const std::uint64_t a_at = k_major(a + slab * a_rows * 64);
    const std::uint64_t b_at = k_major(b + slab * b_rows * 64);
#pragma unroll
    for (int k = 0; k < 4; ++k) product<n>(sums, a_at + k_step(k), b_at + k_step(k), slab + k > 0);
  }
}

/// sums [64, n] (+)= A B: A [64, depth] in registers, B [depth, n] in slabs of `depth` rows.
template <int n, int depth>
__device__ __forceinline__ void multiply(float (&sums)[n / 2], const std::uint32_t (&a)[depth / 16][4],
                                         const bf16* b, bool accumulate) {
  const std::uint64_t b_at = mn_major(b, depth);
#pragma unroll
  for (int k = 0; k < depth / 16; ++k) product<n, 1>(sums, a[k], b_at + mn_step(k), accumulate || k > 0);
}

/// Sums [64, n] as an A, rounded to bf16.
template <int n>
__device__ __forceinline__ void pack(const float (&sums)[n / 2], std::uint32_t (&a)[n / 16][4]) {
#pragma unroll
  for (int c = 0; c < n / 16; ++c) {
    pack_a(sums, c, a[c]);
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[c][i])::"memory");  // before the products begin
  }
}

// --- Elements ----------------------------------------------------------------------------------------------

/// 2^x, to two units of the last place; 0 for -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 0 for the warpgroup that copies, 1 and 2 for those that multiply: the same in a warp, and known to be.
__device__ __forceinline__ int warpgroup() {
  return __shfl_sync(whole_warp, static_cast<int>(threadIdx.x) / 128, 0);
}

/// The row (of 64) and the column that a thread's sums start at.
__device__ __forceinline__ int sum_row() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ __forceinline__ int sum_column() { return static_cast<int>(threadIdx.x) % 4 * 2; }

/// Scores of queries (rows) and keys (columns): what a query does not see becomes `hidden`.
/// query: of this thread's first row   key: of its first column   low: the first key that each of its rows
/// sees
template <int n>
__device__ __forceinline__ void mask(float (&sums)[n], int query, int key, const int (&low)[2],
                                     float hidden) {
#pragma unroll
  for (int at = 0; at < n; ++at) {
    const int row = at / 2 % 2;
    const int j = key + at / 4 * 8 + at % 2;
    if (j > query + 8 * row || j < low[row]) sums[at] = hidden;
  }
}

/// The first `columns` of sums [64, 2 n], of which `count` exist, row r times factor[r], to bf16 rows
/// `stride` apart, of which those from `from` to `rows` exist: what a sink does. `to` is a multiple of 16
/// bytes, `count` of 8. Four neighbouring lanes hold 8 columns of a row in each of four registers; they
/// exchange them, so that each stores 16 bytes.
template <int columns, int n>
__device__ __forceinline__ void store_sums(float (&sums)[n], const float (&factor)[2], bf16* to, Index stride,
                                           int rows, int count, bool accumulate, int from = 0) {
  const int lane = static_cast<int>(threadIdx.x) % 4;
  const bool odd = lane % 2 != 0, high = lane / 2 != 0;
#pragma unroll
  for (int at = 0; at < columns / 2; ++at) sums[at] *= factor[at / 2 % 2];
  if (accumulate) {
#pragma unroll
    for (int at = 0; at < columns / 2; at += 2) {
      const int row = sum_row() + at / 2 % 2 * 8, column = at / 4 * 8 + sum_column();
      if (row >= rows || column >= count) continue;
      const std::uint32_t old = *reinterpret_cast<const std::uint32_t*>(to + row * stride + column);
      sums[at] += __uint_as_float(old << 16);
      sums[at + 1] += __uint_as_float(old & 0xffff0000U);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = sum_row() + 8 * i;
    bf16* const to_row = to + row * stride;  // [count]
#pragma unroll
    for (int c = 0; c < columns; c += 32) {
      std::uint32_t x[4];  // columns c + 8 j + 2 lane and the next, for j = 0 .. 3
#pragma unroll
      for (int j = 0; j < 4; ++j)
        x[j] = pack_pair(sums[c / 2 + 4 * j + 2 * i], sums[c / 2 + 4 * j + 2 * i + 1]);
      const std::uint32_t y0 = __shfl_xor_sync(whole_warp, odd ? x[0] : x[1], 1);
      const std::uint32_t y1 = __shfl_xor_sync(whole_warp, odd ? x[2] : x[3], 1);
      x[0] = odd ? y0 : x[0], x[1] = odd ? x[1] : y0;
      x[2] = odd ? y1 : x[2], x[3] = odd ? x[3] : y1;
      const std::uint32_t z0 = __shfl_xor_sync(whole_warp, high ? x[0] : x[2], 2);
      const std::uint32_t z1 = __shfl_xor_sync(whole_warp, high ? x[1] : x[3], 2);
      x[0] = high ? z0 : x[0], x[2] = high ? x[2] : z0;
      x[1] = high ? z1 : x[1], x[3] = high ? x[3] : z1;  // now columns c + 8 lane and the next 7
      if (row >= from && row < rows && c + 8 * lane < count) {
        *reinterpret_cast<uint4*>(to_row + c + 8 * lane) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }
}

// --- What is known of a query, for the backward pass -------------------------------------------------------

/// Of 64 queries of one head, as one piece for the copy engine. Past the end lse = infinity, so that P = 0.
struct QueryStats {
  float lse[64];  // in units of log 2
  float delta[64];
  int low[64];  // the first key that the query sees
};

/// stats [batch, heads, tiles] of o, d_o [batch, time, heads, value] and lse [batch, heads, time]. A block
/// takes one tile, `value` / 8 lanes a query.
template <int value>
__global__ void __launch_bounds__(256)
    attention_stats_kernel(const bf16* o, const bf16* d_o, const float* lse, const std::int32_t* positions,
                           int time, int heads, int tiles, QueryStats* stats) {
  using Eight = Pack<bf16, 8>;
  constexpr int lanes = value / 8, step = 256 / lanes;
  const int h = static_cast<int>(blockIdx.x) % heads;
  const int tile = static_cast<int>(blockIdx.x) / heads % tiles;
  const Index b = static_cast<int>(blockIdx.x) / heads / tiles;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  QueryStats& to = stats[(b * heads + h) * tiles + tile];
  float delta[64 / step] = {};
#pragma unroll
  for (int n = 0; n < 64 / step; ++n) {
    const int i = tile * 64 + n * step + static_cast<int>(threadIdx.x) / lanes;
    if (i >= time) continue;
    const Index at = ((b * time + i) * heads + h) * value + lane * 8;
    const Eight x = *reinterpret_cast<const Eight*>(o + at);
    const Eight y = *reinterpret_cast<const Eight*>(d_o + at);
#pragma unroll
    for (int c = 0; c < 8; ++c) delta[n] += widen(x.value[c]) * widen(y.value[c]);
  }
#pragma unroll
  for (int n = 0; n < 64 / step; ++n) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      delta[n] += __shfl_xor_sync(whole_warp, delta[n], offset);
    }
    if (lane == 0) to.delta[n * step + threadIdx.x / lanes] = delta[n];
  }
  if (threadIdx.x >= 64) return;
  const int i = tile * 64 + static_cast<int>(threadIdx.x);
  to.lse[threadIdx.x] = i < time ? lse[(b * heads + h) * time + i] * log2_e : INFINITY;
  to.low[threadIdx.x] = i < time && positions != nullptr ? max(0, i - positions[b * time + i]) : 0;
}

/// last[batch, tiles of `keys` keys]: the last query that sees a key of the tile. One warp each.
template <int keys>
__global__ void __launch_bounds__(32)
    last_query_kernel(const std::int32_t* positions, int time, int tiles, int* last) {
  const int begin = static_cast<int>(blockIdx.x) % tiles * keys;
  const std::int32_t* const p = positions + Index{blockIdx.x} / tiles * time;  // [time]
  int latest = min(begin + keys, time) - 1;
  for (int i = begin + static_cast<int>(threadIdx.x); i < time; i += 32) {
    if (i - p[i] < begin + keys) latest = i;
  }
  latest = __reduce_max_sync(whole_warp, latest);
  if (threadIdx.x == 0) last[blockIdx.x] = latest;
}

}  // namespace mtpx::cuda::sm90
