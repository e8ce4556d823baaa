#pragma once
// Twins of cpu/elementwise.hpp, and the loop that they share with the other kernels that treat every number
// by itself. All of them move memory and do little else: what counts is wide accesses, several under way.

#include "core/launch.cuh"

namespace mtpx {

namespace cuda {

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

template <typename T>
struct Add {
  static constexpr int packed = wide<T>;
  const T *a, *b;
  T* y;

  template <int N>
  struct In {
    Numbers<T, N> a, b;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    return {load_numbers<N>(a + i), load_numbers<N>(b + i)};
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const In<N>& in) const {
    Numbers<T, N> sum;
#pragma unroll
    for (int j = 0; j < N; ++j) sum.value[j] = narrow<T>(widen(in.a.value[j]) + widen(in.b.value[j]));
    store_numbers<N>(y + i, sum);
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

template <typename T>
struct Constant {
  T value;
  __device__ __forceinline__ T operator()(Index) const { return value; }
};

struct PositionsFrom {
  Index time, start;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    return static_cast<std::int32_t>(start + i % time);
  }
};

struct WindowPositions {
  Index width, stride;
  const std::int32_t* positions;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    const Index b = i / width, t = i % width;
    return min(positions[b * stride + t], static_cast<std::int32_t>(t));
  }
};

struct ShiftedLabels {
  Index count, stride, ahead;
  const std::int32_t *tokens, *positions;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    const Index at = i / count * stride + i % count;
    const bool same = positions == nullptr || positions[at + ahead] == positions[at] + ahead;
    return same ? tokens[at + ahead] : -1;
  }
};

template <typename T, typename Op>
void fill(const Cuda& device, const char* name, Index count, T* y, const Op& op) {
  map(device, name, count, can_be_wide<T>(0, 0, y), Fill<T, Op>{y, op});
}

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

/// y = a + b
template <typename T>
void add_forward(const Cuda& device, Index count, const T* a, const T* b, T* y) {
  cuda::map(device, "add", count, cuda::can_be_wide<T>(0, 0, a, b, y), cuda::Add<T>{a, b, y});
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

/// position[b][t] = start + t
inline void fill_positions(const Cuda& device, Index batch, Index time, Index start,
                           std::int32_t* positions) {
  cuda::fill(device, "fill_positions", batch * time, positions, cuda::PositionsFrom{time, start});
}

/// window[b][t] = min(position[b][t], t).   positions: [B, T] strided   window: [B, T]
inline void window_positions(const Cuda& device, Rows rows, const std::int32_t* positions,
                             std::int32_t* window) {
  cuda::fill(device, "window_positions", rows.count * rows.width, window,
             cuda::WindowPositions{rows.width, rows.stride, positions});
}

/// label[b][i] = token[b][i + k + 1] for depth k, or -1 where position[i + k + 1] != position[i] + k + 1.
/// tokens, positions: [B, T + 1] rows with the same stride   labels: [B, T - k]
inline void shift_labels(const Cuda& device, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* positions, std::int32_t* labels) {
  const Index ahead = depth + 1, count = rows.width - ahead;
  if (count <= 0) return;
  cuda::fill(device, "shift_labels", rows.count * count, labels,
             cuda::ShiftedLabels{count, rows.stride, ahead, tokens, positions});
}

}  // namespace mtpx
