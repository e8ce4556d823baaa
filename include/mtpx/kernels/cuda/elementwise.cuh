#pragma once
// Twins of cpu/elementwise.hpp.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

/// I: wide enough for the number of elements.
template <typename From, typename To, typename I>
struct CopyRows {
  static constexpr int packed = wide<From> < wide<To> ? wide<From> : wide<To>;
  const From* from;
  To* to;
  I width;
  Index from_stride, to_stride;
  bool accumulate;

  template <int N>
  struct In {
    Numbers<From, N> x;
    Numbers<To, N> y;
    Index at;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    const I row = static_cast<I>(i) / width, column = static_cast<I>(i) - row * width;
    In<N> in;
    in.x = load_numbers<N>(from + row * from_stride + column);
    in.at = row * to_stride + column;
    if (accumulate) in.y = load_numbers<N>(to + in.at);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index, In<N> in) const {
    using A = acc_t<To>;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (accumulate) {
        in.y.value[j] =
            narrow<To>(static_cast<A>(widen(in.y.value[j])) + static_cast<A>(widen(in.x.value[j])));
      } else if constexpr (std::is_same_v<From, To>) {
        in.y.value[j] = in.x.value[j];
      } else {
        in.y.value[j] = narrow<To>(widen(in.x.value[j]));
      }
    }
    store_numbers<N>(to + in.at, in.y);
  }
};

template <typename A>
struct Scale {
  static constexpr int packed = wide<A>;
  A alpha;
  const A* x;
  Sink<A> y;

  template <int N>
  struct In {
    Numbers<A, N> x, y;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    In<N> in;
    in.x = load_numbers<N>(x + i);
    if (y.accumulate) in.y = load_numbers<N>(y.data + i);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, In<N> in) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const A scaled = exact::product(alpha, in.x.value[j]);
      in.y.value[j] = y.accumulate ? in.y.value[j] + scaled : scaled;
    }
    store_numbers<N>(y.data + i, in.y);
  }
};

template <typename T>
struct Constant {
  T value;
  __device__ __forceinline__ T operator()(Index) const { return value; }
};

}  // namespace cuda

/// Copies (or adds, when `accumulate`) rows of `width` numbers from one spacing to another, converting where
/// the types differ.   from, to: [count, width] strided
template <typename From, typename To>
void copy_rows(const Cuda& device, Index count, Index width, const From* from, Index from_stride, To* to,
               Index to_stride, bool accumulate) {
  if (count * width == 0) return;
  if (count == 1 || (from_stride == width && to_stride == width)) {  // one long row
    from_stride = to_stride = width = count * width;
    count = 1;
  }
  const Index total = count * width;
  const auto run = [&](auto width_as) {
    using Op = cuda::CopyRows<From, To, decltype(width_as)>;
    const Op op{from, to, width_as, from_stride, to_stride, accumulate};
    const bool is_wide = cuda::can_be_wide<To>(0, 0, from, to) && width % Op::packed == 0 &&
                         from_stride % Op::packed == 0 && to_stride % Op::packed == 0;
    cuda::map(device, "copy_rows", total, is_wide, op);
  };
  if (total <= Index{0xffffffff}) {
    run(static_cast<std::uint32_t>(width));
  } else {
    run(static_cast<std::uint64_t>(width));
  }
}

/// y (+)= alpha * x, for a factor known to the host.
template <typename A>
void scale_into(const Cuda& device, Index count, A alpha, const A* x, Sink<A> y) {
  if (!y) return;
  cuda::map(device, "scale_into", count, cuda::can_be_wide<A>(0, 0, x, y.data), cuda::Scale<A>{alpha, x, y});
}

/// y_i = value, for a value known to the host.
template <typename A>
void fill_value(const Cuda& device, Index count, A value, A* y) {
  cuda::fill(device, "fill_value", count, y, cuda::Constant<A>{value});
}

}  // namespace mtpx
