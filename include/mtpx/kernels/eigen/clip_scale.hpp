#pragma once

#include "views.hpp"

#include <algorithm>
#include <span>

namespace mtpx {

/// out[i] = the sum of the chunks of range i
inline void sums_of_chunks(const Reference&, std::span<const ChunkRange> ranges, const double* chunks,
                           double* out) {
  for (const ChunkRange range : ranges) *out++ = eigen::row(chunks + range.first, range.count).sum();
}

/// norm = sqrt(sum of the squares),   scale = min(1, max_norm / norm), or 1 where max_norm is not positive.
/// Where the norm is not finite, scale is NaN; `halted`, unless null, remembers it, and it stays NaN from
/// there on.
inline void clip_scale(const Reference&, Index parts, const double* squares, double max_norm, double* norm,
                       double* scale, double* halted) {
  *norm = std::sqrt(eigen::row(squares, parts).sum());
  double stop = std::isfinite(*norm) ? 0 : 1;
  if (halted != nullptr) stop = *halted = std::max(*halted, stop);
  *scale = max_norm > 0 ? std::min(1.0, max_norm / *norm) : 1.0;
  if (stop != 0) *scale = std::numeric_limits<double>::quiet_NaN();
}

}  // namespace mtpx
