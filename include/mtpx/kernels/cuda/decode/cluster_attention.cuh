#pragma once
// The first step of a layer in a cluster: queries of a head, the new cache entries, attention to a part of
// the positions.

#include "cluster_block.cuh"

namespace mtpx::cuda {

__device__ __forceinline__ void load_transposed(std::uint32_t (&r)[4], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}

/// A thread block with one head and one part of the positions.   latent_tiles: of 8 columns, that a warp
/// holds sums of
template <int latent_tiles>
struct ClusterAttention : ClusterBlock {
  int turns = 0;  // a bit for each buffer of entries: whether its next turn is odd

  using ClusterBlock::ClusterBlock;

  // --- 1: queries and entries ---------------------------------------------------------------------------

  /// made = [q | kv], of one product.
  __device__ __forceinline__ void make() const {
    const int all = (s.nope + s.rope + s.latent + s.rope) / 8;
    const bf16* const a = at(s.normed) + row * row_stride(s.hidden) + lane % 4 * 8;
    const bf16* const rows_of_w = at(s.q) + row * s.hidden + lane % 4 * 8;
    bf16* const to = at(s.made) + row * s.made_stride() + column;
#pragma unroll 1
    for (int t = warp; t < all; t += 2 * cluster_warps) {
      const int next = t + cluster_warps;
      const bf16* const w[2] = {rows_of_w + 8 * t * s.hidden, rows_of_w + 8 * min(next, all - 1) * s.hidden};
      TileSums<2> sums;
      sums.add(a, w, 0, s.hidden / stream_step, meets_banks(s.hidden) && row % 2 != 0);
      *reinterpret_cast<std::uint32_t*>(to + 8 * t) =
          both(narrow<bf16>(sums.total(0, 0)), narrow<bf16>(sums.total(0, 1)));
      if (next < all)
        *reinterpret_cast<std::uint32_t*>(to + 8 * next) =
            both(narrow<bf16>(sums.total(1, 0)), narrow<bf16>(sums.total(1, 1)));
    }
  }

  /// Absorbed and rotated queries, in halves; the rows' cache entries.
  __device__ __forceinline__ void absorb(const ClusterLayer& l) const {
    const int ld = s.entry_stride(), made_ld = s.made_stride(), wk_ld = s.latent;
    bf16* const queries = at(s.queries);
#pragma unroll 1
    for (int t = warp; t < s.latent / 8; t += cluster_warps) {
      float sum[4] = {};
#pragma unroll 2
      for (int k = 0; k < s.nope; k += 16) {
        const bf16* const q = at(s.made) + row * made_ld + k + column;
        std::uint32_t b[2];
        mtpx::cuda::load_transposed(b, at(s.kv_b) + (k + lane % 16) * wk_ld + 8 * t);
        mma(sum, *reinterpret_cast<const std::uint32_t*>(q), 0,
            *reinterpret_cast<const std::uint32_t*>(q + 8), 0, b[0], b[1]);
      }
      const PairHalves halves(sum[0], sum[1]);
      *reinterpret_cast<std::uint32_t*>(queries + row * ld + 8 * t + column) = halves.high;
      *reinterpret_cast<std::uint32_t*>(queries + (row + 8) * ld + 8 * t + column) = halves.low;
    }
    const int r = cluster_warps - 1 - warp;  // those that have no tile above
    if (r >= s.rows) return;
    const bf16* const q = at(s.made) + r * made_ld + s.nope;       // [rope | latent | rope]
    bf16* const entry = at(s.fresh) + r * ld;                      // [latent | rope]
    const float* const angles = at<float>(s.angles) + r * s.rope;  // [rope / 2] twice
    norm_row<2>(s.latent, s.share_of_latent, q + s.rope, at<float>(s.kv_norm), l.latent_eps, entry);
#pragma unroll 1
    for (int j = lane; j < s.rope; j += 32) {
      const bool of_entry = j >= s.rope / 2;
      const int pair = of_entry ? j - s.rope / 2 : j;
      const bf16* const turned = q + (of_entry ? s.rope + s.latent : 0) + 2 * pair;
      const exact::Rotated<float> now(widen(turned[0]), widen(turned[1]), angles[pair],
                                      angles[s.rope / 2 + pair]);
      const std::uint32_t out = both(narrow<bf16>(now.even), narrow<bf16>(now.odd));
      const int c = s.latent + 2 * pair;
      if (of_entry) {
        *reinterpret_cast<std::uint32_t*>(entry + c) = out;
      } else {
        *reinterpret_cast<std::uint32_t*>(queries + r * ld + c) = out;
        *reinterpret_cast<std::uint32_t*>(queries + (r + 8) * ld + c) = 0;
      }
    }
    const int sequence = __shfl_sync(whole_warp, own_sequence, r),
              place = __shfl_sync(whole_warp, own_place, r);
    if (rank > 0) return;
    __syncwarp();
    bf16* const to = l.cache + (sequence * s.capacity + place) * (s.latent + s.rope);
#pragma unroll 1
    for (int c = 8 * lane; c < s.latent + s.rope; c += 256)
      *reinterpret_cast<uint4*>(to + c) = *reinterpret_cast<const uint4*>(entry + c);
  }

  // --- 1: attention -------------------------------------------------------------------------------------

  /// Entries of a chunk that this pass writes, behind those that were copied. Beyond the last there are
  /// zeros, since 0 times what memory holds need not be 0.
  __device__ __forceinline__ void complete(const bf16* cache, const ClusterGroup& g, int chunk,
                                           int buffer) const {
    const int begin = chunk * cluster_entries, end = min(cluster_entries, g.last + 1 - begin);
    const int width = s.latent + s.rope;
    bf16* const to = entries(buffer, warp);
#pragma unroll 1
    for (int j = max(0, g.fresh - begin); j < end; ++j) {
      const auto place = static_cast<int>(TreePaths::at(g.path, begin + j));
      const bf16* from = cache + (g.sequence * s.capacity + place) * width;
      const unsigned own = __ballot_sync(whole_warp, own_sequence == g.sequence && own_place == place);
      if (own != 0) from = at(s.fresh) + (__ffs(static_cast<int>(own)) - 1) * s.entry_stride();
#pragma unroll 1
      for (int c = 8 * lane; c < width; c += 256)
        *reinterpret_cast<uint4*>(to + j * width + c) = *reinterpret_cast<const uint4*>(from + c);
    }
#pragma unroll 1
    for (int c = end * width + 8 * lane; c < cluster_entries * width; c += 256)
      *reinterpret_cast<uint4*>(to + c) = uint4{};
  }

  /// What the warps leave behind: [warps][rows][latent], then [warps][rows] of top and total.
  __device__ __forceinline__ float* partial(int w, int r) const {
    return at<float>(s.q) + (w * cluster_rows + r) * s.latent;
  }
  __device__ __forceinline__ float2* partial_top(int w, int r) const {
    return reinterpret_cast<float2*>(at<float>(s.q) + cluster_warps * cluster_rows * s.latent) +
           w * cluster_rows + r;
  }

  /// Scores and sums over this warp's chunks, a group of rows after the other. Of the first group, g, two
  /// chunks are on their way.
  __device__ __forceinline__ void attend(const ClusterLayer& l, ClusterGroup g) {
    const int ld = s.entry_stride(), width = s.latent + s.rope, step = chunk_step();
    bool fetched = true;
    unsigned left = (1U << s.rows) - 1;
#pragma unroll 1
    while (left != 0) {
      if (!fetched) {
        g = group_of(left);
        order_before_copies();
        __syncwarp();
#pragma unroll 1
        for (int i = 0; i < 2; ++i) fetch_entries(l.cache, g, first_chunk(warp) + i * step, i, warp);
      }
      fetched = false;
      left &= ~g.members;
      const int mine = (g.members >> row & 1) != 0 ? position : -1;  // entries up to this one
      float sum[latent_tiles][4] = {};
      float top = -INFINITY, total = 0;
#pragma unroll 1
      for (int chunk = first_chunk(warp), buffer = 0; chunk * cluster_entries <= g.last;
           chunk += step, buffer = 1 - buffer) {
        entries_arrival(buffer, warp).template wait<true>(turns >> buffer & 1, "entries");
        turns ^= 1 << buffer;
        const bool first = chunk == first_chunk(warp);
        complete(l.cache, g, chunk, buffer);
        __syncwarp();
        const bf16* const from = entries(buffer, warp);
        float score[cluster_entries / 8][4] = {};
#pragma unroll 5
        for (int k = 0; k < width; k += 16) {
          std::uint32_t a[4];
          load_matrices(a, at(s.queries) + lane % 16 * ld + k + lane / 16 * 8);
#pragma unroll
          for (int n = 0; n < cluster_entries / 16; ++n) {
            std::uint32_t b[4];
            load_matrices(b, from + (16 * n + lane / 16 * 8 + lane % 8) * width + k + lane / 8 % 2 * 8);
            mma(score[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
            mma(score[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
          }
        }
        float p[cluster_entries / 8][2], highest = top;
#pragma unroll
        for (int n = 0; n < cluster_entries / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float x = (score[n][i] + score[n][i + 2]) * l.scale;
            p[n][i] = chunk * cluster_entries + 8 * n + column + i <= mine ? x : -INFINITY;
            highest = fmaxf(highest, p[n][i]);
          }
        }
        highest = fmaxf(highest, __shfl_xor_sync(whole_warp, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(whole_warp, highest, 2));
        const float base = highest == -INFINITY ? 0.0F : highest;
        const float less = power_of_two(top - base);
        top = highest;
        total *= less;
        std::uint32_t chance[cluster_entries / 8][2];  // halves
#pragma unroll
        for (int n = 0; n < cluster_entries / 8; ++n) {
          const float one = power_of_two(p[n][0] - base), two = power_of_two(p[n][1] - base);
          total += one;
          total += two;
          const PairHalves halves(one, two);
          chance[n][0] = halves.high;
          chance[n][1] = halves.low;
        }
#pragma unroll
        for (int t = 0; t < latent_tiles; t += 2) {
          if (8 * t >= s.latent) break;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (first) break;
            sum[t][i] *= less;
            sum[t + 1][i] *= less;
          }
#pragma unroll
          for (int n = 0; n < cluster_entries / 16; ++n) {
            std::uint32_t b[4];
            mtpx::cuda::load_transposed(b, from + (16 * n + lane % 16) * width + 8 * t + lane / 16 * 8);
            mma(sum[t], chance[2 * n][0], chance[2 * n][1], chance[2 * n + 1][0], chance[2 * n + 1][1], b[0],
                b[1]);
            mma(sum[t + 1], chance[2 * n][0], chance[2 * n][1], chance[2 * n + 1][0], chance[2 * n + 1][1],
                b[2], b[3]);
          }
        }
        if ((chunk + 2 * step) * cluster_entries > g.last) continue;
        order_before_copies();
        __syncwarp();
        fetch_entries(l.cache, g, chunk + 2 * step, buffer, warp);
      }
      total += __shfl_xor_sync(whole_warp, total, 1);
      total += __shfl_xor_sync(whole_warp, total, 2);
      if (mine >= 0) {
#pragma unroll
        for (int t = 0; t < latent_tiles; ++t) {
          if (8 * t >= s.latent) break;
          *reinterpret_cast<float2*>(partial(warp, row) + 8 * t + column) =
              make_float2(sum[t][0] + sum[t][2], sum[t][1] + sum[t][3]);
        }
        if (column == 0) *partial_top(warp, row) = make_float2(top, total);
      }
      __syncwarp();
    }
  }

  /// The warps' parts together, in their order, in halves; a row a warp.
  __device__ __forceinline__ void join_warps() const {
    if (warp >= s.rows) return;
    float top[cluster_warps], highest = -INFINITY, total = 0;
#pragma unroll
    for (int w = 0; w < cluster_warps; ++w) {
      top[w] = partial_top(w, warp)->x;
      highest = fmaxf(highest, top[w]);
    }
    const float base = highest == -INFINITY ? 0.0F : highest;
#pragma unroll
    for (int w = 0; w < cluster_warps; ++w) {
      top[w] = power_of_two(top[w] - base);
      total = fmaf(top[w], partial_top(w, warp)->y, total);
    }
    if (lane == 0) at<float2>(s.tops)[warp] = make_float2(highest, total);
#pragma unroll 1
    for (int c = 2 * lane; c < s.latent; c += 64) {
      float2 sum{};
#pragma unroll
      for (int w = 0; w < cluster_warps; ++w) {
        const float2 x = *reinterpret_cast<const float2*>(partial(w, warp) + c);
        sum.x = fmaf(top[w], x.x, sum.x);
        sum.y = fmaf(top[w], x.y, sum.y);
      }
      const PairHalves halves(sum.x, sum.y);
      *reinterpret_cast<std::uint32_t*>(at(s.queries) + warp * s.entry_stride() + c) = halves.high;
      *reinterpret_cast<std::uint32_t*>(at(s.queries) + (warp + 8) * s.entry_stride() + c) = halves.low;
    }
  }

  /// W_UV of this part's sums, to all: floats, not divided yet. Warps without a tile of their own make
  /// another's, for other receivers.
  __device__ __forceinline__ void send_part() const {
    const Arrival arrived = arrival(parts_come);
    const int ld = s.latent, stride = s.part_stride(), tiles = s.v / 8;
    const int ways = 1 << s.log_ways, way = warp & (ways - 1), together = cluster_warps >> s.log_ways;
    float* const to = at<float>(s.parts_of_all);
    if (warp < s.rows && lane < s.blocks) {
      const float2 top = at<float2>(s.tops)[warp];
      send(in_cluster(shared_address(to + (warp * s.units() + rank) * stride + s.v), lane),
           uint4{__float_as_uint(top.x), __float_as_uint(top.y), 0, 0}, in_cluster(arrived.at, lane));
    }
    __syncwarp();
#pragma unroll 1
    for (int t = warp >> s.log_ways; t < tiles; t += together) {
      float sum[4] = {};
#pragma unroll 4
      for (int k = 0; k < s.latent; k += 16) {
        std::uint32_t a[4], b[2];
        load_matrices(a, at(s.queries) + lane % 16 * s.entry_stride() + k + lane / 16 * 8);
        load_matrices(b, at(s.kv_b) + (s.nope + 8 * t + lane % 8) * ld + k + lane / 8 % 2 * 8);
        mma(sum, a[0], a[1], a[2], a[3], b[0], b[1]);
      }
      const float x = sum[0] + sum[2], y = sum[1] + sum[3];
      const float other_x = __shfl_xor_sync(whole_warp, x, 1), other_y = __shfl_xor_sync(whole_warp, y, 1);
      const bool even = lane % 2 == 0;
      const uint4 four = {__float_as_uint(even ? x : other_x), __float_as_uint(even ? y : other_y),
                          __float_as_uint(even ? other_x : x), __float_as_uint(even ? other_y : y)};
      const std::uint32_t here =
          shared_address(to + (row * s.units() + rank) * stride + 8 * t + lane % 4 / 2 * 4);
      if (row < s.rows) {
#pragma unroll 2
        for (int d = 2 * way + lane % 2; d < s.blocks; d += 2 * ways)
          send(in_cluster(here, d), four, in_cluster(arrived.at, d));
      }
    }
  }
};

}  // namespace mtpx::cuda
