#pragma once
// Tokens from logits, on the device: twins of cpu/decode_sample.hpp.

#include "../products/few_rows.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int argmax_threads = 1024;

/// Whether number b at place j beats number a at place i: NaN never does, the lowest place does among equals.
template <typename A>
__device__ __forceinline__ bool beats(A b, std::int32_t j, A a, std::int32_t i) {
  if (b > a || (a != a && b == b)) return true;
  const bool equal = a == b || (a != a && b != b);
  return equal && j < i;
}

/// The best of a warp's candidates, in every lane.
template <typename A>
__device__ __forceinline__ void best_of_warp(A& best, std::int32_t& at) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const A value = __shfl_xor_sync(whole_warp, best, offset);
    const std::int32_t place = __shfl_xor_sync(whole_warp, at, offset);
    if (beats(value, place, best, at)) {
      best = value;
      at = place;
    }
  }
}

/// A block a row.
template <typename A, int N>
__global__ void __launch_bounds__(argmax_threads)
    argmax_block(std::int32_t width, Index stride, const A* logits, std::int32_t* ids) {
  __shared__ A values[argmax_threads / 32];
  __shared__ std::int32_t places[argmax_threads / 32];
  const A* const row = logits + blockIdx.x * stride;  // [width]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  A best = row[0];
  std::int32_t at = 0;
#pragma unroll 4
  for (std::int32_t c = thread * N; c < width; c += argmax_threads * N) {
    const Pack<A, N> x = *reinterpret_cast<const Pack<A, N>*>(row + c);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (beats(x.value[i], c + i, best, at)) {
        best = x.value[i];
        at = c + i;
      }
    }
  }
  best_of_warp(best, at);
  if (lane == 0) {
    values[thread / 32] = best;
    places[thread / 32] = at;
  }
  __syncthreads();
  if (thread >= 32) return;
  best = values[lane];
  at = places[lane];
  best_of_warp(best, at);
  if (lane == 0) ids[blockIdx.x] = at;
}

/// The best of the outputs of a block of stream_product(), which are not stored: those of a whole warp's
/// tiles, a row a thread.   best, at: [rows, blocks]
template <int tiles>
__global__ void __launch_bounds__(stream_threads)
    stream_argmax(int rows, int in, Index stride, const bf16* x, Index out, const bf16* w, float* best,
                  std::int32_t* at) {
  __shared__ float sums_of[stream_warps][stream_rows(tiles) * stream_outputs];
  constexpr int columns = stream_outputs * stream_warps;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const Index first = blockIdx.x * static_cast<Index>(columns);
  const Index output = first + warp * stream_outputs + lane / 4;
  const bf16* const row = w + (output < out ? output : out - 1) * in;  // [in]
  StreamSums<tiles> sums;
  const StreamPart part(in, 1, 0);
  StreamLoads loads;
  loads.load(row, part.first, part.end);
  let_next_start();
  wait_for_previous();
  stream_row(row, part, loads, StreamRows<tiles>(x, stride, rows), sums);
  sums.store(sums_of[warp]);
  __syncthreads();
#pragma unroll 1
  for (int r = warp; r < rows; r += stream_warps) {
    float most = sums_of[0][r * stream_outputs];
    std::int32_t place = 0;
#pragma unroll
    for (int c = lane; c < columns; c += 32) {
      const float value = sums_of[c / stream_outputs][r * stream_outputs + c % stream_outputs];
      if (first + c < out && beats(value, c, most, place)) {
        most = value;
        place = c;
      }
    }
    best_of_warp(most, place);
    if (lane == 0) {
      best[r * static_cast<Index>(gridDim.x) + blockIdx.x] = most;
      at[r * static_cast<Index>(gridDim.x) + blockIdx.x] = static_cast<std::int32_t>(first) + place;
    }
  }
}

/// ids[r]: the best of `count` candidates of row r, in ascending order of their places. A block a row.
static __global__ void __launch_bounds__(stream_threads)
    best_candidate(int count, const float* best, const std::int32_t* at, std::int32_t* ids) {
  __shared__ float values[stream_warps];
  __shared__ std::int32_t places[stream_warps];
  let_next_start();
  wait_for_previous();
  const Index row = blockIdx.x * static_cast<Index>(count);
  float most = best[row];
  std::int32_t place = at[row];
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < count; i += stream_threads) {
    const float value = best[row + i];
    const std::int32_t where = at[row + i];
    if (beats(value, where, most, place)) {
      most = value;
      place = where;
    }
  }
  best_of_warp(most, place);
  if (threadIdx.x % 32 == 0) {
    values[threadIdx.x / 32] = most;
    places[threadIdx.x / 32] = place;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  most = values[threadIdx.x % stream_warps];
  place = places[threadIdx.x % stream_warps];
  best_of_warp(most, place);
  if (threadIdx.x == 0) ids[blockIdx.x] = place;
}

}  // namespace cuda

/// ids[r] = the place of the largest of logits [rows, width], the lowest among equals. NaN never wins.
template <typename A>
void argmax_rows(const Cuda& device, Rows rows, const A* logits, std::int32_t* ids) {
  const auto run = [&](auto n) {
    cuda::launch(device, "argmax", cuda::argmax_block<A, n()>, dim3(static_cast<unsigned>(rows.count)),
                 dim3(cuda::argmax_threads), 0, static_cast<std::int32_t>(rows.width), rows.stride, logits,
                 ids);
  };
  if (cuda::can_be_wide<A>(rows.width, rows.stride, logits)) {
    run(std::integral_constant<int, cuda::wide<A>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

/// argmax_rows() of x w^T for at most fused_rows rows, in two launches that leave no logits behind. The same
/// bits as linear_forward().   x: [rows, in], in a multiple of 8   w: [out, in]   ids: [rows]
template <typename T>
void decode_tokens(const Cuda& device, Rows rows, const T* x, Index out, const T* w, std::int32_t* ids) {
  static_assert(std::is_same_v<T, bf16>);
  using namespace cuda;
  const Index blocks = ceil_div(out, stream_outputs * stream_warps);
  const Workspace<float> best(device, rows.count * blocks);
  const Workspace<std::int32_t> at(device, rows.count * blocks);
  const auto run = [&](auto tiles) {
    launch_early(device, "decode_tokens", stream_argmax<tiles()>, dim3(static_cast<unsigned>(blocks)),
                 dim3(stream_threads), 0, static_cast<int>(rows.count), static_cast<int>(rows.width),
                 rows.stride, x, out, w, best.data(), at.data());
  };
  if (rows.count <= 8) {
    run(std::integral_constant<int, 0>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
  launch_early(device, "decode_tokens", best_candidate, dim3(static_cast<unsigned>(rows.count)),
               dim3(stream_threads), 0, static_cast<int>(blocks), static_cast<const float*>(best.data()),
               static_cast<const std::int32_t*>(at.data()), ids);
}

}  // namespace mtpx
