#pragma once
// What a cluster of thread blocks that runs whole layers knows of them: sizes, who makes which outputs, and
// where things stand in shared memory.

#include "../../decode_shapes.hpp"
#include "cluster_parts.cuh"

namespace mtpx::cuda {

inline constexpr int cluster_most_layers = 24;  // of a launch
inline constexpr int cluster_entries = 32;      // of the cache, that a warp holds
inline constexpr int cluster_warps = 8;         // that multiply; one more queues copies
inline constexpr int cluster_team = 32 * cluster_warps;
inline constexpr int cluster_threads = cluster_team + 32;
inline constexpr int cluster_most_latent = 128;

/// What a layer's thread block has copied into its shared memory: those up to kv_norm before the attention,
/// o behind it, the others before the network.
enum ClusterCopy : int {
  copy_q,
  copy_kv_a,
  copy_kv_b,
  copy_norm,
  copy_kv_norm,
  copy_o,
  copy_ffn_norm,
  copy_gate,
  copy_up,
  copy_down,
  cluster_copies
};

/// One block of the model.
struct ClusterLayer {
  const void* from[cluster_copies] = {};
  bf16* cache = nullptr;
  float eps = 0, latent_eps = 0, ffn_eps = 0;
  float scale = 0;  // of the scores, whose exponents are of 2
};

/// Outputs of a product that a thread block makes, in tiles of 8, and warps that share a tile's sums.
struct ClusterSlice {
  int in = 0, tiles = 0, most = 0;         // tiles: of all blocks; most: of one
  int split = 1, log_split = 0, each = 0;  // each: steps of 32 numbers, that one of the parts sums

  ClusterSlice() = default;
  ClusterSlice(Index width, Index out, int blocks)
      : in(static_cast<int>(width)),
        tiles(static_cast<int>(out / 8)),
        most(static_cast<int>(ceil_div(tiles, blocks))) {
    while (2 * split * most <= cluster_warps && 2 * split <= steps()) {
      split *= 2;
      ++log_split;
    }
    const int even = meets_banks(in) ? 1 : 0;
    each = ((steps() + split - 1) / split + even) & ~even;
  }
  __host__ __device__ int steps() const { return in / stream_step; }
  __host__ __device__ int begin(int rank, int blocks) const { return tiles * rank / blocks; }
};

/// What all layers of a launch have in common; where things stand in shared memory, in bytes.
struct ClusterShape {
  int rows = 0, first = 0, all_rows = 0;  // of this launch; its first among those of the pass
  int hidden = 0, heads = 0, nope = 0, rope = 0, v = 0, latent = 0, inner = 0;
  int blocks = 0, parts = 0, layers = 0;  // thread blocks; parts of the positions
  int log_ways = 0;                       // of warps that make the same tile of W_UV for other receivers
  float share_of_hidden = 0, share_of_latent = 0;  // 1 / width
  ClusterSlice o_slice, inner_slice, down_slice;
  Index capacity = 0;
  const float *cos = nullptr, *sin = nullptr;
  const std::int32_t *sequences = nullptr, *positions = nullptr, *places = nullptr;
  TreePaths paths{};

  int barriers = 0, x = 0, h = 0, normed = 0, parts_of_all = 0, activated = 0, made = 0, queries = 0,
      fresh = 0, angles = 0, tops = 0, sums = 0, entries = 0, more_entries = 0, norm = 0, kv_norm = 0,
      ffn_norm = 0, q = 0, kv_b = 0, o = 0, gate = 0, down = 0, bytes = 0;

  /// Tiles of a product that all warps have at a time.
  __host__ __device__ int warps_of(const ClusterSlice& c) const { return cluster_warps >> c.log_split; }
  __host__ __device__ int units() const { return heads * parts; }
  __host__ __device__ int entry_stride() const { return latent + rope + latent_pad; }
  __host__ __device__ int made_stride() const { return nope + rope + latent + rope + 8; }
  __host__ __device__ int part_stride() const { return v + 4; }  // floats: of a row; top, total

  void place() {
    const auto take = [&](int& at, Index count, Index size) {
      at = bytes;
      bytes += static_cast<int>(ceil_div(count * size, 128) * 128);
    };
    const Index h_row = row_stride(hidden), wide_row = row_stride(std::max(hidden, heads * v));
    take(barriers, 16 + 2 * cluster_warps, 8);
    take(x, cluster_rows * h_row, 2);
    take(h, cluster_rows * h_row, 2);
    take(normed, cluster_rows * wide_row, 2);
    take(parts_of_all, Index{cluster_rows} * units() * part_stride(), 4);
    take(activated, Index{cluster_rows} * row_stride(inner), 2);
    take(made, Index{cluster_rows} * made_stride(), 2);
    take(queries, Index{2 * cluster_rows} * entry_stride(), 2);
    take(fresh, Index{cluster_rows} * entry_stride(), 2);
    take(angles, Index{cluster_rows} * rope, 4);
    take(tops, cluster_rows, 8);
    take(sums, std::max(o_slice.most * o_slice.split, down_slice.most * down_slice.split) * 64, 4);
    const Index of_entries = Index{cluster_warps} * cluster_entries * (latent + rope) * 2;
    take(entries, of_entries, 1);
    take(norm, hidden, 4);
    take(kv_norm, latent, 4);
    take(ffn_norm, hidden, 4);
    // The parts of the warps, and as many entries again, stand where the queries' weights were.
    const Index of_warps = ceil_div(Index{cluster_warps} * cluster_rows * (latent + 2) * 4, 128) * 128;
    take(q, std::max<Index>((nope + rope + latent + rope) * hidden * 2, of_warps + of_entries), 1);
    more_entries = q + static_cast<int>(of_warps);
    take(kv_b, Index{nope + v} * latent, 2);
    take(o, Index{8} * o_slice.most * o_slice.in, 2);
    take(gate, Index{16} * inner_slice.most * hidden, 2);
    take(down, Index{8} * down_slice.most * inner, 2);
  }
};

struct ClusterPass {
  ClusterShape s;
  ClusterLayer layer[cluster_most_layers];
};

/// What a launch of `blocks` thread blocks knows of all layers.
template <typename T>
ClusterShape cluster_shape(const DecodeBlock<T>& of, int blocks) {
  const auto& [a, f] = of;
  const auto number = [](Index n) { return static_cast<int>(n); };
  ClusterShape s;
  s.hidden = number(a.hidden);
  s.heads = number(a.heads.heads);
  s.nope = number(a.heads.nope);
  s.rope = number(a.heads.rope);
  s.v = number(a.heads.v);
  s.latent = number(a.latent);
  s.inner = number(f.shared_inner);
  s.share_of_hidden = 1.0F / static_cast<float>(s.hidden);
  s.share_of_latent = 1.0F / static_cast<float>(s.latent);
  s.blocks = blocks;
  s.parts = blocks / std::max(1, s.heads);
  s.o_slice = {a.heads.heads * a.heads.v, a.hidden, blocks};
  s.inner_slice = {a.hidden, f.shared_inner, blocks};
  s.down_slice = {f.shared_inner, a.hidden, blocks};
  while (2 * (s.v / 8) << s.log_ways <= cluster_warps) ++s.log_ways;
  s.all_rows = number(a.rows);
  s.capacity = a.capacity;
  s.cos = a.cos;
  s.sin = a.sin;
  s.sequences = a.sequences;
  s.positions = a.positions;
  s.places = a.places;
  s.paths = a.paths;
  s.place();
  return s;
}

}  // namespace mtpx::cuda
