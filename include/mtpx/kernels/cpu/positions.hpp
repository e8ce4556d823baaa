#pragma once
// Whole numbers that tell where a token stands and what it is to predict.

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cstdint>

namespace mtpx {

/// position[b][t] = start + t
inline void fill_positions(const Cpu&, Index batch, Index time, Index start, std::int32_t* positions) {
  for (Index i = 0; i < batch * time; ++i) positions[i] = static_cast<std::int32_t>(start + i % time);
}

/// Distance of each token from the start of what it may attend to: its document or the window, whichever
/// begins later.   positions: [B, T] strided, of each token in its document   window: [B, T]
inline void window_positions(const Cpu&, Rows rows, const std::int32_t* positions, std::int32_t* window) {
  for (Index b = 0; b < rows.count; ++b) {
    for (Index t = 0; t < rows.width; ++t) {
      window[b * rows.width + t] = std::min(positions[b * rows.stride + t], static_cast<std::int32_t>(t));
    }
  }
}

/// Labels of depth k: label[b][i] = token[b][i + k + 1], or -1 where that token belongs to another document
/// than token i: there position[i + k + 1] != position[i] + k + 1. Or where counts[i + k + 1] is 0.
/// tokens, positions, counts: [B, T + 1] rows with the same stride; null: one document; all count
/// labels: [B, T - k]
inline void shift_labels(const Cpu&, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* positions, const std::int32_t* counts, std::int32_t* labels) {
  const Index ahead = depth + 1;
  const Index count = rows.width - ahead;
  for (Index b = 0; b < rows.count; ++b) {
    for (Index i = 0; i < count; ++i) {
      const Index at = b * rows.stride + i;
      const bool same = positions == nullptr || positions[at + ahead] == positions[at] + ahead;
      const bool counted = counts == nullptr || counts[at + ahead] != 0;
      labels[b * count + i] = same && counted ? tokens[at + ahead] : -1;
    }
  }
}

}  // namespace mtpx
