#pragma once

#include <mtpx/core/reference.hpp>
#include <mtpx/core/rng.hpp>

#include "../normals.hpp"

#include <cmath>

namespace mtpx {

/// deviation times the standard normal numbers of ../normals.hpp: what a seed means is the same everywhere.
template <typename T>
void draw_normals(const Reference&, Index count, std::uint64_t seed, std::uint64_t stream, double deviation,
                  T* y) {
  for (Index i = 0; i < count; i += 4) {
    const auto block = Philox::block(seed, stream, static_cast<std::uint64_t>(i / 4));
    const std::uint32_t words[4] = {block[0], block[1], block[2], block[3]};
    float n[4];
    exact::normals(
        words, [](float x) { return std::sqrt(x); }, n);
    for (Index j = 0; j < std::min<Index>(4, count - i); ++j)
      y[i + j] = static_cast<T>(deviation) * static_cast<T>(n[j]);
  }
}

}  // namespace mtpx
