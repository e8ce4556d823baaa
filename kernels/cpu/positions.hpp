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
/// begins later.   documents: [B, T] strided, position within the document   positions: [B, T]
inline void window_positions(const Cpu&, Rows rows, const std::int32_t* documents, std::int32_t* positions) {
  for (Index b = 0; b < rows.count; ++b) {
    for (Index t = 0; t < rows.width; ++t) {
      positions[b * rows.width + t] = std::min(documents[b * rows.stride + t], static_cast<std::int32_t>(t));
    }
  }
}

/// Labels of depth k: label[b][i] = token[b][i + k + 1], or -1 where that token belongs to another document
/// than token i: there document[i + k + 1] != document[i] + k + 1.
/// tokens, documents: [B, T + 1] rows with the same stride   labels: [B, T - k]
inline void shift_labels(const Cpu&, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* documents, std::int32_t* labels) {
  const Index ahead = depth + 1;
  const Index count = rows.width - ahead;
  for (Index b = 0; b < rows.count; ++b) {
    for (Index i = 0; i < count; ++i) {
      const Index at = b * rows.stride + i;
      const bool same = documents == nullptr || documents[at + ahead] == documents[at] + ahead;
      labels[b * count + i] = same ? tokens[at + ahead] : -1;
    }
  }
}

}  // namespace mtpx
