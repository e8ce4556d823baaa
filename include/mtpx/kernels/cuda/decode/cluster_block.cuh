#pragma once
// A thread block of a cluster that runs whole layers: what it fetches, and the steps behind the attention.

#include "cluster_shape.cuh"

namespace mtpx::cuda {

/// Outputs of a product that this block makes, and this warp's share of their sums.
struct ClusterShare {
  int first, tiles;           // of 8 outputs
  int tile, part, step, end;  // the first of this warp; its part of a sum: steps of 32 numbers

  __device__ __forceinline__ ClusterShare(const ClusterSlice& c, int rank, int blocks, int warp)
      : first(c.begin(rank, blocks)), tiles(c.begin(rank + 1, blocks) - first) {
    const int steps = c.in / stream_step, even = meets_banks(c.in) ? 1 : 0;
    const int each = ((steps + c.split - 1) / c.split + even) & ~even;
    tile = warp / c.split;
    part = warp % c.split;
    step = part * each;
    end = min(steps, step + each);
  }
};

/// What a thread block waits for.
enum ClusterArrival : int {
  parts_come,
  attended_come,
  activated_come,
  rows_come,
  queries_come,
  o_come,
  ffn_come,
  entries_come
};

/// Rows of a launch that share a cache's entries: of a tree, one.
struct ClusterGroup {
  unsigned members;
  int sequence, last, fresh;  // position of the last entry; the first that this pass writes
  const std::int32_t* path;
};

/// Meetings of warps: of those that multiply, and of them with the one that queues copies.
enum ClusterMeeting : int { its_step = 1, queries_made, queries_left, o_left, ffn_left };

inline constexpr int cluster_threads = stream_threads + 32;

__device__ __forceinline__ void meet_at(ClusterMeeting way, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(static_cast<int>(way)), "r"(threads) : "memory");
}

/// A thread block's view of the launch. What depends on sizes alone is made once: divisions take long.
struct ClusterBlock {
  const ClusterShape& s;
  int rank, warp, lane, row, column;  // row, column: of this lane's sums in a tile
  bool attends;
  int head, part;
  ClusterShare o, inner, down;
  int v_head, v_column;                   // of this lane's eight numbers of a joined row
  int position = -1;                      // of row `row` of this launch
  int own_sequence = -1, own_place = -1;  // of row `lane`

  __device__ __forceinline__ explicit ClusterBlock(const ClusterShape& shape)
      : s(shape),
        rank(static_cast<int>(blockIdx.x)),
        warp(static_cast<int>(threadIdx.x / 32)),
        lane(static_cast<int>(threadIdx.x % 32)),
        row(lane / 4),
        column(lane % 4 * 2),
        attends(rank < shape.units()),
        head(rank / shape.parts),
        part(rank % shape.parts),
        o(shape.o_slice, rank, shape.blocks, warp),
        inner(shape.inner_slice, rank, shape.blocks, warp),
        down(shape.down_slice, rank, shape.blocks, warp),
        v_head(8 * lane / shape.v),
        v_column(8 * lane % shape.v) {
    if (row < s.rows) position = s.positions[s.first + row];
    if (lane >= s.rows) return;
    own_sequence = s.sequences[s.first + lane];
    own_place = s.places[s.first + lane];
  }

  template <typename T = bf16>
  __device__ __forceinline__ T* at(int offset) const {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(cluster_memory) + offset);
  }
  __device__ __forceinline__ Arrival arrival(int i) const {
    return Arrival(shared_address(at<std::uint64_t>(s.barriers) + i));
  }

  /// Steps of this block's warps but the one that queues copies.
  __device__ __forceinline__ void meet() const { meet_at(its_step, stream_threads); }
  /// Tells the warp that queues copies that this one has no use any more for what `way` says; that warp
  /// waits.
  __device__ __forceinline__ void leave(ClusterMeeting way) const {
    asm volatile("bar.arrive %0, %1;" ::"r"(static_cast<int>(way)), "n"(cluster_threads) : "memory");
  }
  __device__ __forceinline__ void await(ClusterMeeting way) const { meet_at(way, cluster_threads); }

  // --- Entries of the cache -----------------------------------------------------------------------------

  __device__ __forceinline__ ClusterGroup group_of(unsigned left) const {
    ClusterGroup g;
    const int lead = __ffs(static_cast<int>(left)) - 1;
    g.sequence = __shfl_sync(whole_warp, own_sequence, lead);
    g.path = s.paths.of(s.first + lead);
    g.members = g.path != nullptr ? 1U << lead : __ballot_sync(whole_warp, own_sequence == g.sequence);
    g.last = __reduce_max_sync(whole_warp, (g.members >> row & 1) != 0 ? position : 0);
    int fresh = 0x7fffffff;
#pragma unroll 1
    for (int i = lane; i < s.all_rows; i += 32) {
      if (s.sequences[i] == g.sequence) fresh = min(fresh, s.positions[i]);
    }
    g.fresh = __reduce_min_sync(whole_warp, fresh);
    return g;
  }

  /// A warp's chunks of 32 positions are those from first_chunk() on, chunk_step() apart, whatever the row.
  __device__ __forceinline__ int first_chunk(int w) const { return part * stream_warps + w; }
  __device__ __forceinline__ int chunk_step() const { return s.parts * stream_warps; }
  __device__ __forceinline__ bf16* entries(int buffer, int w) const {
    return at(buffer == 0 ? s.entries : s.more_entries) + w * cluster_entries * (s.latent + s.rope);
  }
  __device__ __forceinline__ Arrival entries_arrival(int buffer, int w) const {
    return arrival(entries_come + 1 + 2 * w + buffer);
  }
  /// Queues a copy of the entries of warp w's chunk that earlier passes wrote, by a warp.
  __device__ __forceinline__ void fetch_entries(const bf16* cache, const ClusterGroup& g, int chunk,
                                                int buffer, int w) const {
    const int begin = chunk * cluster_entries, width = s.latent + s.rope;
    if (begin > g.last) return;
    const Arrival arrived = entries_arrival(buffer, w);
    const int known = max(0, min(cluster_entries, min(g.fresh, g.last + 1) - begin));
    if (lane == 0) {
      arrived.expect(2 * known * width);
      if (known > 0)
        fetch_bytes(shared_address(entries(buffer, w)), cache + (g.sequence * s.capacity + begin) * width,
                    static_cast<std::uint32_t>(2 * known * width), arrived.at);
    }
    __syncwarp();
  }

  // --- Steps ------------------------------------------------------------------------------------------

  __device__ __forceinline__ void norm(int from, int gain, float eps) const {
    if (warp < s.rows) {
      norm_row(s.hidden, at(from) + warp * row_stride(s.hidden), at<float>(gain), eps,
               at(s.normed) + warp * row_stride(s.hidden));
    }
  }

  /// o = the parts of a head together, in their order, rounded; a row a warp.
  __device__ __forceinline__ void join_parts() const {
    if (warp >= s.rows) return;
    const int stride = s.part_stride();
#pragma unroll 1
    for (int c = 8 * lane; c < s.heads * s.v; c += 256) {
      const int h = c < 256 ? v_head : c / s.v, in_head = c < 256 ? v_column : c % s.v;
      const float* const from =
          at<float>(s.parts_of_all) + (warp * s.units() + h * s.parts) * stride;  // [parts][v + 4]
      float highest = -INFINITY, total = 0, sum[8] = {};
#pragma unroll 2
      for (int n = 0; n < s.parts; ++n) highest = fmaxf(highest, from[n * stride + s.v]);
#pragma unroll 2
      for (int n = 0; n < s.parts; ++n) {
        const float* const one = from + n * stride;
        const float share = exponential<bf16>(one[s.v] - highest);
        total = fmaf(share, one[s.v + 1], total);
        const float4 low = *reinterpret_cast<const float4*>(one + in_head),
                     high = *reinterpret_cast<const float4*>(one + in_head + 4);
        const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] = fmaf(share, x[j], sum[j]);
      }
      const float f = __fdividef(1.0F, total);
      Pack<bf16, 8> out;
#pragma unroll
      for (int j = 0; j < 8; ++j) out.value[j] = narrow<bf16>(sum[j] * f);
      *reinterpret_cast<Pack<bf16, 8>*>(at(s.normed) + warp * row_stride(s.heads * s.v) + c) = out;
    }
  }

  /// Sums of this block's outputs of a product, cut over warps.
  __device__ __forceinline__ void multiply(const ClusterSlice& c, const ClusterShare& own, int from,
                                           int w) const {
    const int ld = row_stride(c.in);
#pragma unroll 1
    for (int t = own.tile; t < own.tiles; t += s.warps_of(c)) {
      const bf16* const row_of[1] = {at(w) + (8 * t + row) * c.in + lane % 4 * 8};
      TileSums<1> sums;
      sums.add(at(from) + row * ld + lane % 4 * 8, row_of, own.step, own.end,
               meets_banks(c.in) && row % 2 != 0);
      *reinterpret_cast<float2*>(at<float>(s.sums) + ((t * c.split + own.part) * 8 + row) * 8 + column) =
          make_float2(sums.total(0, 0), sums.total(0, 1));
    }
  }
  /// residual + the product, rounded, to all or to global memory. Eight threads a row of a tile.
  __device__ __forceinline__ void finish(const ClusterSlice& c, const ClusterShare& own, int residual, int to,
                                         int arrives, bf16* y) const {
    const std::uint32_t arrived = arrival(arrives).at;
    const int ld = row_stride(s.hidden), r = warp % 2 * 4 + row / 2, j = lane % 8;
    if (warp % 2 * 4 >= s.rows) return;
#pragma unroll 1
    for (int t = warp / 2; t < own.tiles; t += stream_warps / 2) {
      const int first = 8 * (own.first + t);
      const float* const sums = at<float>(s.sums) + (t * c.split * 8 + r) * 8 + j;
      float total = 0;
#pragma unroll 4
      for (int n = 0; n < c.split; ++n) total += sums[n * 64];
      const bf16 out = narrow<bf16>(widen(at(residual)[r * ld + first + j]) + widen(narrow<bf16>(total)));
      const std::uint32_t one = out.bits, other = __shfl_xor_sync(whole_warp, one, 1);
      const std::uint32_t pair = lane % 2 == 0 ? one | other << 16 : other | one << 16;
      uint4 x;
      x.x = __shfl_sync(whole_warp, pair, lane / 8 * 8);
      x.y = __shfl_sync(whole_warp, pair, lane / 8 * 8 + 2);
      x.z = __shfl_sync(whole_warp, pair, lane / 8 * 8 + 4);
      x.w = __shfl_sync(whole_warp, pair, lane / 8 * 8 + 6);
      if (r >= s.rows) continue;
      if (y != nullptr) {
        if (j == 0) *reinterpret_cast<uint4*>(y + r * static_cast<Index>(s.hidden) + first) = x;
        continue;
      }
      const std::uint32_t here = shared_address(at(to) + r * ld + first);
#pragma unroll 2
      for (int d = j; d < s.blocks; d += 8) send(in_cluster(here, d), x, in_cluster(arrived, d));
    }
  }
  /// silu(gate) * up of this block's outputs, to all.
  __device__ __forceinline__ void activate() const {
    const ClusterSlice& c = s.inner_slice;
    const Arrival arrived = arrival(activated_come);
    const int ld = row_stride(s.hidden);
    const bf16* const a = at(s.normed) + row * ld + lane % 4 * 8;
#pragma unroll 1
    for (int t = warp; t < inner.tiles; t += stream_warps) {
      const bf16* const gate = at(s.gate) + (8 * t + row) * s.hidden + lane % 4 * 8;
      const bf16* const w[2] = {gate, gate + 8 * c.most * s.hidden};
      TileSums<2> sums;
      sums.add(a, w, 0, s.hidden / stream_step, meets_banks(s.hidden) && row % 2 != 0);
      bf16 out[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bf16 g = narrow<bf16>(sums.total(0, i)), u = narrow<bf16>(sums.total(1, i));
        out[i] = narrow<bf16>(swiglu_of<bf16>(widen(g), widen(u)));
      }
      const uint4 x = gather_pairs(both(out[0], out[1]));
      if (row >= s.rows) continue;
      const std::uint32_t here =
          shared_address(at(s.activated) + row * row_stride(s.inner) + 8 * (inner.first + t));
#pragma unroll 4
      for (int d = lane % 4; d < s.blocks; d += 4) send(in_cluster(here, d), x, in_cluster(arrived.at, d));
    }
  }
};

}  // namespace mtpx::cuda
