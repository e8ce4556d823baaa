#pragma once

#include "core/parallel.hpp"

#include "../shapes.hpp"

namespace mtpx {

/// Row r's state into entry positions[r] of sequence sequences[r].
///   x: [rows, width] dense   cache: [sequences, capacity, width]
template <typename T>
void store_rows(const Cpu& cpu, StateShape s, const std::int32_t* sequences, const std::int32_t* positions,
                const T* x, T* cache) {
  cpu::parallel_chunks(cpu, s.rows, s.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      std::copy_n(x + r * s.width, s.width, cache + (sequences[r] * s.capacity + positions[r]) * s.width);
  });
}

/// The entries of rows, one below the other.   y: [rows, width] dense   cache: [sequences, capacity, width]
template <typename T>
void gather_rows(const Cpu& cpu, StateShape s, const std::int32_t* sequences, const std::int32_t* positions,
                 const T* cache, T* y) {
  cpu::parallel_chunks(cpu, s.rows, s.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      std::copy_n(cache + (sequences[r] * s.capacity + positions[r]) * s.width, s.width, y + r * s.width);
  });
}

}  // namespace mtpx
