#pragma once
// Twins of cpu/functions.hpp.

#include <mtpx/core/rng.hpp>

#include "../functions.hpp"
#include "core/elementwise.cuh"
#include "reduce.cuh"
#include "rms_norm.cuh"

namespace mtpx {

namespace cuda {

/// Number i of rows of `width`: its row and column. One row needs no division.
struct RowPlaces {
  Index rows, width;

  __device__ __forceinline__ void of(Index i, Index& r, Index& c) const {
    if (rows <= 1) {
      r = 0;
      c = i;
    } else if (rows * width <= Index{0xffffffff}) {
      const auto at = static_cast<std::uint32_t>(i), w = static_cast<std::uint32_t>(width);
      r = at / w;
      c = at % w;
    } else {
      r = i / width;
      c = i % width;
    }
  }
  __device__ __forceinline__ Index at(Index i, Index stride) const {
    Index r, c;
    of(i, r, c);
    return r * stride + c;
  }
};

/// Rows that touch each other are one row.
inline Rows flat(Rows rows) {
  const Index size = rows.count * rows.width;
  return rows.stride == rows.width || rows.count <= 1 ? Rows{1, size, size} : rows;
}
/// Whether packs of 16 bytes stay inside rows that are spaced by them.
template <typename T>
bool fits_packs(const Rows& rows) {
  return rows.count <= 1 || (rows.width % wide<T> == 0 && rows.stride % wide<T> == 0);
}

struct Root {
  template <typename A>
  __device__ __forceinline__ A operator()(A x) const {
    return ::sqrt(x);
  }
};

// All functions in one place each, called: inlined into every place of a pack they would fill the
// instruction cache, and take the compiler minutes.
template <typename A>
__device__ __noinline__ A function_value(Unary f, A x, A alpha, A beta) {
  return exact::value(f, x, alpha, beta, Root());
}
template <typename A>
__device__ __noinline__ A function_gradient(Unary f, A from, A dy, A alpha) {
  return exact::gradient(f, from, dy, alpha);
}

template <typename T>
struct UnaryForward {
  static constexpr int packed = wide<T>;
  Unary f;
  acc_t<T> alpha, beta;
  RowPlaces places;
  Index stride;
  const T* x;
  T* y;

  template <int N>
  __device__ __forceinline__ Numbers<T, N> load(Index i) const {
    return load_numbers<N>(x + places.at(i, stride));
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const Numbers<T, N>& in) const {
    Numbers<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.value[j] = narrow<T>(function_value(f, widen(in.value[j]), alpha, beta));
    store_numbers<N>(y + i, out);
  }
};

template <typename T>
struct UnaryBackward {
  static constexpr int packed = wide<T>;
  Unary f;
  acc_t<T> alpha;
  RowPlaces places;
  Index stride;
  const T *from, *dy;
  Sink<T> dx;

  template <int N>
  struct In {
    Numbers<T, N> from, dy, dx;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    In<N> in;
    in.from = load_numbers<N>(from + places.at(i, stride));
    in.dy = load_numbers<N>(dy + i);
    if (dx.accumulate) in.dx = load_numbers<N>(dx.data + i);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, In<N> in) const {
#pragma unroll
    for (int j = 0; j < N; ++j)
      put(&in.dx.value[j], function_gradient(f, widen(in.from.value[j]), widen(in.dy.value[j]), alpha),
          dx.accumulate);
    store_numbers<N>(dx.data + i, in.dx);
  }
};

/// The operands of an op of two, N neighbours at a time. What is null counts for nothing: zeros.
template <typename T>
struct Pair {
  using A = acc_t<T>;
  PairShape s;
  const std::int32_t* mask;
  const T *a, *b;

  template <int N>
  static __device__ __forceinline__ Numbers<T, N> load(const T* x, Steps steps, Index r, Index c) {
    Numbers<T, N> to = {};
    if (x == nullptr) return to;
    const T* at = x + r * steps.row;
    if (steps.column != 0) return load_numbers<N>(at + c);
    const T same = *at;
#pragma unroll
    for (int j = 0; j < N; ++j) to.value[j] = same;
    return to;
  }
  template <int N>
  __device__ __forceinline__ Numbers<T, N> of_a(Index r, Index c) const {
    return load<N>(a, s.a, r, c);
  }
  template <int N>
  __device__ __forceinline__ Numbers<T, N> of_b(Index r, Index c) const {
    return load<N>(b, s.b, r, c);
  }
  __device__ __forceinline__ A of_mask(Index r, Index c) const {
    return mask != nullptr && mask[r % s.mask_rows * s.width + c] != 0 ? A(1) : A(0);
  }
  /// Whether packs of 16 bytes can be read of both.
  bool is_wide() const {
    const auto apart = [&](Steps x) { return s.rows <= 1 || x.column == 0 || x.row % wide<T> == 0; };
    const auto aligned = [](const T* x, Steps of) { return of.column == 0 || can_be_wide<T>(0, 0, x); };
    return (s.rows <= 1 || s.width % wide<T> == 0) && apart(s.a) && apart(s.b) && aligned(a, s.a) &&
           aligned(b, s.b);
  }
};

template <typename T>
struct BinaryForward {
  static constexpr int packed = wide<T>;
  Binary f;
  Pair<T> pair;
  T* y;

  template <int N>
  struct In {
    Numbers<T, N> a, b;
    Numbers<acc_t<T>, N> mask;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    In<N> in;
    Index r, c;
    RowPlaces{pair.s.rows, pair.s.width}.of(i, r, c);
    in.a = pair.template of_a<N>(r, c);
    in.b = pair.template of_b<N>(r, c);
#pragma unroll
    for (int j = 0; j < N; ++j) in.mask.value[j] = pair.of_mask(r, c + j);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const In<N>& in) const {
    Numbers<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j)
      out.value[j] = narrow<T>(exact::value(f, widen(in.a.value[j]), widen(in.b.value[j]), in.mask.value[j]));
    store_numbers<N>(y + i, out);
  }
};

/// The gradient of a (or b) at every place.
template <typename T>
struct PairGradient {
  Binary f;
  bool of_b;
  Pair<T> pair;
  const T* dy;

  template <int N>
  __device__ __forceinline__ Numbers<acc_t<T>, N> at(Index r, Index c) const {
    const auto a = pair.template of_a<N>(r, c), b = pair.template of_b<N>(r, c);
    const auto d = load_numbers<N>(dy + r * pair.s.width + c);
    Numbers<acc_t<T>, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j)
      out.value[j] = exact::gradient(f, of_b, widen(a.value[j]), widen(b.value[j]), pair.of_mask(r, c + j),
                                     widen(d.value[j]));
    return out;
  }
  __device__ __forceinline__ acc_t<T> operator()(Index r, Index c) const { return at<1>(r, c).value[0]; }
};

template <typename T, typename G>
struct BinaryBackward {
  static constexpr int packed = wide<T>;
  PairGradient<T> gradient;
  Sink<G> d;

  template <int N>
  struct In {
    Numbers<acc_t<T>, N> value;
    Numbers<G, N> before;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    In<N> in;
    Index r, c;
    RowPlaces{gradient.pair.s.rows, gradient.pair.s.width}.of(i, r, c);
    in.value = gradient.template at<N>(r, c);
    if (d.accumulate) in.before = load_numbers<N>(d.data + i);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, In<N> in) const {
#pragma unroll
    for (int j = 0; j < N; ++j) put(&in.before.value[j], in.value.value[j], d.accumulate);
    store_numbers<N>(d.data + i, in.before);
  }
};

/// partial[block] = the sum of gradients over gain_rows rows. A thread per column.   partial: [blocks, width]
template <typename T>
__global__ void __launch_bounds__(sum_threads)
    sum_row_blocks(Index rows, Index width, const PairGradient<T> gradient, acc_t<T>* partial) {
  const Index c = Index{blockIdx.y} * sum_threads + threadIdx.x;
  if (c >= width) return;
  const Index begin = blockIdx.x * gain_rows, end = min(rows, begin + gain_rows);
  acc_t<T> sum(0);
  for (Index r = begin; r < end; ++r) sum += gradient(r, c);
  partial[blockIdx.x * width + c] = sum;
}

/// Four neighbours at a time, the words of a Philox block.
template <typename T>
struct Drop {
  static constexpr int packed = 4;
  std::uint64_t seed, stream, least;
  acc_t<T> scale;
  RowPlaces places;
  Index stride;
  const T* x;
  Sink<T> y;

  template <int N>
  struct In {
    Numbers<T, N> x, y;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    In<N> in;
    in.x = load_numbers<N>(x + places.at(i, stride));
    if (y.accumulate) in.y = load_numbers<N>(y.data + i);
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, In<N> in) const {
    using A = acc_t<T>;
    const auto block = Philox::block(seed, stream, static_cast<std::uint64_t>(i / 4));
    const std::uint32_t words[4] = {block[0], block[1], block[2], block[3]};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (N != 4 && j != i % 4) continue;
      const int at = N == 4 ? j : 0;
      const A kept = words[j] >= least ? exact::product(scale, static_cast<A>(widen(in.x.value[at]))) : A(0);
      put(&in.y.value[at], kept, y.accumulate);
    }
    store_numbers<N>(y.data + i, in.y);
  }
};

}  // namespace cuda

/// y = f(x).   x: rows apart   y: dense
template <typename T>
void unary_forward(const Cuda& device, Unary f, acc_t<T> alpha, acc_t<T> beta, Rows rows, const T* x, T* y) {
  const Rows all = cuda::flat(rows);
  const bool is_wide = cuda::fits_packs<T>(all) && cuda::can_be_wide<T>(0, 0, x, y);
  cuda::map(device, "unary", all.count * all.width, is_wide,
            cuda::UnaryForward<T>{f, alpha, beta, {all.count, all.width}, all.stride, x, y});
}

/// dx = dy f'.   from: y where derived_from_value(f), else x, rows apart   dy, dx: dense
template <typename T>
void unary_backward(const Cuda& device, Unary f, acc_t<T> alpha, Rows rows, const T* from, const T* dy,
                    Sink<T> dx) {
  if (!dx) return;
  const Rows all = cuda::flat(rows);
  const bool is_wide = cuda::fits_packs<T>(all) && cuda::can_be_wide<T>(0, 0, from, dy, dx.data);
  cuda::map(device, "unary_backward", all.count * all.width, is_wide,
            cuda::UnaryBackward<T>{f, alpha, {all.count, all.width}, all.stride, from, dy, dx});
}

/// y = f(a, b), each repeated where its steps say so.   y: dense
template <typename T>
void binary_forward(const Cuda& device, Binary f, PairShape s, const std::int32_t* mask, const T* a,
                    const T* b, T* y) {
  const cuda::Pair<T> pair{s.flat(), mask, a, b};
  cuda::map(device, "binary", s.rows * s.width, pair.is_wide() && cuda::can_be_wide<T>(0, 0, y),
            cuda::BinaryForward<T>{f, pair, y});
}

/// The gradient of a (or b), dense, from those operands that it needs (../functions.hpp; others may be null);
/// where the operand was repeated, the sum over all its places, in the host's order.
template <typename T, typename G>
void binary_backward(const Cuda& device, Binary f, bool of_b, PairShape s, const std::int32_t* mask,
                     const T* a, const T* b, const T* dy, Sink<G> d) {
  if (!d) return;
  using A = acc_t<T>;
  const char* const name = "binary_backward";
  const Summed summed(s.rows, s.width, of_b ? s.b : s.a);
  const bool none = !summed.rows && !summed.columns;
  const cuda::Pair<T> pair{none ? s.flat() : s, mask, a, b};
  const cuda::PairGradient<T> gradient{f, of_b, pair, dy};
  if (none) {
    cuda::map(device, name, s.rows * s.width, pair.is_wide() && cuda::can_be_wide<T>(0, 0, dy, d.data),
              cuda::BinaryBackward<T, G>{gradient, d});
  } else if (summed.rows && summed.columns) {
    cuda::sum_of_all<A>(device, name, s.rows, s.width, gradient, cuda::ToSink<G>{d});
  } else if (summed.columns) {
    cuda::sum_rows<A>(device, name, s.rows, s.width, gradient, cuda::ToSink<G>{d});
  } else {
    const Index blocks = cuda::ceil_div(s.rows, gain_rows);
    const cuda::Workspace<A> partial(device, blocks * s.width);  // [blocks, width]
    const dim3 grid(static_cast<unsigned>(blocks),
                    static_cast<unsigned>(cuda::ceil_div(s.width, cuda::sum_threads)));
    cuda::launch(device, name, cuda::sum_row_blocks<T>, grid, cuda::sum_threads, 0, s.rows, s.width, gradient,
                 partial.data());
    cuda::launch(device, name, cuda::add_partials_in_order<A, G>,
                 static_cast<unsigned>(cuda::ceil_div(s.width, 32)), 32, 0, blocks, s.width, partial.data(),
                 d);
  }
}

/// y_i (+)= x_i / (1 - rate) where word i % 4 of Philox block i / 4 is at least rate 2^32, else 0.
/// x: rows apart   y: dense
template <typename T>
void drop_numbers(const Cuda& device, Rows rows, std::uint64_t seed, std::uint64_t stream, double rate,
                  const T* x, Sink<T> y) {
  if (!y) return;
  const Rows all = cuda::flat(rows);
  const bool is_wide = (all.count <= 1 || (all.width % 4 == 0 && all.stride % 4 == 0)) &&
                       cuda::can_be_wide<T>(0, 0, x, y.data);
  cuda::map(device, "dropout", all.count * all.width, is_wide,
            cuda::Drop<T>{seed,
                          stream,
                          static_cast<std::uint64_t>(rate * 0x1p32),
                          static_cast<acc_t<T>>(1 / (1 - rate)),
                          {all.count, all.width},
                          all.stride,
                          x,
                          y});
}

}  // namespace mtpx
