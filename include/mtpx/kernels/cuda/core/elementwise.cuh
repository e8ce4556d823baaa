#pragma once
// The loop of the kernels that treat every number by itself. They move memory and do little else: what counts
// is wide accesses, several under way.

#include "launch.cuh"

namespace mtpx::cuda {

/// N numbers in registers.
template <typename T, int N>
struct Numbers {
  T value[N];
};

/// N neighbours, at most 16 bytes an access; the address is a multiple of that access.
template <int N, typename T>
__device__ __forceinline__ Numbers<T, N> load_numbers(const T* from) {
  constexpr int piece = N < wide<T> ? N : wide<T>;
  Numbers<T, N> to;
#pragma unroll
  for (int i = 0; i < N; i += piece) {
    const auto part = *reinterpret_cast<const Pack<T, piece>*>(from + i);
#pragma unroll
    for (int j = 0; j < piece; ++j) to.value[i + j] = part.value[j];
  }
  return to;
}
template <int N, typename T>
__device__ __forceinline__ void store_numbers(T* to, const Numbers<T, N>& from) {
  constexpr int piece = N < wide<T> ? N : wide<T>;
#pragma unroll
  for (int i = 0; i < N; i += piece) {
    Pack<T, piece> part;
#pragma unroll
    for (int j = 0; j < piece; ++j) part.value[j] = from.value[i + j];
    *reinterpret_cast<Pack<T, piece>*>(to + i) = part;
  }
}

inline constexpr int map_threads = 256;

inline constexpr int map_unroll = 2;

/// op.store(i, op.load(i)) for packs of N numbers, the first number of each at i = 0, N, 2 N, ...; what is
/// left at the end goes singly, unless the count is known to be whole packs. A thread loads `unroll` packs
/// before it stores the first.
template <int N, int unroll, bool whole, typename Op>
__global__ void __launch_bounds__(map_threads) map_packs(Index count, const Op op) {
  constexpr Index step = map_threads * N;
  const Index block = Index{blockIdx.x} * (unroll * step);
  const Index first = block + Index{threadIdx.x} * N;
  if (block + unroll * step <= count) {
    decltype(op.template load<N>(first)) in[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) in[u] = op.template load<N>(first + u * step);
#pragma unroll
    for (int u = 0; u < unroll; ++u) op.template store<N>(first + u * step, in[u]);
    return;
  }
  for (Index i = first; i + N <= count; i += step) op.template store<N>(i, op.template load<N>(i));
  if constexpr (N > 1 && !whole) {
    const Index single = count / N * N + threadIdx.x;
    if (single < count) op.template store<1>(single, op.template load<1>(single));
  }
}

/// Runs `op` over `count` numbers, Op::packed at a time where `is_wide`.
template <typename Op>
void map(const Cuda& device, const char* name, Index count, bool is_wide, const Op& op) {
  const auto run = [&](auto kernel, Index per_thread) {
    const Index blocks = ceil_div(count, map_threads * per_thread);
    launch(device, name, kernel, static_cast<unsigned>(blocks), map_threads, 0, count, op);
  };
  if (is_wide) {
    run(map_packs<Op::packed, map_unroll, false, Op>, Op::packed * map_unroll);
  } else {
    run(map_packs<1, 4, false, Op>, 4);
  }
}

/// What reads nothing: y_i = op(i).
template <typename T, typename Op>
struct Fill {
  static constexpr int packed = wide<T>;
  T* y;
  Op op;

  struct Nothing {};
  template <int N>
  __device__ __forceinline__ Nothing load(Index) const {
    return {};
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, Nothing) const {
    Numbers<T, N> values;
#pragma unroll
    for (int j = 0; j < N; ++j) values.value[j] = op(i + j);
    store_numbers<N>(y + i, values);
  }
};

template <typename T, typename Op>
void fill(const Cuda& device, const char* name, Index count, T* y, const Op& op) {
  map(device, name, count, can_be_wide<T>(0, 0, y), Fill<T, Op>{y, op});
}

}  // namespace mtpx::cuda
