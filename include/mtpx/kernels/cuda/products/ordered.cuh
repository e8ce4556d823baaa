#pragma once
// Matrix products of any types and strides in the host's order (cpu/products/gemm.hpp): every output is one
// running sum over k = 0, 1, 2, ... by fused multiply-add, that begins with what C holds when it is added to.
// So in float and double a product has the host's bits, whatever the tiles.

#include "../../matrix.hpp"
#include "../core/launch.cuh"

namespace mtpx::cuda {

using kernels::Matrix;
using kernels::row_major;
using kernels::transposed;

inline constexpr int ordered_threads = 256;

/// k per pass through shared memory: small tiles have less to do while the next numbers are on their way.
template <int tile, typename S>
inline constexpr int ordered_step = tile * sizeof(S) <= 256 ? 32 : 16;

/// Part of A or B as [step][tile] numbers: `across` counts rows of A or columns of B. Four neighbours at a
/// time, along what is contiguous.
template <typename S, int tile, int step, typename T>
class Strip {
 public:
  /// data: the first of `count` rows (or columns); `apart`, `along`: the spacing across and along k.
  __device__ Strip(const T* data, Index apart, Index along, Index count)
      : data_(data), apart_(apart), along_(along), count_(static_cast<int>(min(count, Index{tile}))) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(Four) == 0;
    wide_ = aligned && (k_first() ? apart : along) % 4 == 0;
  }
  /// Numbers k, k + 1, ... of all k_count.
  __device__ void load(Index k, Index k_count) {
    const int k_left = static_cast<int>(min(k_count - k, Index{step}));
    const T* const from = data_ + k * along_;
#pragma unroll
    for (int i = 0; i < parts; ++i) {
      const int across = across_of(i), along = k_of(i);
      const T* const first = from + across * apart_ + along * along_;
      const int inside = across >= count_ || along >= k_left ? 0
                         : k_first()                         ? k_left - along
                                                             : count_ - across;
      if (wide_ && inside >= 4) {
        const Four four = *reinterpret_cast<const Four*>(first);
#pragma unroll
        for (int j = 0; j < 4; ++j) numbers_[i][j] = static_cast<S>(widen(four.value[j]));
      } else {
        const Index next = k_first() ? along_ : apart_;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          numbers_[i][j] = j < inside ? static_cast<S>(widen(first[j * next])) : S(0);
      }
    }
  }
  __device__ void store(S (&to)[step][tile + 4]) const {
    if (k_first()) {
#pragma unroll
      for (int i = 0; i < parts; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[k_of(i) + j][across_of(i)] = numbers_[i][j];
      }
    } else {
#pragma unroll
      for (int i = 0; i < parts; ++i) {
        Pack<S, 4> four;
#pragma unroll
        for (int j = 0; j < 4; ++j) four.value[j] = numbers_[i][j];
        *reinterpret_cast<Pack<S, 4>*>(&to[k_of(i)][across_of(i)]) = four;
      }
    }
  }

 private:
  using Four = Pack<T, 4>;
  static constexpr int parts = tile * step / ordered_threads / 4;

  __device__ bool k_first() const { return along_ == 1; }
  /// Where the i-th four of this thread begin.
  __device__ int across_of(int i) const {
    const int at = i * ordered_threads + static_cast<int>(threadIdx.x);
    return k_first() ? at / (step / 4) : at % (tile / 4) * 4;
  }
  __device__ int k_of(int i) const {
    const int at = i * ordered_threads + static_cast<int>(threadIdx.x);
    return k_first() ? at % (step / 4) * 4 : at / (tile / 4);
  }

  const T* data_;
  Index apart_, along_;
  int count_;
  bool wide_;
  S numbers_[parts][4];
};

/// Rows [row, row + tile) and as many columns of one product, by a block of ordered_threads: 16 by 16, each
/// with a square of C. tile: 32, 64 or 128.
template <int tile, typename A, typename B, typename C>
__device__ void multiply_tile(Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c, Index stride,
                              Index row, Index column, bool accumulate) {
  using S = acc_t<C>;
  constexpr int step = ordered_step<tile, S>, side = tile / 16, run = side < 4 ? side : 4;
  __shared__ __align__(32) S a_tile[2][step][tile + 4], b_tile[2][step][tile + 4];  // this pass and the next
  // A warp holds 4 by 8 threads' numbers: so few different ones of A and B meet in it.
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int ty = warp / 2 * 4 + lane / 8, tx = warp % 2 * 8 + lane % 8;
  // where the i-th of a thread's rows or columns is: they come in runs of neighbours
  const auto place = [](int thread, int i) { return i / run * (16 * run) + thread * run + i % run; };
  S sums[side][side];
#pragma unroll
  for (int i = 0; i < side; ++i) {
#pragma unroll
    for (int j = 0; j < side; ++j) {
      const Index r = row + place(ty, i), col = column + place(tx, j);
      sums[i][j] = accumulate && r < m && col < n ? static_cast<S>(widen(c[r * stride + col])) : S(0);
    }
  }
  Strip<S, tile, step, A> left(a.data + row * a.row, a.row, a.column, m - row);
  Strip<S, tile, step, B> right(b.data + column * b.column, b.column, b.row, n - column);
  const auto load = [&](Index at) {
    left.load(at, k);
    right.load(at, k);
  };
  const auto store = [&](int turn) {
    left.store(a_tile[turn]);
    right.store(b_tile[turn]);
    __syncthreads();
  };
  load(0);
  store(0);
  int turn = 0;
  for (Index begin = 0; begin < k; begin += step, turn ^= 1) {
    const bool more = begin + step < k;
    if (more) load(begin + step);
#pragma unroll
    for (int l = 0; l < step; ++l) {
      S x[side], y[side];
#pragma unroll
      for (int i = 0; i < side; ++i) {
        x[i] = a_tile[turn][l][place(ty, i)];
        y[i] = b_tile[turn][l][place(tx, i)];
      }
#pragma unroll
      for (int i = 0; i < side; ++i) {
#pragma unroll
        for (int j = 0; j < side; ++j) sums[i][j] = exact::fma(x[i], y[j], sums[i][j]);
      }
    }
    if (more) store(turn ^ 1);  // what was there was read before the last barrier
  }
#pragma unroll
  for (int i = 0; i < side; ++i) {
#pragma unroll
    for (int j = 0; j < side; ++j) {
      const Index r = row + place(ty, i), col = column + place(tx, j);
      if (r < m && col < n) c[r * stride + col] = narrow<C>(sums[i][j]);
    }
  }
}

template <int tile, typename A, typename B, typename C>
__global__ void __launch_bounds__(ordered_threads)
    ordered_product(Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c, Index stride,
                    bool accumulate) {
  multiply_tile<tile>(m, n, k, a, b, c, stride, Index{blockIdx.x} * tile, Index{blockIdx.y} * tile,
                      accumulate);
}

/// C [m, n] (+)= A [m, k] B [k, n], C row-major with `stride`.
template <typename A, typename B, typename C>
void multiply_in_order(const Cuda& device, Index m, Index n, Index k, Matrix<A> a, Matrix<B> b, C* c,
                       Index stride, bool accumulate) {
  const auto run = [&]<int tile>() {
    const dim3 grid(static_cast<unsigned>(ceil_div(m, tile)), static_cast<unsigned>(ceil_div(n, tile)));
    launch(device, "product", ordered_product<tile, A, B, C>, grid, ordered_threads, 0, m, n, k, a, b, c,
           stride, accumulate);
  };
  // Larger tiles read less, as long as there are enough of them for all processors.
  const auto enough = [&](Index tile) {
    return ceil_div(m, tile) * ceil_div(n, tile) >= device.processors();
  };
  if constexpr (std::is_same_v<acc_t<C>, float>) {
    if (enough(128)) return run.template operator()<128>();
  }
  if (enough(64)) return run.template operator()<64>();
  run.template operator()<32>();
}

}  // namespace mtpx::cuda
