#pragma once
// Twins of cpu/positions.hpp.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

struct PositionsFrom {
  Index time, start;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    return static_cast<std::int32_t>(start + i % time);
  }
};

struct WindowPositions {
  Index width, stride;
  const std::int32_t* positions;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    const Index b = i / width, t = i % width;
    return min(positions[b * stride + t], static_cast<std::int32_t>(t));
  }
};

struct ShiftedLabels {
  Index count, stride, ahead;
  const std::int32_t *tokens, *positions, *counts;
  __device__ __forceinline__ std::int32_t operator()(Index i) const {
    const Index at = i / count * stride + i % count;
    const bool same = positions == nullptr || positions[at + ahead] == positions[at] + ahead;
    const bool counted = counts == nullptr || counts[at + ahead] != 0;
    return same && counted ? tokens[at + ahead] : -1;
  }
};

}  // namespace cuda

/// position[b][t] = start + t
inline void fill_positions(const Cuda& device, Index batch, Index time, Index start,
                           std::int32_t* positions) {
  cuda::fill(device, "fill_positions", batch * time, positions, cuda::PositionsFrom{time, start});
}

/// window[b][t] = min(position[b][t], t).   positions: [B, T] strided   window: [B, T]
inline void window_positions(const Cuda& device, Rows rows, const std::int32_t* positions,
                             std::int32_t* window) {
  cuda::fill(device, "window_positions", rows.count * rows.width, window,
             cuda::WindowPositions{rows.width, rows.stride, positions});
}

/// label[b][i] = token[b][i + k + 1] for depth k, or -1 where position[i + k + 1] != position[i] + k + 1 or
/// counts[i + k + 1] is 0.
/// tokens, positions, counts: [B, T + 1] rows with the same stride; null: one document; all count
/// labels: [B, T - k]
inline void shift_labels(const Cuda& device, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* positions, const std::int32_t* counts, std::int32_t* labels) {
  const Index ahead = depth + 1, count = rows.width - ahead;
  if (count <= 0) return;
  cuda::fill(device, "shift_labels", rows.count * count, labels,
             cuda::ShiftedLabels{count, rows.stride, ahead, tokens, positions, counts});
}

}  // namespace mtpx
