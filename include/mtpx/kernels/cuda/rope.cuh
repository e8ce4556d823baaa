#pragma once
// Twin of cpu/rope.hpp. One pass: read, turn or copy, write.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

/// Whole packs that lie either in the still or in the turned part of a head.
template <typename T, typename I>
struct Rope {
  static constexpr int packed = wide<T>;
  using A = acc_t<T>;
  const T* x;
  const std::int32_t* positions;
  const A *cos, *sin;
  Sink<T> y;
  A direction;
  I row_width, head_width, still;
  Index stride, half;

  /// What is not turned then stays where it is.
  __device__ __forceinline__ bool in_place() const { return x == y.data; }

  template <int N>
  struct In {
    Numbers<T, N> x;
    Numbers<A, N / 2> cos, sin;
    bool turned;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    static_assert(N % 2 == 0);
    const I row = static_cast<I>(i) / row_width, column = static_cast<I>(i) - row * row_width;
    const I place = column % head_width;
    In<N> in;
    in.turned = place >= still;
    if (in.turned || !in_place()) in.x = load_numbers<N>(x + row * stride + column);
    if (in.turned) {
      const Index at = positions[row] * half + (place - still) / 2;
      in.cos = load_numbers<N / 2>(cos + at);
      in.sin = load_numbers<N / 2>(sin + at);
    }
    return in;
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const In<N>& in) const {
    if (!in.turned && in_place()) return;
    Numbers<T, N> out;
    if (y.accumulate) out = load_numbers<N>(y.data + i);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      A even = widen(in.x.value[j]), odd = widen(in.x.value[j + 1]);
      if (in.turned) {
        const A c = in.cos.value[j / 2], s = direction * in.sin.value[j / 2];
        const exact::Rotated<A> pair(even, odd, c, s);
        even = pair.even;
        odd = pair.odd;
      }
      put(&out.value[j], even, y.accumulate);
      put(&out.value[j + 1], odd, y.accumulate);
    }
    store_numbers<N>(y.data + i, out);
  }
};

/// Any widths: a thread copies one number or turns one pair. `units` of these in a head.
template <typename T>
__global__ void __launch_bounds__(map_threads)
    rope_units(Index total, Index heads, Index width, Index still, Index units, Index stride, const T* x,
               const std::int32_t* positions, const acc_t<T>* cos, const acc_t<T>* sin, acc_t<T> direction,
               Sink<T> y) {
  using A = acc_t<T>;
  const Index i = Index{blockIdx.x} * map_threads + threadIdx.x;
  if (i >= total) return;
  const Index row = i / (heads * units), head = i / units % heads, unit = i % units;
  const T* xh = x + row * stride + head * width;        // [width]
  T* yh = y.data + row * heads * width + head * width;  // [width]
  if (unit < still && xh == yh) return;
  if (unit < still) return put(yh + unit, static_cast<A>(widen(xh[unit])), y.accumulate);
  const Index j = unit - still, at = still + 2 * j;
  const Index entry = positions[row] * ((width - still) / 2) + j;
  const A even = widen(xh[at]), odd = widen(xh[at + 1]);
  const A c = cos[entry], s = direction * sin[entry];
  const exact::Rotated<A> pair(even, odd, c, s);
  put(yh + at, pair.even, y.accumulate);
  put(yh + at + 1, pair.odd, y.accumulate);
}

}  // namespace cuda

/// Rotates the last `rope` numbers of each of `heads` heads of every row, adjacent pairs together, and copies
/// the others. `direction` 1 rotates forward, -1 back.
///
///   (y_2j, y_2j+1) = (x_2j cos - x_2j+1 sin, x_2j sin + x_2j+1 cos),  cos, sin = table[position][j]
///
/// x: [N, heads * width] strided   positions: [N]   cos, sin: [P, rope / 2]   y: [N, heads * width] dense,
/// or x itself
template <typename T>
void rope_apply(const Cuda& device, Rows rows, Index heads, Index rope, const T* x,
                const std::int32_t* positions, const acc_t<T>* cos, const acc_t<T>* sin, int direction,
                Sink<T> y) {
  if (!y || rows.count * rows.width == 0) return;
  using A = acc_t<T>;
  const Index width = rows.width / heads, still = width - rope, total = rows.count * rows.width;
  const auto sign = static_cast<A>(direction);
  if (!cuda::can_be_wide<T>(width, rows.stride, x, y.data, cos, sin) || rope % cuda::wide<T> != 0) {
    const Index units = still + rope / 2, all = rows.count * heads * units;
    const auto grid = static_cast<unsigned>(cuda::ceil_div(all, cuda::map_threads));
    cuda::launch(device, "rope", cuda::rope_units<T>, grid, cuda::map_threads, 0, all, heads, width, still,
                 units, rows.stride, x, positions, cos, sin, sign, y);
    return;
  }
  const auto run = [&](auto zero) {
    using I = decltype(zero);
    using Op = cuda::Rope<T, I>;
    const Op op{x,
                positions,
                cos,
                sin,
                y,
                sign,
                static_cast<I>(rows.width),
                static_cast<I>(width),
                static_cast<I>(still),
                rows.stride,
                rope / 2};
    const Index blocks = cuda::ceil_div(total, cuda::map_threads * Op::packed * cuda::map_unroll);
    cuda::launch(device, "rope", cuda::map_packs<Op::packed, cuda::map_unroll, true, Op>,
                 static_cast<unsigned>(blocks), cuda::map_threads, 0, total, op);
  };
  if (total <= Index{0xffffffff}) {
    run(std::uint32_t{0});
  } else {
    run(std::uint64_t{0});
  }
}

}  // namespace mtpx
