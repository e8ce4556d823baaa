#pragma once
// Twin of cpu/fold.hpp.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

template <typename A>
struct FoldParts {
  static constexpr int packed = wide<A>;
  Index count, parts;
  const A* x;
  Sink<A> y;

  template <int N>
  __device__ __forceinline__ Numbers<A, N> load(Index i) const {
    Numbers<A, N> sum = load_numbers<N>(x + i);
    const auto add = [&](Numbers<A, N> first, Numbers<A, N> second) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum.value[j] = first.value[j] + second.value[j];
    };
    if (y.accumulate) add(load_numbers<N>(y.data + i), sum);
    for (Index p = 1; p < parts; ++p) add(sum, load_numbers<N>(x + p * count + i));
    return sum;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, Numbers<A, N> sum) const {
    store_numbers<N>(y.data + i, sum);
  }
};

}  // namespace cuda

/// y_i (+)= x_0i + x_1i + ... + x_(parts - 1)i, one by one from the left: what stood in y comes first.
/// x: [parts, count]   y: [count]
template <typename A>
void fold_parts(const Cuda& device, Index count, Index parts, const A* x, Sink<A> y) {
  if (!y) return;
  using Op = cuda::FoldParts<A>;
  const bool is_wide = cuda::can_be_wide<A>(0, 0, x, y.data) && (parts == 1 || count % Op::packed == 0);
  cuda::map(device, "fold_parts", count, is_wide, Op{count, parts, x, y});
}

}  // namespace mtpx
