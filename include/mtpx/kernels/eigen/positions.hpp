#pragma once

#include <mtpx/core/reference.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cstdint>

namespace mtpx {

/// position[b][t] = start + t
inline void fill_positions(const Reference&, Index batch, Index time, Index start, std::int32_t* positions) {
  for (Index i = 0; i < batch * time; ++i) positions[i] = static_cast<std::int32_t>(start + i % time);
}

/// How far back token t looks: to the start of its document or of the window.
///   positions: [B, T], of each token in its document
inline void window_positions(const Reference&, Rows rows, const std::int32_t* positions,
                             std::int32_t* window) {
  for (Index b = 0; b < rows.count; ++b) {
    for (Index t = 0; t < rows.width; ++t)
      window[b * rows.width + t] = std::min(positions[b * rows.stride + t], static_cast<std::int32_t>(t));
  }
}

/// What depth k predicts at place i (Eq. 24, from 0): token i + k + 1, or -1 where that is no longer the
/// document of token i, or is not to be learnt.   tokens, positions, counts: [B, T + 1]   labels: [B, T - k]
inline void shift_labels(const Reference&, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* positions, const std::int32_t* counts, std::int32_t* labels) {
  const Index ahead = depth + 1;
  for (Index b = 0; b < rows.count; ++b) {
    for (Index i = 0; i + ahead < rows.width; ++i) {
      const Index at = b * rows.stride + i;
      const bool same = positions == nullptr || positions[at + ahead] == positions[at] + ahead;
      const bool counted = counts == nullptr || counts[at + ahead] != 0;
      *labels++ = same && counted ? tokens[at + ahead] : -1;
    }
  }
}

}  // namespace mtpx
