#pragma once
// Twin of cpu/clip_scale.hpp.

#include "core/chunks.cuh"

namespace mtpx {

namespace cuda {

/// One block.
template <int threads>
__global__ void __launch_bounds__(threads) clip_by_norm(Index parts, const double* squares, double max_norm,
                                                        double* norm, double* scale, double* halted) {
  __shared__ double shared[threads / 32];
  double total = 0;
  for (Index i = threadIdx.x; i < parts; i += threads) total += squares[i];
  total = sqrt(block_sum<threads>(total, shared));
  if (threadIdx.x != 0) return;
  *norm = total;
  const bool bad = !isfinite(total);
  if (bad && halted != nullptr) *halted = 1;
  const bool stop = bad || (halted != nullptr && *halted != 0);
  *scale = stop ? nan("") : max_norm > 0 && total > max_norm ? max_norm / total : 1.0;
}

}  // namespace cuda

/// out[i] = the sum of the chunks of range i, which one block of squares_threads adds up.
inline void sums_of_chunks(const Cuda& device, std::span<const ChunkRange> ranges, const double* chunks,
                           double* out) {
  cuda::sum_ranges(device, ranges, chunks, out);
}

/// norm = sqrt(sum of the parts), scale = min(1, max_norm / norm); max_norm <= 0: scale 1. Where the norm is
/// not finite, scale is NaN: nothing may change then. `halted`, unless null, remembers that: once it is not
/// 0, scale stays NaN.
inline void clip_scale(const Cuda& device, Index parts, const double* squares, double max_norm, double* norm,
                       double* scale, double* halted) {
  cuda::launch(device, "clip_scale", cuda::clip_by_norm<squares_threads>, 1, squares_threads, 0, parts,
               squares, max_norm, norm, scale, halted);
}

}  // namespace mtpx
