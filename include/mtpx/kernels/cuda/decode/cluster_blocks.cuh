#pragma once
// Whole blocks of a small dense model for up to eight rows of bf16, by one cluster of thread blocks that
// holds a layer's weights in its shared memory: what a step makes is stored into the shared memory of all,
// four times a layer, and the next layer's weights are on their way meanwhile.
//
//   1  norm; a head's queries and the new cache entries; attention to a part of the cache, W_UV
//   2  join the parts; some outputs of o_proj, residual
//   3  norm; some of gate and up, activation
//   4  some outputs of down, residual
//
// Every thread block of 1 has one head and one part of the positions, and makes the entries for itself.
// Values are rounded to bf16 where the ops of nn/mla.hpp round them. Buffers are written once a layer: who
// writes them has waited for 2 or 4, to which every block adds, since they were last read.

#include "cluster_feed.cuh"

namespace mtpx::cuda {

/// What the warp that queues copies does meanwhile: the next layer's matrices come where this one's have been
/// used, and its first entries.
__device__ __forceinline__ void cluster_feed(const ClusterPass& p, const ClusterBlock& b) {
  const ClusterShape& s = b.s;
  const ClusterFeed feed(p, b, b.group_of((1U << s.rows) - 1));
  const auto expect = [&](int what, int bytes) {
    if (b.lane == 0) b.arrival(what).expect(bytes);
  };
  const auto left = [&](ClusterArrival what, int n) {
    b.arrival(what).template wait<true>(n, "warps that use weights");
  };
  const auto expect_rest = [&] {
    expect(parts_come, s.rows * s.units() * s.part_stride() * 4);
    expect(attended_come, 2 * s.rows * s.hidden);
    expect(activated_come, 2 * s.rows * s.inner);
  };
  if (b.attends) feed.matrices(0, copy_q, copy_o);
  feed.matrices(0, copy_o, copy_ffn_norm);
  feed.matrices(0, copy_ffn_norm, cluster_copies);
  expect_rest();
  wait_for_previous();
  if (b.attends) feed.entries(0, 0);
#pragma unroll 1
  for (int n = 0; n < s.layers; ++n) {
    const bool last = n + 1 == s.layers;
    if (b.attends) {
      left(queries_made, n);
      feed.entries(n, 1);
      left(queries_left, n);
      if (!last) {
        feed.matrices(n + 1, copy_q, copy_o);
        feed.entries(n + 1, 0);
      }
    }
    left(o_left, n);
    if (last) return;
    expect(rows_come, 2 * s.rows * s.hidden);
    feed.matrices(n + 1, copy_o, copy_ffn_norm);
    left(ffn_left, n);
    feed.matrices(n + 1, copy_ffn_norm, cluster_copies);
    expect_rest();
  }
}

/// y = the blocks of all layers, one after the other, of x.   x, y: [rows, hidden]
template <int latent_tiles>
__global__ void __launch_bounds__(cluster_threads, 1)
    cluster_blocks(const __grid_constant__ ClusterPass p, const bf16* x, bf16* y) {
  const ClusterShape& s = p.s;
  ClusterAttention<latent_tiles> b(s);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) b.begin();
  let_next_start();
  cluster_sync();  // everybody's counters are there
  if (b.warp == cluster_warps) {
    cluster_feed(p, b);
    return;
  }
  const auto first = b.group_of((1U << s.rows) - 1);
#pragma unroll 1
  for (int i = thread; i < s.rows * s.rope; i += cluster_team) {
    const int r = i / s.rope, j = i % s.rope, half = s.rope / 2;
    const float* const table = j < half ? s.cos : s.sin;
    b.template at<float>(s.angles)[i] = table[s.positions[s.first + r] * static_cast<Index>(half) + j % half];
  }
  wait_for_previous();
#pragma unroll 1
  for (int i = thread; i < s.rows * (s.hidden / 8); i += cluster_team) {
    const int r = i / (s.hidden / 8), c = i % (s.hidden / 8) * 8;
    *reinterpret_cast<uint4*>(b.at(s.x) + r * row_stride(s.hidden) + c) =
        *reinterpret_cast<const uint4*>(x + r * static_cast<Index>(s.hidden) + c);
  }
  b.meet();
#pragma unroll 1
  for (int n = 0; n < s.layers; ++n) {
    const ClusterLayer& l = p.layer[n];
    if (b.attends) b.arrival(queries_come).template wait<true>(n, "weights of the queries");
    if (n > 0) b.arrival(rows_come).wait(n - 1, "rows");
    if (b.attends) {
      b.norm(s.x, s.norm, l.eps);
      b.meet();
      b.make();
      b.leave(queries_made);
      b.meet();
      b.absorb(l);
      b.meet();
      b.attend(l, first);
      b.meet();
      b.join_warps();
      b.meet();
      b.send_part();
      order_before_copies();  // what stood where the weights were
      b.leave(queries_left);
    }
    b.arrival(o_come).template wait<true>(n, "weights of o_proj");
    b.arrival(parts_come).wait(n, "parts of the attention");
    b.join_parts();
    b.meet();
    b.multiply(s.o_slice, b.o, s.normed, s.o);
    b.leave(o_left);
    b.meet();
    b.finish(s.o_slice, b.o, s.x, s.h, attended_come, nullptr);
    b.arrival(ffn_come).template wait<true>(n, "weights of the network");
    b.arrival(attended_come).wait(n, "attended rows");
    b.norm(s.h, s.ffn_norm, l.ffn_eps);
    b.meet();
    b.activate();
    b.arrival(activated_come).wait(n, "activated rows");
    b.multiply(s.down_slice, b.down, s.activated, s.down);
    b.leave(ffn_left);
    b.meet();
    b.finish(s.down_slice, b.down, s.h, s.x, rows_come, n + 1 == s.layers ? y : nullptr);
  }
}

}  // namespace mtpx::cuda
