#pragma once
// Matrix products of any types and strides in the host's order (cpu/gemm.hpp): every output is one running
// sum over k = 0, 1, 2, ... by fused multiply-add, that begins with what C holds when it is added to. So in
// float and double a product has the host's bits, whatever the tiles.

#include "common.cuh"

namespace mtpx::cuda {

/// A matrix in memory: element (i, j) at data[i * row + j * column]; one of the two is 1.
template <typename T>
struct Matrix {
  const T* data = nullptr;
  Index row = 0;
  Index column = 0;
};
template <typename T>
MTPX_ANYWHERE Matrix<T> row_major(const T* data, Index stride) {
  return {data, stride, 1};
}
/// The transpose of a row-major matrix.
template <typename T>
MTPX_ANYWHERE Matrix<T> transposed(const T* data, Index stride) {
  return {data, 1, stride};
}

inline constexpr int ordered_threads = 256;
inline constexpr int ordered_step = 16;  // k per pass through shared memory

/// Rows and columns of C per block: 64 R, of which a thread holds 4 R by 4 R.
template <int R>
inline constexpr int ordered_tile = 64 * R;

/// Part of A or B as [step][tile] numbers: `across` counts rows of A or columns of B. Global memory is read
/// one pass ahead, neighbouring threads along what is contiguous.
template <typename S, int tile, typename T>
class Strip {
 public:
  /// data: the first of `count` rows (or columns); `apart`, `along`: the spacing across and along k.
  __device__ Strip(const T* data, Index apart, Index along, Index count) : along_(along) {
    const int t = static_cast<int>(threadIdx.x);
    const bool k_first = along == 1;
    across_ = k_first ? t / ordered_step : t % tile;
    k_ = k_first ? t % ordered_step : t / tile;
    across_step_ = k_first ? ordered_threads / ordered_step : 0;
    k_step_ = k_first ? 0 : ordered_threads / tile;
    data_ = data + across_ * apart + k_ * along;
    step_ = across_step_ * apart + k_step_ * along;
    count_ = static_cast<int>(min(count, Index{tile}));
  }
  /// Numbers k, k + 1, ... of all k_count.
  __device__ void load(Index k, Index k_count) {
#pragma unroll
    for (int i = 0; i < parts; ++i) {
      const bool inside = across_ + i * across_step_ < count_ && k + k_ + i * k_step_ < k_count;
      numbers_[i] = inside ? static_cast<S>(widen(data_[k * along_ + i * step_])) : S(0);
    }
  }
  __device__ void store(S (&to)[ordered_step][tile + 4]) const {
#pragma unroll
    for (int i = 0; i < parts; ++i) to[k_ + i * k_step_][across_ + i * across_step_] = numbers_[i];
  }

 private:
  static constexpr int parts = tile * ordered_step / ordered_threads;
  const T* data_;
  Index along_, step_;
  int across_, k_, across_step_, k_step_, count_;
  S numbers_[parts];
};

/// Rows [row, row + 64 R) and as many columns of one product, by a block of ordered_threads.
template <int R, typename A, typename B, typename C>
__device__ void multiply_tile(Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c, Index stride,
                              Index row, Index column, bool accumulate) {
  using S = acc_t<C>;
  constexpr int tile = ordered_tile<R>;
  __shared__ __align__(16) S a_tile[ordered_step][tile + 4], b_tile[ordered_step][tile + 4];
  const int tx = static_cast<int>(threadIdx.x) % 16 * 4, ty = static_cast<int>(threadIdx.x) / 16 * 4;
  // (i, j) of a thread's numbers: 4 neighbours in each direction, R times 64 apart
  const auto place = [](int first, int i) { return i / 4 * 64 + first + i % 4; };
  S sums[4 * R][4 * R];
#pragma unroll
  for (int i = 0; i < 4 * R; ++i) {
#pragma unroll
    for (int j = 0; j < 4 * R; ++j) {
      const Index r = row + place(ty, i), col = column + place(tx, j);
      sums[i][j] = accumulate && r < m && col < n ? static_cast<S>(widen(c[r * stride + col])) : S(0);
    }
  }
  Strip<S, tile, A> left(a.data + row * a.row, a.row, a.column, m - row);
  Strip<S, tile, B> right(b.data + column * b.column, b.column, b.row, n - column);
  left.load(0, k);
  right.load(0, k);
  for (Index begin = 0; begin < k; begin += ordered_step) {
    __syncthreads();  // the tiles before may still be read
    left.store(a_tile);
    right.store(b_tile);
    __syncthreads();
    left.load(begin + ordered_step, k);
    right.load(begin + ordered_step, k);
#pragma unroll
    for (int l = 0; l < ordered_step; ++l) {
      S x[4 * R], y[4 * R];
#pragma unroll
      for (int i = 0; i < 4 * R; ++i) {
        x[i] = a_tile[l][place(ty, i)];
        y[i] = b_tile[l][place(tx, i)];
      }
#pragma unroll
      for (int i = 0; i < 4 * R; ++i) {
#pragma unroll
        for (int j = 0; j < 4 * R; ++j) sums[i][j] = exact::fma(x[i], y[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4 * R; ++i) {
#pragma unroll
    for (int j = 0; j < 4 * R; ++j) {
      const Index r = row + place(ty, i), col = column + place(tx, j);
      if (r < m && col < n) c[r * stride + col] = narrow<C>(sums[i][j]);
    }
  }
}

template <int R, typename A, typename B, typename C>
__global__ void __launch_bounds__(ordered_threads)
    ordered_product(Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c, Index stride,
                    bool accumulate) {
  multiply_tile<R>(m, n, k, a, b, c, stride, Index{blockIdx.x} * ordered_tile<R>,
                   Index{blockIdx.y} * ordered_tile<R>, accumulate);
}

/// C [m, n] (+)= A [m, k] B [k, n], C row-major with `stride`.
template <typename A, typename B, typename C>
void multiply_in_order(const Cuda& device, Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c,
                       Index stride, bool accumulate) {
  const auto run = [&]<int R>() {
    const dim3 grid(static_cast<unsigned>(ceil_div(m, ordered_tile<R>)),
                    static_cast<unsigned>(ceil_div(n, ordered_tile<R>)));
    launch(device, "product", ordered_product<R, A, B, C>, grid, ordered_threads, 0, m, n, k, a, b, c, stride,
           accumulate);
  };
  // Larger tiles read less, as long as there are enough of them for all processors.
  if constexpr (std::is_same_v<acc_t<C>, float>) {
    const Index large = ceil_div(m, ordered_tile<2>) * ceil_div(n, ordered_tile<2>);
    if (large >= device.processors()) return run.template operator()<2>();
  }
  run.template operator()<1>();
}

}  // namespace mtpx::cuda
