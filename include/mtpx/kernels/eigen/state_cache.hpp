#pragma once

#include "views.hpp"

#include "../shapes.hpp"

namespace mtpx {

/// Row r of x becomes the entry of its sequence and position.   x: [N, width]   cache: [sequences, capacity,
/// width]
template <typename T>
void store_rows(const Reference&, StateShape s, const std::int32_t* sequences, const std::int32_t* positions,
                const T* x, T* cache) {
  for (Index r = 0; r < s.rows; ++r)
    std::copy_n(x + r * s.width, s.width, cache + (sequences[r] * s.capacity + positions[r]) * s.width);
}

/// The other way round.   y: [N, width]
template <typename T>
void gather_rows(const Reference&, StateShape s, const std::int32_t* sequences, const std::int32_t* positions,
                 const T* cache, T* y) {
  for (Index r = 0; r < s.rows; ++r)
    std::copy_n(cache + (sequences[r] * s.capacity + positions[r]) * s.width, s.width, y + r * s.width);
}

}  // namespace mtpx
