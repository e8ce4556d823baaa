#pragma once
// Twin of cpu/normals.hpp: a thread draws a Philox block of four numbers.

#include <mtpx/core/rng.hpp>

#include "../normals.hpp"
#include "elementwise.cuh"

namespace mtpx {

namespace cuda {

template <typename T>
struct DrawNormals {
  static constexpr int packed = 4;  // a block
  std::uint64_t seed, stream;
  acc_t<T> deviation;
  T* y;

  struct Nothing {};
  template <int N>
  __device__ __forceinline__ Nothing load(Index) const {
    return {};
  }
  template <int N>
  __device__ __forceinline__ void store(Index i, Nothing) const {
    const auto block = Philox::block(seed, stream, static_cast<std::uint64_t>(i / 4));
    const std::uint32_t words[4] = {block[0], block[1], block[2], block[3]};
    float n[4];
    exact::normals<float>(
        words, [](float x) { return sqrtf(x); }, n);
    Numbers<T, N> scaled;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (N == 4 || j == i % 4) {
        scaled.value[N == 4 ? j : 0] = narrow<T>(exact::product(deviation, static_cast<acc_t<T>>(n[j])));
      }
    }
    store_numbers<N>(y + i, scaled);
  }
};

}  // namespace cuda

/// y_i = deviation n_i: the standard normal floats of exact::normals(), n_i being the one of word i % 4 of
/// Philox block i / 4. Multiplied in the accumulation type, rounded to T.
template <typename T>
void draw_normals(const Cuda& device, Index count, std::uint64_t seed, std::uint64_t stream, double deviation,
                  T* y) {
  cuda::map(device, "draw_normals", count, cuda::can_be_wide<T>(0, 0, y),
            cuda::DrawNormals<T>{seed, stream, static_cast<acc_t<T>>(deviation), y});
}

}  // namespace mtpx
