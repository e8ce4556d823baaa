#pragma once
// What the launches of a fused decoding pass share: norms of a row, and products around which more is done.

#include "../products/normed_rows.cuh"

namespace mtpx::cuda {

// --- Norm of a row ----------------------------------------------------------------------------------------

/// y = x / sqrt(mean(x^2) + eps) * gain, rounded, of one row by one warp.   x: global   y: anywhere
__device__ __forceinline__ void warp_norm(int width, const bf16* x, const float* gain, float eps, bf16* y) {
  constexpr int N = wide<bf16>;
  using P = Pack<bf16, N>;
  constexpr int kept = 4;  // packs that stay in registers between the two passes
  const int lane = static_cast<int>(threadIdx.x % 32);
  P pack[kept];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kept; ++i) {
    const int c = (i * 32 + lane) * N;
    pack[i] = c < width ? *reinterpret_cast<const P*>(x + c) : P{};
  }
#pragma unroll
  for (int i = 0; i < kept; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) squares = fmaf(widen(pack[i].value[j]), widen(pack[i].value[j]), squares);
  }
#pragma unroll 1
  for (int c = (kept * 32 + lane) * N; c < width; c += 32 * N) {
    const P more = *reinterpret_cast<const P*>(x + c);
#pragma unroll
    for (int j = 0; j < N; ++j) squares = fmaf(widen(more.value[j]), widen(more.value[j]), squares);
  }
  const float rstd = rstd_of(warp_sum(squares), width, eps);
  const auto write = [&](const P& from, int c) {
    P out;
    const float4 g0 = *reinterpret_cast<const float4*>(gain + c);
    const float4 g1 = *reinterpret_cast<const float4*>(gain + c + 4);
    const float g[N] = {g0.x, g0.y, g0.z, g0.w, g1.x, g1.y, g1.z, g1.w};
#pragma unroll
    for (int j = 0; j < N; ++j) out.value[j] = narrow<bf16>(widen(from.value[j]) * rstd * g[j]);
    *reinterpret_cast<P*>(y + c) = out;
  };
#pragma unroll
  for (int i = 0; i < kept; ++i) {
    const int c = (i * 32 + lane) * N;
    if (c < width) write(pack[i], c);
  }
#pragma unroll 1
  for (int c = (kept * 32 + lane) * N; c < width; c += 32 * N) write(*reinterpret_cast<const P*>(x + c), c);
}

// --- Products --------------------------------------------------------------------------------------------

/// What a product does beside multiplying.
struct Around {
  const float* gain = nullptr;  // norm of the input
  float eps = 0;
  const bf16* residual = nullptr;  // [rows, out], added to the rounded product
};

inline constexpr int fused_resident = 3;  // blocks of a product that a multiprocessor holds

/// One matrix and where its product goes.
struct FusedMatrix {
  const bf16* w = nullptr;  // [out, in]
  int out = 0;
  bf16* y = nullptr;  // [rows, out]
};

/// y = norm(x) w^T (+ residual), of up to two matrices with one input: tiles of a.out, then of b.out, of
/// which this block makes those from its own number on, as many blocks apart as there are. `memory`: for the
/// normed rows, where there is a gain.
template <int tiles, int split, bool deep>
__device__ __forceinline__ void fused_product(int rows, int in, const bf16* x, Index stride,
                                              const FusedMatrix& a, const FusedMatrix& b, int block,
                                              int blocks, const Around& around, void* memory) {
  __shared__ float sums_of[2][stream_warps][stream_rows(tiles) * stream_outputs];  // in turns
  constexpr int columns = stream_outputs * (stream_warps / split);
  const int warp = static_cast<int>(threadIdx.x / 32), mine = static_cast<int>(threadIdx.x);
  const int tiles_of_a = (a.out + columns - 1) / columns, all = tiles_of_a + (b.out + columns - 1) / columns;
  const StreamPart part(in, split, warp % split);
  FusedMatrix m;
  int first = 0;              // output of the tile
  const bf16* row = nullptr;  // [in]
  StreamLoads<stream_batch_of(deep)> loads;
  const auto begin = [&](int tile) {
    const bool second = tile >= tiles_of_a;
    m = {second ? b.w : a.w, second ? b.out : a.out, second ? b.y : a.y};
    first = (second ? tile - tiles_of_a : tile) * columns;
    const int output = min(first + warp / split * stream_outputs + mine % 32 / 4, m.out - 1);
    row = m.w + output * static_cast<Index>(in);
    loads.load(row, part.first, part.end);
  };
  begin(block);
  const NormedRows normed(memory, in);
  if (around.gain != nullptr) normed.take_gain(in, around.gain);
  let_next_start();
  wait_for_previous();
  const auto place = [&](int i) { return i / columns * static_cast<Index>(m.out) + first + i % columns; };
  const bool adds = around.residual != nullptr && mine < rows * columns && first + mine % columns < m.out;
  const float residual = adds ? widen(around.residual[place(mine)]) : 0.0F;  // on its way early
  if (around.gain != nullptr) {
    normed.take_rows(rows, in, x, stride, around.eps);
    x = normed.rows;
    stride = normed.ld;
  }
  const StreamRows<tiles> from(x, stride, rows);
  int turn = 0;
#pragma unroll 1
  for (int tile = block; tile < all; tile += blocks, turn ^= 1) {
    StreamSums<tiles> sums;
    stream_row(row, part, loads, from, sums);
    sums.store(sums_of[turn][warp]);
    const FusedMatrix done = m;
    const int at = first;
    if (deep && tile + blocks < all) begin(tile + blocks);  // on its way while the sums meet
    __syncthreads();
#pragma unroll 1
    for (int i = mine; i < rows * columns; i += stream_threads) {
      const int r = i / columns, c = i % columns;
      if (at + c >= done.out) continue;
      const Index to = r * static_cast<Index>(done.out) + at + c;
      float total = 0;
#pragma unroll
      for (int s = 0; s < split; ++s)
        total += sums_of[turn][c / stream_outputs * split + s][r * stream_outputs + c % stream_outputs];
      if (around.residual != nullptr) {
        const bool early = tile == block && i == mine;
        total = (early ? residual : widen(around.residual[to])) + widen(narrow<bf16>(total));
      }
      done.y[to] = narrow<bf16>(total);
    }
    if constexpr (!deep) return;
  }
}

/// Blocks for outputs of a product: one a tile; deep: no more than are there at once.
template <int split, bool deep>
unsigned fused_blocks(const Cuda& device, Index out_of_a, Index out_of_b = 0) {
  constexpr int columns = stream_outputs * (stream_warps / split);
  const Index all = ceil_div(out_of_a, columns) + ceil_div(out_of_b, columns);
  return static_cast<unsigned>(deep ? std::min(all, Index{fused_resident} * device.processors()) : all);
}

template <int tiles, int split, bool deep>
__global__ void __launch_bounds__(stream_threads, fused_resident)
    fused_products(int rows, int in, const bf16* x, Index stride, FusedMatrix a, FusedMatrix b,
                   Around around) {
  extern __shared__ float4 memory[];
  fused_product<tiles, split, deep>(rows, in, x, stride, a, b, static_cast<int>(blockIdx.x),
                                    static_cast<int>(gridDim.x), around, memory);
}

}  // namespace mtpx::cuda
