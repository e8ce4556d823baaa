#pragma once
// Sums of chunks, from which norms are made.

#include "launch.cuh"

#include "../../shapes.hpp"

#include <span>

namespace mtpx::cuda {

/// What one launch can be told: 4 KB.
struct ChunkList {
  static constexpr int max = 448;
  std::int32_t first[max], count[max];
};

/// out[range] = sum of its chunks. A block per range.
template <int threads>
__global__ void __launch_bounds__(threads)
    sum_of_range(const __grid_constant__ ChunkList list, const double* chunks, double* out) {
  __shared__ double shared[threads / 32];
  chunks += list.first[blockIdx.x];
  const int count = list.count[blockIdx.x];
  double sum = 0;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) sum += chunks[i];
  sum = block_sum<threads>(sum, shared);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

/// out[i] = the sum of the chunks of range i. A template, so that the object that calls it holds the kernel.
template <int threads = squares_threads>
void sum_ranges(const Cuda& device, std::span<const ChunkRange> ranges, const double* chunks, double* out) {
  using List = ChunkList;
  for (std::size_t begin = 0; begin < ranges.size(); begin += List::max) {
    List list{};
    const std::size_t own = std::min(ranges.size() - begin, std::size_t{List::max});
    for (std::size_t i = 0; i < own; ++i) {
      list.first[i] = static_cast<std::int32_t>(ranges[begin + i].first);
      list.count[i] = static_cast<std::int32_t>(ranges[begin + i].count);
    }
    launch(device, "sums_of_chunks", sum_of_range<threads>, static_cast<unsigned>(own), threads, 0, list,
           chunks, out + begin);
  }
}

}  // namespace mtpx::cuda
