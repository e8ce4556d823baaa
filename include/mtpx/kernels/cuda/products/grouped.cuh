#pragma once
// Grouped matrix products for any type and size: one product per expert over its own rows. Only the device
// knows how many rows an expert has: grids are sized by bounds, every block finds its share in the offsets.

#include "../plan_experts.cuh"
#include "ordered.cuh"

namespace mtpx::cuda {

inline constexpr int group_tile = 64;  // rows and columns of C per block
inline constexpr int group_threads = ordered_threads;

/// One of the matrices of expert e: the element (i, j) of its share stands at
/// data + e * expert + offsets[e] * place + i * row + j * column.
template <typename T>
struct Grouped {
  T* data;
  Index expert, place, row, column;

  __device__ T* of(int e, Index first) const { return data + e * expert + first * place; }
};

/// The expert and the first of its rows that tile `tile` of the rows of all experts holds.
struct RowTile {
  int expert = -1;  // none left
  Index first = 0;  // within the expert
};
__device__ __forceinline__ RowTile find_tile(Index tile, int experts, const std::int32_t* offsets,
                                             int tile_rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::int32_t before = 0;
  for (int begin = 0; begin < experts; begin += 32) {
    const int e = begin + lane;
    const std::int32_t own = e < experts ? (offsets[e + 1] - offsets[e] + tile_rows - 1) / tile_rows : 0;
    const std::int32_t end = before + warp_prefix(own);
    const unsigned past = __ballot_sync(whole_warp, end > tile);
    if (past != 0) {
      const int winner = __ffs(static_cast<int>(past)) - 1;
      return {begin + winner, (tile - __shfl_sync(whole_warp, end - own, winner)) * tile_rows};
    }
    before = __shfl_sync(whole_warp, end, 31);
  }
  return {};
}

/// C_e (+)= A_e B_e, all sums over k in order. `ragged_k`: k is the number of the expert's rows and
/// blockIdx.z the expert; else m is that and blockIdx.x counts the row tiles of all experts.
template <typename T, typename C, bool ragged_k>
__global__ void __launch_bounds__(group_threads)
    grouped_product(int experts, const std::int32_t* offsets, Index m, Index n, Index k, Grouped<const T> a,
                    Grouped<const T> b, Grouped<C> c, bool accumulate) {
  int e = static_cast<int>(blockIdx.z);
  Index first_row = static_cast<Index>(blockIdx.x) * group_tile;
  if constexpr (!ragged_k) {
    const RowTile tile = find_tile(blockIdx.x, experts, offsets, group_tile);
    if (tile.expert < 0) return;
    e = tile.expert;
    first_row = tile.first;
  }
  const Index rows = offsets[e + 1] - offsets[e];
  if constexpr (ragged_k) {
    k = rows;
  } else {
    m = rows;
  }
  const Matrix<T> ae{a.of(e, offsets[e]), a.row, a.column}, be{b.of(e, offsets[e]), b.row, b.column};
  multiply_tile<group_tile>(m, n, k, ae, be, c.of(e, offsets[e]), c.row, first_row,
                            Index{blockIdx.y} * group_tile, accumulate);
}

/// At most so many row tiles do the experts have together.
inline Index row_tiles(ExpertsShape s, Index tile_rows) {
  return s.slots() / tile_rows + std::min(s.experts, s.slots());
}

/// y[rows of e] = x[rows of e] w_e^T   w: [E, out, in]
template <typename T>
void grouped_forward(const Cuda& device, ExpertsShape s, Index in, Index out, const std::int32_t* offsets,
                     const T* x, const T* w, T* y) {
  const dim3 grid(static_cast<unsigned>(row_tiles(s, group_tile)),
                  static_cast<unsigned>(ceil_div(out, group_tile)));
  launch(device, "experts", grouped_product<T, T, false>, grid, dim3(group_threads), 0,
         static_cast<int>(s.experts), offsets, Index{0}, out, in, Grouped<const T>{x, 0, in, in, 1},
         Grouped<const T>{w, out * in, 0, 1, in}, Grouped<T>{y, 0, out, out, 1}, false);
}

/// dx[rows of e] (+)= dy[rows of e] w_e
template <typename T>
void grouped_backward_input(const Cuda& device, ExpertsShape s, Index in, Index out,
                            const std::int32_t* offsets, const T* dy, const T* w, T* dx, bool accumulate) {
  const dim3 grid(static_cast<unsigned>(row_tiles(s, group_tile)),
                  static_cast<unsigned>(ceil_div(in, group_tile)));
  launch(device, "experts", grouped_product<T, T, false>, grid, dim3(group_threads), 0,
         static_cast<int>(s.experts), offsets, Index{0}, in, out, Grouped<const T>{dy, 0, out, out, 1},
         Grouped<const T>{w, out * in, 0, in, 1}, Grouped<T>{dx, 0, in, in, 1}, accumulate);
}

/// dw_e (+)= dy[rows of e]^T x[rows of e]; an expert without rows gets zeros.
template <typename T>
void grouped_backward_weight(const Cuda& device, ExpertsShape s, Index in, Index out,
                             const std::int32_t* offsets, const T* dy, const T* x, Sink<acc_t<T>> dw) {
  if (!dw) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(out, group_tile)),
                  static_cast<unsigned>(ceil_div(in, group_tile)), static_cast<unsigned>(s.experts));
  launch(device, "experts", grouped_product<T, acc_t<T>, true>, grid, dim3(group_threads), 0,
         static_cast<int>(s.experts), offsets, out, in, Index{0}, Grouped<const T>{dy, 0, out, 1, out},
         Grouped<const T>{x, 0, in, in, 1}, Grouped<acc_t<T>>{dw.data, out * in, 0, in, 1}, dw.accumulate);
}

}  // namespace mtpx::cuda
