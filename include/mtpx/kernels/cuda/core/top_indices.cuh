#pragma once
// The largest few of a list, in order: a warp's work, as cpu::top_indices does it.

#include "launch.cuh"

namespace mtpx::cuda {

/// A whole number of the same order as x: NaN below -inf, as in cpu::top_indices, and 0, below all, left for
/// what is out of the race.
__device__ __forceinline__ std::uint32_t order_key(float x) {
  if (x != x) return 1;
  const std::uint32_t bits = __float_as_uint(x + 0.0F);  // -0 is 0
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ std::uint64_t order_key(double x) {
  if (x != x) return 1;
  const auto bits = static_cast<std::uint64_t>(__double_as_longlong(x + 0.0));
  return bits >> 63 != 0 ? ~bits : bits | (std::uint64_t{1} << 63);
}
/// The number whose key it is, unless that is NaN's or none.
__device__ __forceinline__ float number_of(std::uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & 0x7fffffffU : ~key);
}
__device__ __forceinline__ double number_of(std::uint64_t key) {
  constexpr std::uint64_t top = std::uint64_t{1} << 63;
  return __longlong_as_double(static_cast<long long>(key >= top ? key & ~top : ~key));
}
template <typename A>
using OrderKey = decltype(order_key(A()));

__device__ __forceinline__ std::uint32_t largest_key(std::uint32_t key) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(whole_warp, key);
#else
  return warp_max(key);
#endif
}
__device__ __forceinline__ std::uint64_t largest_key(std::uint64_t key) { return warp_max(key); }

/// The smallest over a warp, in every lane.
__device__ __forceinline__ int smallest_index(int i) {
#if __CUDA_ARCH__ >= 800
  return __reduce_min_sync(whole_warp, i);
#else
  return -warp_max(-i);
#endif
}

/// The keys of n numbers, spread over a warp: number i is key i / 32 of lane i % 32. J keys a lane in
/// registers, or, J = 0, any number of them in `memory`.
template <typename A, int J>
struct Race {
  using Key = OrderKey<A>;
  Key own[J > 0 ? J : 1];
  Key* memory;  // [n] of this warp
  int n, lane;
  Key best;  // of this lane, the first among equals
  int best_j;

  __device__ __forceinline__ Race(int n_, Key* memory_)
      : memory(memory_), n(n_), lane(static_cast<int>(threadIdx.x) % 32) {}

  /// f(j, i) for every number i = 32 j + lane.
  template <typename F>
  __device__ __forceinline__ void each(const F& f) const {
    if constexpr (J > 0) {
#pragma unroll
      for (int j = 0; j < J; ++j) {
        if (j * 32 + lane < n) f(j, j * 32 + lane);
      }
    } else {
      for (int j = 0; j * 32 + lane < n; ++j) f(j, j * 32 + lane);
    }
  }

  /// key_of(i): the key of number i.
  template <typename F>
  __device__ __forceinline__ void start(const F& key_of) {
#pragma unroll
    for (int j = 0; j < J; ++j) own[j] = 0;
    each([&](int j, int i) {
      if constexpr (J > 0) {
        own[j] = key_of(i);
      } else {
        memory[i] = key_of(i);
      }
    });
    lead();
  }

  __device__ __forceinline__ void lead() {
    best = 0;
    best_j = 0;
    each([&](int j, int i) {
      const Key key = J > 0 ? own[J > 0 ? j : 0] : memory[i];
      if (key > best) {
        best = key;
        best_j = j;
      }
    });
  }

  /// The largest number's index, the lowest among equals; it leaves the race.
  __device__ __forceinline__ int next() {
    const Key top = largest_key(best);
    const int mine = best == top ? best_j * 32 + lane : n;
    const int winner = smallest_index(mine);
    if (mine == winner) {
      each([&](int j, int i) {
        if (j != best_j) return;
        if constexpr (J > 0) {
          own[j] = 0;
        } else {
          memory[i] = 0;
        }
      });
      lead();
    }
    return winner;
  }
};

}  // namespace mtpx::cuda
