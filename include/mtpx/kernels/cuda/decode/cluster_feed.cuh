#pragma once
// What a cluster's blocks load from global memory: a warp of its own queues the copies, so that those which
// multiply never wait for the queue.

#include "cluster_attention.cuh"

namespace mtpx::cuda {

/// The warp that queues copies. Each lane knows one copy of a layer, and one warp's first entries.
struct ClusterFeed {
  const ClusterPass& p;
  const ClusterBlock& b;
  const ClusterGroup group;
  std::uint32_t to = 0, arrival = 0, bytes = 0;  // of this lane's copy
  Index offset = 0;                              // bytes from where the layer's matrix begins

  __device__ __forceinline__ ClusterFeed(const ClusterPass& pass, const ClusterBlock& block,
                                         const ClusterGroup& first)
      : p(pass), b(block), group(first) {
    const ClusterShape& s = b.s;
    const int q = 2 * (s.nope + s.rope) * s.hidden, kv = 2 * (s.latent + s.rope) * s.hidden,
              kv_b = 2 * (s.nope + s.v) * s.latent;
    const int row = 16 * s.hidden, o_row = 16 * s.o_slice.in, down_row = 16 * s.inner;  // of a tile
    const auto is = [&](int copy, int place, int size, Index from, int arrives) {
      if (b.lane != copy) return;
      to = shared_address(b.at<char>(place));
      bytes = static_cast<std::uint32_t>(size);
      offset = from;
      arrival = b.arrival(arrives).at;
    };
    is(copy_q, s.q, q, b.head * static_cast<Index>(q), queries_come);
    is(copy_kv_a, s.q + q, kv, 0, queries_come);
    is(copy_kv_b, s.kv_b, kv_b, b.head * static_cast<Index>(kv_b), queries_come);
    is(copy_norm, s.norm, 4 * s.hidden, 0, queries_come);
    is(copy_kv_norm, s.kv_norm, 4 * s.latent, 0, queries_come);
    is(copy_o, s.o, b.o.tiles * o_row, b.o.first * static_cast<Index>(o_row), o_come);
    is(copy_ffn_norm, s.ffn_norm, 4 * s.hidden, 0, ffn_come);
    is(copy_gate, s.gate, b.inner.tiles * row, b.inner.first * static_cast<Index>(row), ffn_come);
    is(copy_up, s.gate + s.inner_slice.most * row, b.inner.tiles * row,
       b.inner.first * static_cast<Index>(row), ffn_come);
    is(copy_down, s.down, b.down.tiles * down_row, b.down.first * static_cast<Index>(down_row), ffn_come);
  }

  /// Copies begin .. end - 1 of a layer, which one arrival counts.
  __device__ __forceinline__ void matrices(int layer, int begin, int end) const {
    const bool mine = b.lane >= begin && b.lane < end;
    const char* const from = mine ? static_cast<const char*>(p.layer[layer].from[b.lane]) + offset : nullptr;
    const auto all = static_cast<int>(__reduce_add_sync(whole_warp, mine ? bytes : 0U));
    if (b.lane == begin) Arrival(arrival).expect(all);
    __syncwarp();
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
      if (b.lane == i && bytes > 0) fetch_bytes(to, from, bytes, arrival);
      __syncwarp();
    }
  }
  /// The first chunks of all warps, or the second.
  __device__ __forceinline__ void entries(int layer, int buffer) const {
    bf16* const cache = p.layer[layer].cache;
#pragma unroll 1
    for (int w = 0; w < cluster_warps; ++w) {
      const int chunk = b.first_chunk(w) + buffer * b.chunk_step();
      b.fetch_entries(cache, group, chunk, buffer, w);
    }
  }
};

}  // namespace mtpx::cuda
