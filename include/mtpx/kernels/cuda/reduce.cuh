#pragma once
// Twins of cpu/reduce.hpp: whatever is added along a row, or a piece of one, is added by one warp.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int sum_threads = 256;
inline constexpr int sum_warps = sum_threads / 32;

/// out(i, sum of load(r, c) over piece i % of_row of row r = i / of_row): columns from i % of_row * piece on.
template <typename A, typename Load, typename Out>
__global__ void __launch_bounds__(sum_threads)
    sum_pieces(Index count, Index of_row, Index piece, Index width, const Load load, const Out out) {
  const Index i = Index{blockIdx.x} * sum_warps + threadIdx.x / 32;
  if (i >= count) return;
  const Index r = i / of_row, first = i % of_row * piece, end = min(width, first + piece);
  A sum(0);
  for (Index c = first + threadIdx.x % 32; c < end; c += 32) sum += load(r, c);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) out(i, sum);
}

template <typename A>
struct FromList {
  const A* list;
  __device__ __forceinline__ A operator()(Index, Index c) const { return list[c]; }
};
template <typename A>
struct ToList {
  A* list;
  __device__ __forceinline__ void operator()(Index i, A sum) const { list[i] = sum; }
};
template <typename G>
struct ToSink {
  Sink<G> to;
  __device__ __forceinline__ void operator()(Index i, acc_t<G> sum) const {
    put(to.data + i, sum, to.accumulate);
  }
};

template <typename A, typename Load, typename Out>
void sum_pieces_of(const Cuda& device, const char* name, Index rows, Index width, Index piece,
                   const Load& load, const Out& out) {
  const Index of_row = std::max<Index>(1, ceil_div(width, std::max<Index>(1, piece))), count = rows * of_row;
  launch(device, name, sum_pieces<A, Load, Out>, static_cast<unsigned>(ceil_div(count, sum_warps)),
         sum_threads, 0, count, of_row, piece, width, load, out);
}

/// out(r, sum of load(r, c)) for every row.
template <typename A, typename Load, typename Out>
void sum_rows(const Cuda& device, const char* name, Index rows, Index width, const Load& load,
              const Out& out) {
  sum_pieces_of<A>(device, name, rows, width, width, load, out);
}

/// out(0, sum of all load(r, c)), in pieces of sum_columns.
template <typename A, typename Load, typename Out>
void sum_of_all(const Cuda& device, const char* name, Index rows, Index width, const Load& load,
                const Out& out) {
  Index count = rows * ceil_div(width, sum_columns);
  if (count == 0) return sum_rows<A>(device, name, 1, 0, load, out);
  if (count == 1) return sum_rows<A>(device, name, 1, width, load, out);
  const Workspace<A> one(device, count), other(device, ceil_div(count, sum_columns));
  A *list = one.data(), *next = other.data();
  sum_pieces_of<A>(device, name, rows, width, sum_columns, load, ToList<A>{list});
  for (; count > sum_columns; count = ceil_div(count, sum_columns), std::swap(list, next))
    sum_pieces_of<A>(device, name, 1, count, sum_columns, FromList<A>{list}, ToList<A>{next});
  sum_rows<A>(device, name, 1, count, FromList<A>{list}, out);
}

template <typename T>
struct FromRows {
  const T* x;
  Index stride;
  __device__ __forceinline__ acc_t<T> operator()(Index r, Index c) const { return widen(x[r * stride + c]); }
};
template <typename T>
struct ToQuotients {
  T* y;
  acc_t<T> divisor;
  __device__ __forceinline__ void operator()(Index i, acc_t<T> sum) const { y[i] = narrow<T>(sum / divisor); }
};

/// dx_rc = dy_r / divisor; `step` 0: of one dy.
template <typename T>
struct SumBackward {
  static constexpr int packed = 1;
  const T* dy;
  Index width, step;
  acc_t<T> divisor;
  Sink<T> dx;

  template <int N>
  __device__ __forceinline__ acc_t<T> load(Index i) const {
    return widen(dy[i / width * step]) / divisor;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, acc_t<T> d) const {
    put(dx.data + i, d, dx.accumulate);
  }
};

}  // namespace cuda

/// y_r = sum_c x_rc / divisor, or y = sum of all / divisor.   y: [N] or [1]
template <typename T>
void sum_forward(const Cuda& device, Rows rows, bool over_all, Index divisor, const T* x, T* y) {
  using A = acc_t<T>;
  const cuda::FromRows<T> load{x, rows.stride};
  const cuda::ToQuotients<T> out{y, static_cast<A>(divisor)};
  if (over_all) {
    cuda::sum_of_all<A>(device, "sum", rows.count, rows.width, load, out);
  } else {
    cuda::sum_rows<A>(device, "sum", rows.count, rows.width, load, out);
  }
}

/// dx_rc = dy_r / divisor, or dy / divisor.
template <typename T>
void sum_backward(const Cuda& device, Rows rows, bool over_all, Index divisor, const T* dy, Sink<T> dx) {
  if (!dx) return;
  cuda::map(device, "sum_backward", rows.count * rows.width, false,
            cuda::SumBackward<T>{dy, rows.width, over_all ? 0 : 1, static_cast<acc_t<T>>(divisor), dx});
}

}  // namespace mtpx
