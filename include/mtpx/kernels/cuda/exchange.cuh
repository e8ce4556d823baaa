#pragma once
// Twins of cpu/exchange.hpp.

#include "experts.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int exchange_threads = 256;

/// Block 0 writes bounds and need; all write rows.
template <typename A>
__global__ void plan_exchange(ExchangeShape s, const std::int32_t* ids, const std::int32_t* offsets,
                              const std::int32_t* place, std::int32_t* row, std::int32_t* bounds, A* need) {
  const Index own = s.own(), capacity = s.capacity;
  if (blockIdx.x == 0) {
    for (Index i = threadIdx.x; i < s.ranks * (own + 1); i += exchange_threads) {
      const std::int32_t* const first = offsets + i / (own + 1) * own;
      bounds[i] = static_cast<std::int32_t>(min(Index{first[i % (own + 1)] - first[0]}, capacity));
    }
    if (threadIdx.x == 0) {
      Index most = 0;
      for (Index r = 0; r < s.ranks; ++r) most = max(most, Index{offsets[(r + 1) * own] - offsets[r * own]});
      const A share = static_cast<A>(most * s.ranks) / static_cast<A>(s.slots);
      if (share > need[0]) need[0] = share;
      if (most > capacity) need[1] = static_cast<A>(__int_as_float(0x7fc00000));  // NaN
    }
  }
  for (Index i = blockIdx.x * exchange_threads + threadIdx.x; i < s.slots;
       i += gridDim.x * exchange_threads) {
    const Index rank = ids[i] / own, at = place[i] - offsets[rank * own];
    row[i] = at < capacity ? static_cast<std::int32_t>(rank * capacity + at) : -1;
  }
}

/// A warp a slot, N numbers a lane at a time.
template <typename T, int N>
__global__ void spread_slots(Rows rows, int top_k, const std::int32_t* row, const T* x, T* spread) {
  using P = Pack<T, N>;
  for (Index i = blockIdx.x * rows_per_block + threadIdx.x / 32; i < rows.count * top_k;
       i += gridDim.x * rows_per_block) {
    if (row[i] < 0) continue;
    const T* const from = x + i / top_k * rows.stride;
    T* const to = spread + row[i] * rows.width;
    for (Index c = threadIdx.x % 32 * N; c < rows.width; c += 32 * N)
      *reinterpret_cast<P*>(to + c) = *reinterpret_cast<const P*>(from + c);
  }
}

/// A warp a token, N numbers a lane at a time.
template <typename T, int N>
__global__ void combine_slots(Rows rows, int top_k, const std::int32_t* row, const acc_t<T>* weights,
                              const T* spread, T* y, bool accumulate) {
  using A = acc_t<T>;
  using P = Pack<T, N>;
  for (Index n = blockIdx.x * rows_per_block + threadIdx.x / 32; n < rows.count;
       n += gridDim.x * rows_per_block) {
    for (Index c = threadIdx.x % 32 * N; c < rows.width; c += 32 * N) {
      A sum[N] = {};
      for (Index i = n * top_k; i < (n + 1) * top_k; ++i) {
        if (row[i] < 0) continue;
        const A weight = weights == nullptr ? A(1) : weights[i];
        const P part = *reinterpret_cast<const P*>(spread + row[i] * rows.width + c);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] = exact::fma(weight, widen(part.value[j]), sum[j]);
      }
      P* const to = reinterpret_cast<P*>(y + n * rows.width + c);
      P out{};
      if (accumulate) out = *to;
#pragma unroll
      for (int j = 0; j < N; ++j) put(&out.value[j], sum[j], accumulate);
      *to = out;
    }
  }
}

}  // namespace cuda

/// Where every slot stands in what is sent, [ranks, capacity] rows; see cpu/exchange.hpp.
template <typename A>
void plan_exchange(const Cuda& device, ExchangeShape s, const std::int32_t* ids, const std::int32_t* offsets,
                   const std::int32_t* place, std::int32_t* row, std::int32_t* bounds, A* need) {
  const dim3 grid(std::max(1U, cuda::grid_for(device, s.slots, cuda::exchange_threads)));
  cuda::launch(device, "plan_exchange", cuda::plan_exchange<A>, grid, dim3(cuda::exchange_threads), 0, s, ids,
               offsets, place, row, bounds, need);
}

/// spread[row_nk] = x_n for every slot that has a row.
template <typename T>
void spread_slots(const Cuda& device, Rows rows, Index top_k, const std::int32_t* row, const T* x,
                  T* spread) {
  cuda::with_width<T>(
      rows.width, rows.stride,
      [&](auto n) {
        cuda::launch(device, "spread_slots", cuda::spread_slots<T, n()>,
                     dim3(cuda::grid_for(device, rows.count * top_k, cuda::rows_per_block)),
                     dim3(cuda::row_threads), 0, rows, static_cast<int>(top_k), row, x, spread);
      },
      x, spread);
}

/// y_n (+)= sum_k weight_nk spread[row_nk], over the slots that have a row, one by one from the left.
template <typename T>
void combine_slots(const Cuda& device, Rows rows, Index top_k, const std::int32_t* row,
                   const acc_t<T>* weights, const T* spread, Sink<T> y) {
  if (!y) return;
  cuda::with_width<T>(
      rows.width, rows.width,
      [&](auto n) {
        cuda::launch(device, "combine_slots", cuda::combine_slots<T, n()>,
                     dim3(cuda::grid_for(device, rows.count, cuda::rows_per_block)), dim3(cuda::row_threads),
                     0, rows, static_cast<int>(top_k), row, weights, spread, y.data, y.accumulate);
      },
      spread, y.data);
}

}  // namespace mtpx
