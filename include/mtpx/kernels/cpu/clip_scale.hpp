#pragma once

#include "core/simd.hpp"

#include "../shapes.hpp"

#include <mtpx/core/cpu.hpp>

#include <cmath>
#include <limits>
#include <span>

namespace mtpx {

namespace cpu {

/// x[0] + x[1] + ... as one block of squares_threads adds them.
inline double sum_in_block(Index count, const double* x) {
  double sums[squares_threads] = {};
  for (Index i = 0; i < count; ++i) sums[i % squares_threads] += x[i];
  return sum_of_block<squares_threads>(sums);
}

}  // namespace cpu

/// out[i] = the sum of the chunks of range i, which one block of squares_threads adds up.
inline void sums_of_chunks(const Cpu&, std::span<const ChunkRange> ranges, const double* chunks,
                           double* out) {
  for (const ChunkRange range : ranges) *out++ = cpu::sum_in_block(range.count, chunks + range.first);
}

/// norm = sqrt(sum of the parts), scale = min(1, max_norm / norm); max_norm <= 0: scale 1. Where the norm is
/// not finite, scale is NaN: nothing may change then. `halted`, unless null, remembers that: once it is not
/// 0, scale stays NaN, so that steps queued behind a bad one change nothing either.
inline void clip_scale(const Cpu&, Index parts, const double* squares, double max_norm, double* norm,
                       double* scale, double* halted) {
  *norm = std::sqrt(cpu::sum_in_block(parts, squares));
  const bool bad = !std::isfinite(*norm);
  if (bad && halted != nullptr) *halted = 1;
  const bool stop = bad || (halted != nullptr && *halted != 0);
  *scale = stop                               ? std::numeric_limits<double>::quiet_NaN()
           : max_norm > 0 && *norm > max_norm ? max_norm / *norm
                                              : 1.0;
}

}  // namespace mtpx
