#pragma once
// The grouped products of mixtures of experts on Hopper, as jobs of gemm(). Sizes must be multiples of 8 (the
// copy engine's strides); what a tile reads past a matrix arrives as zeros, and what it reads of the next
// expert's rows is not stored.

#include "../core/silu.cuh"
#include "../products/grouped.cuh"
#include "gemm.cuh"

namespace mtpx::cuda::sm90 {

/// Whether sizes and pointers suit the copy engine and wide stores. Independent of the number of tokens: a
/// token's bits do not depend on what stands beside it.
template <typename... Pointers>
bool grouped_fits(ExpertsShape s, const Pointers*... pointers) {
  return s.experts <= 512 && can_be_wide<bf16>(s.width, s.inner, pointers...);
}

/// The offsets of experts and the tiles of 128 of their rows.
struct ExpertRows {
  int experts;
  const std::int32_t* offsets;

  /// A tile of an expert's rows: sorted rows `row` .. `end` - 1, at most 128 of them.
  struct Tile {
    int expert = 0, row, end, n;
  };

  /// table[e] = tiles of the experts before e
  __device__ void prepare(int* table) const {
    if (threadIdx.x >= 32) return;
    int before = 0;
    for (int first = 0; first < experts; first += 32) {
      const int e = first + static_cast<int>(threadIdx.x);
      const int own = e < experts ? (offsets[e + 1] - offsets[e] + tile_m - 1) / tile_m : 0;
      const int sum = warp_prefix(own);
      if (e < experts) table[e] = before + sum - own;
      before += __shfl_sync(whole_warp, sum, 31);
    }
    if (threadIdx.x == 0) table[experts] = before;
  }
  /// Tile `id` where each tile of rows has `columns` tiles of `width` columns, which come first: they share
  /// rows.
  __device__ __forceinline__ bool find(int id, const int* table, int columns, int width, Tile& tile) const {
    const int m = id / columns;
    if (m >= table[experts]) return false;
    while (m >= table[tile.expert + 1]) ++tile.expert;
    tile.row = offsets[tile.expert] + (m - table[tile.expert]) * tile_m;
    tile.end = offsets[tile.expert + 1];
    tile.n = id % columns * width;
    return true;
  }
};

inline int int_of(Index n) { return static_cast<int>(n); }
inline int tiles_of(Index n, int tile) { return static_cast<int>(ceil_div(n, tile)); }

/// gate = x w_gate^T, up = x w_up^T, hidden = silu(gate) * up, for the rows of every expert: half of B is
/// w_gate, half w_up, so x is read once.
struct SwigluJob {
  static constexpr int a_transposed = 0, b_transposed = 0;
  static constexpr bool ragged_k = false;
  static constexpr int parts = 4;
  static constexpr int width = tile_n / 2;
  using Tile = ExpertRows::Tile;

  CUtensorMap x, wg, wu;
  ExpertRows rows;
  int in, out, columns;
  bf16 *gate, *up, *hidden;  // [slots, out]

  __device__ void prepare(int* table) const { rows.prepare(table); }
  __device__ __forceinline__ bool find(int id, const int* table, Tile& tile) const {
    return rows.find(id, table, columns, width, tile);
  }
  __device__ __forceinline__ int steps(const Tile&) const { return (in + step_k - 1) / step_k; }
  __device__ __forceinline__ void load(const Tile& tile, int step, unsigned char* a, unsigned char* b,
                                       Barrier& full) const {
    load_box(a, x, full, tile.row, step * step_k);
    load_box(b, wg, full, tile.expert * out + tile.n, step * step_k);
    load_box(b + width * 128, wu, full, tile.expert * out + tile.n, step * step_k);
  }
  __device__ __forceinline__ void finish(const Tile&, float (&sums)[tile_n / 2], Packed& packed) const {
    pack(sums, packed);
  }
  template <int part>
  __device__ __forceinline__ void write(const Tile& tile, const Packed& packed) const {
    const int row = group_row(), column = 4 * group_column();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t g[4], u[4], h[4];
      take_eight(packed, part, i, g);
      take_eight(packed, part + parts, i, u);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        h[j] = pack_pair(swiglu_of<bf16>(low(g[j]), low(u[j])), swiglu_of<bf16>(high(g[j]), high(u[j])));
      const int left = tile.end - tile.row, c = tile.n + 32 * part + column;
      if (row + 8 * i >= left || c >= out) continue;
      const Index at = static_cast<Index>(tile.row + row + 8 * i) * out + c;
      store_eight(gate + at, g);
      store_eight(up + at, u);
      store_eight(hidden + at, h);
    }
  }

 private:
  static __device__ __forceinline__ float low(std::uint32_t pair) { return __uint_as_float(pair << 16); }
  static __device__ __forceinline__ float high(std::uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000U);
  }
};

/// y = x w^T for the rows of every expert.
struct ForwardJob {
  static constexpr int a_transposed = 0, b_transposed = 0;
  static constexpr bool ragged_k = false;
  static constexpr int parts = 4;
  using Tile = ExpertRows::Tile;

  CUtensorMap x, w;
  ExpertRows rows;
  int in, out, columns;
  bf16* y;  // [slots, out]

  __device__ void prepare(int* table) const { rows.prepare(table); }
  __device__ __forceinline__ bool find(int id, const int* table, Tile& tile) const {
    return rows.find(id, table, columns, tile_n, tile);
  }
  __device__ __forceinline__ int steps(const Tile&) const { return (in + step_k - 1) / step_k; }
  __device__ __forceinline__ void load(const Tile& tile, int step, unsigned char* a, unsigned char* b,
                                       Barrier& full) const {
    load_box(a, x, full, tile.row, step * step_k);
    load_box(b, w, full, tile.expert * out + tile.n, step * step_k);
  }
  __device__ __forceinline__ void finish(const Tile&, float (&sums)[tile_n / 2], Packed& packed) const {
    pack(sums, packed);
  }
  template <int part>
  __device__ __forceinline__ void write(const Tile& tile, const Packed& packed) const {
    store_part<part>(packed, tile.end - tile.row, out - tile.n,
                     y + static_cast<Index>(tile.row) * out + tile.n, out);
  }
};

/// dx = dy w (+ dy2 w2, in the same sums) for the rows of every expert.
struct InputJob {
  static constexpr int a_transposed = 0, b_transposed = 1;
  static constexpr bool ragged_k = false;
  static constexpr int parts = 4;
  using Tile = ExpertRows::Tile;

  CUtensorMap dy, w, dy2, w2;
  ExpertRows rows;
  int in, out, columns;
  int pairs;
  bf16* dx;  // [slots, in]

  __device__ void prepare(int* table) const { rows.prepare(table); }
  __device__ __forceinline__ bool find(int id, const int* table, Tile& tile) const {
    return rows.find(id, table, columns, tile_n, tile);
  }
  __device__ __forceinline__ int steps(const Tile&) const { return (out + step_k - 1) / step_k * pairs; }
  __device__ __forceinline__ void load(const Tile& tile, int step, unsigned char* a, unsigned char* b,
                                       Barrier& full) const {
    const int half = (out + step_k - 1) / step_k;
    const bool second = step >= half;
    const int k = (second ? step - half : step) * step_k;
    const CUtensorMap& from = second ? dy2 : dy;
    const CUtensorMap& with = second ? w2 : w;
    load_box(a, from, full, tile.row, k);
#pragma unroll
    for (int i = 0; i < tile_n / 64; ++i)
      load_box(b + i * slab_bytes, with, full, tile.expert * out + k, tile.n + 64 * i);
  }
  __device__ __forceinline__ void finish(const Tile&, float (&sums)[tile_n / 2], Packed& packed) const {
    pack(sums, packed);
  }
  template <int part>
  __device__ __forceinline__ void write(const Tile& tile, const Packed& packed) const {
    store_part<part>(packed, tile.end - tile.row, in - tile.n,
                     dx + static_cast<Index>(tile.row) * in + tile.n, in);
  }
};

/// dw_e (+)= dy[rows of e]^T x[rows of e], and dw2 from dy2 likewise. The sum runs over the rows of an
/// expert.
struct WeightJob {
  static constexpr int a_transposed = 1, b_transposed = 1;
  static constexpr bool ragged_k = true;
  static constexpr int parts = 0;
  struct Tile {
    int row, end, m, n;
    bool second;
    Index at;
  };

  CUtensorMap dy, dy2, x;
  ExpertRows rows;
  int in, out, tiles_m, tiles_n;
  int pairs;
  Sink<float> dw, dw2;  // [E, out, in]

  __device__ void prepare(int*) const {}
  __device__ __forceinline__ bool find(int id, const int*, Tile& tile) const {
    const int per_expert = pairs * tiles_m * tiles_n;
    const int e = id / per_expert, rest = id % per_expert;
    if (e >= rows.experts) return false;
    tile.row = rows.offsets[e];
    tile.end = rows.offsets[e + 1];
    tile.second = rest >= tiles_m * tiles_n;
    tile.m = rest / tiles_n % tiles_m * tile_m;
    tile.n = rest % tiles_n * tile_n;
    tile.at = (static_cast<Index>(e) * out + tile.m) * in + tile.n;
    return true;
  }
  __device__ __forceinline__ int steps(const Tile& tile) const {
    return (tile.end - tile.row + step_k - 1) / step_k;
  }
  __device__ __forceinline__ int last_k(const Tile& tile) const {
    return (tile.end - tile.row - 1) % step_k + 1;
  }
  __device__ __forceinline__ void load(const Tile& tile, int step, unsigned char* a, unsigned char* b,
                                       Barrier& full) const {
    const int row = tile.row + step * step_k;
    const CUtensorMap& from = tile.second ? dy2 : dy;
#pragma unroll
    for (int i = 0; i < tile_m / 64; ++i) load_box(a + i * slab_bytes, from, full, row, tile.m + 64 * i);
#pragma unroll
    for (int i = 0; i < tile_n / 64; ++i) load_box(b + i * slab_bytes, x, full, row, tile.n + 64 * i);
  }
  __device__ __forceinline__ void finish(const Tile& tile, float (&sums)[tile_n / 2], Packed&) const {
    const Sink<float>& to = tile.second ? dw2 : dw;
    if (to.accumulate && tile.row == tile.end) return;
    store_tile(sums, out - tile.m, in - tile.n, to.data + tile.at, in, to.accumulate);
  }
};

/// gate = x w_gate^T, up = x w_up^T, hidden = silu(gate) * up   wg, wu: [E, F, D]   x: [slots, D]
template <typename T>
void grouped_swiglu(const Cuda& device, ExpertsShape s, const std::int32_t* offsets, const T* x, const T* wg,
                    const T* wu, T* gate, T* up, T* hidden) {
  if (s.slots() == 0) return;
  const Index weight_rows = s.experts * s.inner;
  const SwigluJob job{tensor_map(device, x, s.slots(), s.width, s.width, tile_m),
                      tensor_map(device, wg, weight_rows, s.width, s.width, SwigluJob::width),
                      tensor_map(device, wu, weight_rows, s.width, s.width, SwigluJob::width),
                      {int_of(s.experts), offsets},
                      int_of(s.width),
                      int_of(s.inner),
                      tiles_of(s.inner, SwigluJob::width),
                      gate,
                      up,
                      hidden};
  run(device, "experts", job, row_tiles(s, tile_m) * job.columns, s.experts + 1);
}

/// y[rows of e] = x[rows of e] w_e^T   w: [E, out, in]
template <typename T>
void grouped_forward(const Cuda& device, ExpertsShape s, Index in, Index out, const std::int32_t* offsets,
                     const T* x, const T* w, T* y) {
  if (s.slots() == 0) return;
  const ForwardJob job{tensor_map(device, x, s.slots(), in, in, tile_m),
                       tensor_map(device, w, s.experts * out, in, in, tile_n),
                       {int_of(s.experts), offsets},
                       int_of(in),
                       int_of(out),
                       tiles_of(out, tile_n),
                       y};
  run(device, "experts", job, row_tiles(s, tile_m) * job.columns, s.experts + 1);
}

/// dx[rows of e] = dy[rows of e] w_e + dy2[rows of e] w2_e, the second product only if dy2 is not null.
template <typename T>
void grouped_backward_input(const Cuda& device, ExpertsShape s, Index in, Index out,
                            const std::int32_t* offsets, const T* dy, const T* w, const T* dy2, const T* w2,
                            T* dx) {
  if (s.slots() == 0) return;
  const bool both = dy2 != nullptr;
  const InputJob job{tensor_map(device, dy, s.slots(), out, out, tile_m),
                     tensor_map(device, w, s.experts * out, in, in, step_k),
                     tensor_map(device, both ? dy2 : dy, s.slots(), out, out, tile_m),
                     tensor_map(device, both ? w2 : w, s.experts * out, in, in, step_k),
                     {int_of(s.experts), offsets},
                     int_of(in),
                     int_of(out),
                     tiles_of(in, tile_n),
                     both ? 2 : 1,
                     dx};
  run(device, "experts", job, row_tiles(s, tile_m) * job.columns, s.experts + 1);
}

/// dw_e (+)= dy[rows of e]^T x[rows of e], dw2_e likewise from dy2; null sinks are skipped.
template <typename T>
void grouped_backward_weight(const Cuda& device, ExpertsShape s, Index in, Index out,
                             const std::int32_t* offsets, const T* dy, Sink<float> dw, const T* dy2,
                             Sink<float> dw2, const T* x) {
  if (!dw) {
    std::swap(dy, dy2);
    std::swap(dw, dw2);
  }
  if (!dw) return;
  if (s.slots() == 0) {
    for (const Sink<float>& sink : {dw, dw2}) {
      if (sink && !sink.accumulate)
        set_zero(device, sink.data, static_cast<std::size_t>(s.experts * out * in) * sizeof(float));
    }
    return;
  }
  const WeightJob job{tensor_map(device, dy, s.slots(), out, out, step_k),
                      tensor_map(device, dw2 ? dy2 : dy, s.slots(), out, out, step_k),
                      tensor_map(device, x, s.slots(), in, in, step_k),
                      {int_of(s.experts), offsets},
                      int_of(in),
                      int_of(out),
                      tiles_of(out, tile_m),
                      tiles_of(in, tile_n),
                      dw2 ? 2 : 1,
                      dw,
                      dw2};
  run(device, "experts", job, s.experts * job.pairs * job.tiles_m * job.tiles_n, 0);
}

}  // namespace mtpx::cuda::sm90
