#pragma once
// Twins of cpu/swiglu.hpp: pure memory traffic.

#include "core/elementwise.cuh"
#include "core/silu.cuh"

namespace mtpx {

namespace cuda {

template <typename T>
struct SwiGlu {
  static constexpr int packed = wide<T>;
  const T *gate, *up;
  T* y;

  template <int N>
  struct In {
    Numbers<T, N> gate, up;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    return {load_numbers<N>(gate + i), load_numbers<N>(up + i)};
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const In<N>& in) const {
    Numbers<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j)
      out.value[j] = narrow<T>(swiglu_of<T>(widen(in.gate.value[j]), widen(in.up.value[j])));
    store_numbers<N>(y + i, out);
  }
};

template <typename T>
struct SwiGluBackward {
  static constexpr int packed = wide<T>;
  const T *gate, *up, *dy;
  Sink<T> dgate, dup;

  template <int N>
  struct In {
    Numbers<T, N> gate, up, dy;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    return {load_numbers<N>(gate + i), load_numbers<N>(up + i), load_numbers<N>(dy + i)};
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, const In<N>& in) const {
    using A = acc_t<T>;
    Numbers<T, N> dg, du;
    if (dgate.data != nullptr && dgate.accumulate) dg = load_numbers<N>(dgate.data + i);
    if (dup.data != nullptr && dup.accumulate) du = load_numbers<N>(dup.data + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const A g = widen(in.gate.value[j]), d = widen(in.dy.value[j]);
      const exact::Silu<A> silu(g, sigmoid_for<T>(g));
      put(&dg.value[j], exact::product(d * widen(in.up.value[j]), silu.slope), dgate.accumulate);
      put(&du.value[j], exact::product(d, silu.value), dup.accumulate);
    }
    if (dgate.data != nullptr) store_numbers<N>(dgate.data + i, dg);
    if (dup.data != nullptr) store_numbers<N>(dup.data + i, du);
  }
};

}  // namespace cuda

/// y = silu(gate) * up, silu(g) = g / (1 + e^-g), element by element.
template <typename T>
void swiglu_forward(const Cuda& device, Index count, const T* gate, const T* up, T* y) {
  cuda::map(device, "swiglu", count, cuda::can_be_wide<T>(0, 0, gate, up, y), cuda::SwiGlu<T>{gate, up, y});
}

/// dgate = dy * up * silu'(gate);  dup = dy * silu(gate).
template <typename T>
void swiglu_backward(const Cuda& device, Index count, const T* gate, const T* up, const T* dy, Sink<T> dgate,
                     Sink<T> dup) {
  if (!dgate && !dup) return;
  if (dgate.data == dup.data) {  // one operand on both sides: the second part is added to the first
    swiglu_backward(device, count, gate, up, dy, dgate, Sink<T>{});
    return swiglu_backward(device, count, gate, up, dy, Sink<T>{}, dup);
  }
  cuda::map(device, "swiglu_backward", count, cuda::can_be_wide<T>(0, 0, gate, up, dy, dgate.data, dup.data),
            cuda::SwiGluBackward<T>{gate, up, dy, dgate, dup});
}

}  // namespace mtpx
