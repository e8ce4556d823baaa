#pragma once
// SwiGLU's activation on the chip, as exact as results of type T need it: for bf16 numbers the chip's own
// exponential and reciprocal (about 1e-6 off), or arithmetic would be what takes the time.

#include "launch.cuh"

namespace mtpx::cuda {

template <typename T>
__device__ __forceinline__ acc_t<T> sigmoid_for(acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __fdividef(1.0F, 1.0F + exponential<T>(-x));
  } else {
    return exact::sigmoid(x);
  }
}

/// silu(gate) * up, of numbers of type T, not yet rounded to it: so the op, the experts' products on Hopper
/// and those of few rows give the same bits.
template <typename T>
__device__ __forceinline__ acc_t<T> swiglu_of(acc_t<T> gate, acc_t<T> up) {
  return exact::product(gate, sigmoid_for<T>(gate)) * up;
}

}  // namespace mtpx::cuda
