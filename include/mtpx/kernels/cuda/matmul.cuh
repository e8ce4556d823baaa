#pragma once
// Twins of cpu/matmul.hpp.

#include "products/gemm.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int transpose_tile = 32, transpose_lines = 8;

/// A block per tile of a matrix; `down` and `across` tiles make one.
template <typename T>
__global__ void __launch_bounds__(transpose_tile* transpose_lines)
    transpose_tiles(Index m, Index n, Index stride, Index down, Index across, const T* x, Sink<T> y) {
  using A = acc_t<T>;
  __shared__ T tile[transpose_tile][transpose_tile + 1];
  const Index batch = blockIdx.x / (down * across), at = blockIdx.x % (down * across);
  const Index i0 = at / across * transpose_tile, j0 = at % across * transpose_tile;
  const T* from = x + batch * m * stride;
  T* to = y.data + batch * m * n;
  const int lane = static_cast<int>(threadIdx.x) % transpose_tile;
  const int line = static_cast<int>(threadIdx.x) / transpose_tile;
  for (int i = line; i < transpose_tile; i += transpose_lines) {
    if (i0 + i < m && j0 + lane < n) tile[i][lane] = from[(i0 + i) * stride + j0 + lane];
  }
  __syncthreads();
  for (int j = line; j < transpose_tile; j += transpose_lines) {
    if (j0 + j >= n || i0 + lane >= m) continue;
    T& place = to[(j0 + j) * m + i0 + lane];
    const T value = tile[lane][j];
    place = y.accumulate ? narrow<T>(static_cast<A>(widen(place)) + static_cast<A>(widen(value))) : value;
  }
}

}  // namespace cuda

/// y = a b, `batch` times, one product after the other.   y: [batch, m, n] dense
template <typename T, typename G>
void multiply_matrices(const Cuda& device, MatmulShape s, const T* a, const T* b, Sink<G> y) {
  if (!y) return;
  for (Index i = 0; i < s.batch; ++i)
    cuda::multiply(device, s.m, s.n, s.k, cuda::Matrix<T>{a + i * s.a.next, s.a.row, s.a.column},
                   cuda::Matrix<T>{b + i * s.b.next, s.b.row, s.b.column}, y.data + i * s.m * s.n, s.n,
                   y.accumulate);
}

/// y_bji (+)= x_bij.   x: [batch, rows.count / batch, width], rows apart   y: dense
template <typename T>
void transpose_copy(const Cuda& device, Index batch, Rows rows, const T* x, Sink<T> y) {
  if (!y || batch == 0) return;
  const Index m = rows.count / batch, n = rows.width;
  const Index down = cuda::ceil_div(m, cuda::transpose_tile),
              across = cuda::ceil_div(n, cuda::transpose_tile);
  cuda::launch(device, "transpose", cuda::transpose_tiles<T>, static_cast<unsigned>(batch * down * across),
               cuda::transpose_tile * cuda::transpose_lines, 0, m, n, rows.stride, down, across, x, y);
}

}  // namespace mtpx
