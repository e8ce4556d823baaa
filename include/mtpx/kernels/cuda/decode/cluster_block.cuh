#pragma once
// A thread block of a cluster that runs whole layers: what it fetches, and the steps behind the attention.

#include "cluster_shape.cuh"

namespace mtpx::cuda {

/// Outputs of a product that this block makes, in tiles of 8.
struct ClusterShare {
  int first, tiles;

  __device__ __forceinline__ ClusterShare(const ClusterSlice& c, int rank, int blocks)
      : first(c.begin(rank, blocks)), tiles(c.begin(rank + 1, blocks) - first) {}
};

/// What is waited for in a thread block: numbers that come, and warps that have no use any more for what is
/// to be copied over.
enum ClusterArrival : int {
  parts_come,
  attended_come,
  activated_come,
  rows_come,
  queries_come,
  o_come,
  ffn_come,
  queries_made,
  queries_left,
  o_left,
  ffn_left,
  entries_come  // two a warp
};

/// Rows of a launch that share a cache's entries: of a tree, one.
struct ClusterGroup {
  unsigned members;
  int sequence, last, fresh;  // position of the last entry; the first that this pass writes
  const std::int32_t* path;
};

inline constexpr int cluster_barriers = entries_come + 2 * cluster_warps;

/// A thread block's view of the launch. What depends on sizes alone is made once: divisions take long.
struct ClusterBlock {
  const ClusterShape& s;
  int rank, warp, lane, row, column;  // row, column: of this lane's sums in a tile
  bool attends;
  int head, part;
  ClusterShare o, inner, down;
  int v_head, v_column;                   // of this lane's four numbers of a joined row
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
        o(shape.o_slice, rank, shape.blocks),
        inner(shape.inner_slice, rank, shape.blocks),
        down(shape.down_slice, rank, shape.blocks),
        v_head(pack() / shape.v),
        v_column(pack() % shape.v) {
    if (row < s.rows) position = s.positions[s.first + row];
    if (lane >= s.rows) return;
    own_sequence = s.sequences[s.first + lane];
    own_place = s.places[s.first + lane];
  }

  /// The first of this lane's four numbers of a row that two warps share.
  __device__ __forceinline__ int pack() const { return 4 * (warp % 2 * 32 + lane); }
  template <typename T = bf16>
  __device__ __forceinline__ T* at(int offset) const {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(cluster_memory) + offset);
  }
  __device__ __forceinline__ Arrival arrival(int i) const {
    return Arrival(shared_address(at<std::uint64_t>(s.barriers) + i));
  }

  /// Steps of this block's warps but the one that queues copies.
  __device__ __forceinline__ void meet() const {
    asm volatile("bar.sync 1, %0;" ::"n"(cluster_team) : "memory");
  }
  /// Tells the warp that queues copies that this one has no use any more for what `what` says.
  __device__ __forceinline__ void leave(ClusterArrival what) const {
    __syncwarp();
    if (lane == 0) arrival(what).come();
  }
  /// Makes the counters, by one thread.
  __device__ __forceinline__ void begin() const {
#pragma unroll 1
    for (int i = 0; i < cluster_barriers; ++i)
      arrival(i).begin(i >= queries_made && i < entries_come ? cluster_warps : 1);
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    order_before_copies();
  }

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
  __device__ __forceinline__ int first_chunk(int w) const { return part * cluster_warps + w; }
  __device__ __forceinline__ int chunk_step() const { return s.parts * cluster_warps; }
  __device__ __forceinline__ bf16* entries(int buffer, int w) const {
    return at(buffer == 0 ? s.entries : s.more_entries) + w * cluster_entries * (s.latent + s.rope);
  }
  __device__ __forceinline__ Arrival entries_arrival(int buffer, int w) const {
    return arrival(entries_come + 2 * w + buffer);
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
      norm_row<8>(s.hidden, s.share_of_hidden, at(from) + warp * row_stride(s.hidden), at<float>(gain), eps,
                  at(s.normed) + warp * row_stride(s.hidden));
    }
  }

  /// o = the parts of a head together, in their order, two at a time, rounded; a row two warps.
  __device__ __forceinline__ void join_parts() const {
    const int stride = s.part_stride();
#pragma unroll 1
    for (int r = warp / 2; r < s.rows; r += cluster_warps / 2) {
      const float* const of_row = at<float>(s.parts_of_all) + r * s.units() * stride;  // [units][v + 4]
#pragma unroll 1
      for (int c = pack(); c < s.heads * s.v; c += 256) {
        const int h = c < 256 ? v_head : c / s.v, in_head = c < 256 ? v_column : c % s.v;
        const float* one = of_row + h * s.parts * stride;
        float highest = -INFINITY, total = 0, sum[4] = {};
#pragma unroll 1
        for (int n = 0; n < s.parts; n += 2, one += 2 * stride) {
          const bool pair = n + 1 < s.parts;
          const float* const two = pair ? one + stride : one;
          const float2 top = *reinterpret_cast<const float2*>(one + s.v),
                       other_top = *reinterpret_cast<const float2*>(two + s.v);
          const float4 x = *reinterpret_cast<const float4*>(one + in_head),
                       y = *reinterpret_cast<const float4*>(two + in_head);
          const float second = pair ? other_top.x : -INFINITY;
          const float before = highest;
          highest = fmaxf(fmaxf(highest, top.x), second);
          const float base = highest == -INFINITY ? 0.0F : highest;
          const float less = power_of_two(before - base), a = power_of_two(top.x - base),
                      b = power_of_two(second - base);
          const auto joined = [&](float all, float of_one, float of_two) {
            return fmaf(b, of_two, fmaf(a, of_one, all * less));
          };
          total = joined(total, top.y, other_top.y);
          sum[0] = joined(sum[0], x.x, y.x);
          sum[1] = joined(sum[1], x.y, y.y);
          sum[2] = joined(sum[2], x.z, y.z);
          sum[3] = joined(sum[3], x.w, y.w);
        }
        const float f = __fdividef(1.0F, total);
        const uint2 out = {round_pair(sum[0] * f, sum[1] * f), round_pair(sum[2] * f, sum[3] * f)};
        *reinterpret_cast<uint2*>(at(s.normed) + r * row_stride(s.heads * s.v) + c) = out;
      }
    }
  }

  /// Sums of this block's outputs of a product, cut over warps.
  __device__ __forceinline__ void multiply(const ClusterSlice& c, const ClusterShare& own, int from,
                                           int w) const {
    const int part = warp & (c.split - 1), step = part * c.each, end = min(c.steps(), step + c.each);
    const bf16* const a = at(from) + row * row_stride(c.in) + lane % 4 * 8;
    const bf16* const rows_of_w = at(w) + row * c.in + lane % 4 * 8;
#pragma unroll 1
    for (int t = warp >> c.log_split; t < own.tiles; t += s.warps_of(c)) {
      const bf16* const w_of[1] = {rows_of_w + 8 * t * c.in};
      TileSums<1> sums;
      sums.add(a, w_of, step, end, meets_banks(c.in) && row % 2 != 0);
      *reinterpret_cast<float2*>(at<float>(s.sums) + ((t * c.split + part) * 8 + row) * 8 + column) =
          make_float2(sums.total(0, 0), sums.total(0, 1));
    }
  }
  /// The sums of this lane's row and two columns of a tile, of the parts in their order.
  __device__ __forceinline__ float2 sums_of(const ClusterSlice& c, int t) const {
    const float* const sums = at<float>(s.sums) + (t * c.split * 8 + row) * 8 + column;
    float2 total{};
#pragma unroll 1
    for (int first = 0; first < c.split; first += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int n = first + i;
        const float2 x = n < c.split ? *reinterpret_cast<const float2*>(sums + n * 64) : float2{};
        total.x += x.x;
        total.y += x.y;
      }
    }
    return total;
  }
  /// residual + the product, rounded, to all or to global memory. A pair a lane, two warps a tile, each for
  /// half of the receivers.
  __device__ __forceinline__ void finish(const ClusterSlice& c, const ClusterShare& own, int residual, int to,
                                         int arrives, bf16* y) const {
    const std::uint32_t arrived = arrival(arrives).at;
    const int way = warp % 2 * 4 + lane % 4, ld = row_stride(s.hidden);
#pragma unroll 1
    for (int t = warp / 2; t < own.tiles; t += cluster_warps / 2) {
      const int first = 8 * (own.first + t);
      const float2 sums = sums_of(c, t);
      const auto x = *reinterpret_cast<const Pack<bf16, 2>*>(at(residual) + row * ld + first + column);
      const uint4 out = gather_pairs(both(narrow<bf16>(widen(x.value[0]) + widen(narrow<bf16>(sums.x))),
                                          narrow<bf16>(widen(x.value[1]) + widen(narrow<bf16>(sums.y)))));
      if (row >= s.rows) continue;
      if (y != nullptr) {
        if (way == 0) *reinterpret_cast<uint4*>(y + row * static_cast<Index>(s.hidden) + first) = out;
        continue;
      }
      const std::uint32_t here = shared_address(at(to) + row * ld + first);
#pragma unroll 2
      for (int d = way; d < s.blocks; d += 8) send(in_cluster(here, d), out, in_cluster(arrived, d));
    }
  }
  /// silu(gate) * up of this block's outputs, to all.
  __device__ __forceinline__ void activate() const {
    const ClusterSlice& c = s.inner_slice;
    const std::uint32_t arrived = arrival(activated_come).at;
    const bf16* const a = at(s.normed) + row * row_stride(s.hidden) + lane % 4 * 8;
    const bf16* const rows_of_gate = at(s.gate) + row * s.hidden + lane % 4 * 8;
#pragma unroll 1
    for (int t = warp; t < inner.tiles; t += cluster_warps) {
      const bf16* const gate = rows_of_gate + 8 * t * s.hidden;
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
      for (int d = lane % 4; d < s.blocks; d += 4) send(in_cluster(here, d), x, in_cluster(arrived, d));
    }
  }
};

}  // namespace mtpx::cuda
