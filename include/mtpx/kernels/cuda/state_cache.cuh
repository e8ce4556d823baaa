#pragma once
// Twins of cpu/state_cache.hpp.

#include "elementwise.cuh"

#include "../shapes.hpp"

namespace mtpx {

namespace cuda {

/// Numbers between dense rows and their entries of a cache.
template <typename T, bool stores>
struct StateRows {
  static constexpr int packed = wide<T>;
  StateShape s;
  const std::int32_t *sequences, *positions;
  const T* from;
  T* to;

  template <int N>
  struct In {
    Numbers<T, N> x;
    Index at;
  };
  template <int N>
  __device__ __forceinline__ In<N> load(Index i) const {
    const Index r = i / s.width;
    const Index entry = (sequences[r] * s.capacity + positions[r]) * s.width + i % s.width;
    return {load_numbers<N>(from + (stores ? i : entry)), stores ? entry : i};
  }
  template <int N>
  __device__ __forceinline__ void store(Index, const In<N>& in) const {
    store_numbers<N>(to + in.at, in.x);
  }
};

template <bool stores, typename T>
void move_states(const Cuda& device, const char* name, StateShape s, const std::int32_t* sequences,
                 const std::int32_t* positions, const T* from, T* to) {
  map(device, name, s.rows * s.width, can_be_wide<T>(s.width, s.width, from, to),
      StateRows<T, stores>{s, sequences, positions, from, to});
}

}  // namespace cuda

/// Row r's state into entry positions[r] of sequence sequences[r].
///   x: [rows, width] dense   cache: [sequences, capacity, width]
template <typename T>
void store_rows(const Cuda& device, StateShape s, const std::int32_t* sequences,
                const std::int32_t* positions, const T* x, T* cache) {
  cuda::move_states<true>(device, "store_rows", s, sequences, positions, x, cache);
}

/// The entries of rows, one below the other.   y: [rows, width] dense   cache: [sequences, capacity, width]
template <typename T>
void gather_rows(const Cuda& device, StateShape s, const std::int32_t* sequences,
                 const std::int32_t* positions, const T* cache, T* y) {
  cuda::move_states<false>(device, "gather_rows", s, sequences, positions, cache, y);
}

}  // namespace mtpx
