#pragma once
// What the launches that make queries and cache entries share.

#include "products.cuh"

namespace mtpx::cuda {

/// Where a row's cache entry is made from and where it goes.
struct NewEntries {
  const bf16* kv = nullptr;  // [rows, latent + rope]: the product, neither normed nor rotated
  const float* gain = nullptr;
  float eps = 0;
  const float *cos = nullptr, *sin = nullptr;
  const std::int32_t *sequences = nullptr, *positions = nullptr, *places = nullptr;
  bf16* cache = nullptr;
  int latent = 0, rope = 0;
  Index capacity = 0;
};

/// The cache entry of a row, by one block, once its product is there.
__device__ __forceinline__ void make_entry(const NewEntries& to, Index row) {
  const int width = to.latent + to.rope;
  const bf16* const kv = to.kv + row * width;  // [latent | rope]
  const int position = to.positions[row];
  bf16* const entry =
      to.cache + (to.sequences[row] * to.capacity + to.places[row]) * width;  // [latent | rope]
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const auto table = [&](const float* of, int j) {
    return j < to.rope / 2 ? of[position * static_cast<Index>(to.rope / 2) + j] : 0.0F;
  };
  const float early_cos = table(to.cos, lane), early_sin = table(to.sin, lane);
  let_next_start();
  wait_for_previous();
  if (warp == 0) warp_norm(to.latent, kv, to.gain, to.eps, entry);
  if (warp == 1) {
#pragma unroll 1
    for (int j = lane; j < to.rope / 2; j += 32) {
      const float c = j < 32 ? early_cos : table(to.cos, j), s = j < 32 ? early_sin : table(to.sin, j);
      const float even = widen(kv[to.latent + 2 * j]), odd = widen(kv[to.latent + 2 * j + 1]);
      const exact::Rotated<float> pair(even, odd, c, s);
      entry[to.latent + 2 * j] = narrow<bf16>(pair.even);
      entry[to.latent + 2 * j + 1] = narrow<bf16>(pair.odd);
    }
  }
}

}  // namespace mtpx::cuda
