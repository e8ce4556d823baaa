#pragma once
// The most likely tokens of a decoding pass, or those that win races, without its logits.

#include "../products/few_rows.cuh"
#include "../sample.cuh"

namespace mtpx {

namespace cuda {

/// The best of the outputs of a block of stream_product(), which are not stored: those of a whole warp's
/// tiles, a row a thread.   Score: float, of the most likely, or double, of a race as `draws` say
/// tokens: [out], ids of the outputs, ascending; null: their places   best: [rows, blocks]   at: the same,
/// 2 id + (whether its logit is not finite), which is ordered as ids are
template <int tiles, typename Score>
__global__ void __launch_bounds__(stream_threads)
    stream_argmax(int rows, int in, Index stride, const bf16* x, Index out, const bf16* w, const Draw* draws,
                  const std::int32_t* tokens, Score* best, std::int32_t* at) {
  __shared__ float sums_of[stream_warps][stream_rows(tiles) * stream_outputs];
  constexpr int columns = stream_outputs * stream_warps;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const Index first = blockIdx.x * static_cast<Index>(columns);
  const Index output = first + warp * stream_outputs + lane / 4;
  const bf16* const row = w + (output < out ? output : out - 1) * in;  // [in]
  StreamSums<tiles> sums;
  const StreamPart part(in, 1, 0);
  StreamLoads<stream_batch_of(true)> loads;
  loads.load(row, part.first, part.end);
  const auto token_of = [&](int c) {  // of output first + c
    return tokens == nullptr ? static_cast<std::int32_t>(first) + c : tokens[first + c];
  };
  let_next_start();
  wait_for_previous();
  stream_row(row, part, loads, StreamRows<tiles>(x, stride, rows), sums);
  sums.store(sums_of[warp]);
  __syncthreads();
#pragma unroll 1
  for (int r = warp; r < rows; r += stream_warps) {
    Score most = std::numeric_limits<Score>::quiet_NaN();  // which every number beats
    std::int32_t place = columns;
#pragma unroll
    for (int c = lane; c < columns; c += 32) {
      if (first + c >= out) continue;
      Score value = sums_of[c / stream_outputs][r * stream_outputs + c % stream_outputs];
      if constexpr (std::is_same_v<Score, double>)
        value = race_score(value, draws[r].sampling, draws[r].noise, token_of(c));
      if (beats(value, c, most, place)) {
        most = value;
        place = c;
      }
    }
    best_of_warp(most, place);
    if (lane == 0) {
      const Index to = r * static_cast<Index>(gridDim.x) + blockIdx.x;
      const float logit = sums_of[place / stream_outputs][r * stream_outputs + place % stream_outputs];
      best[to] = most;
      at[to] = 2 * token_of(place) + (token_or_not(0, logit) < 0 ? 1 : 0);
    }
  }
}

/// ids[r]: the best of `count` candidates of row r, in ascending order of their places, as token_or_not()
/// gives it. A block a row.
template <typename Score>
__global__ void __launch_bounds__(stream_threads)
    best_candidate(int count, const Score* best, const std::int32_t* at, std::int32_t* ids) {
  __shared__ Score values[stream_warps];
  __shared__ std::int32_t places[stream_warps];
  let_next_start();
  wait_for_previous();
  const Index row = blockIdx.x * static_cast<Index>(count);
  Score most = best[row];
  std::int32_t place = at[row];
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < count; i += stream_threads) {
    const Score value = best[row + i];
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
  if (threadIdx.x == 0) ids[blockIdx.x] = place % 2 == 0 ? place / 2 : ~(place / 2);
}

}  // namespace cuda

/// argmax_rows() of x w^T or, with draws, race_rows() of it where no row has a top-k or a top-p, for at most
/// fused_rows rows, in two launches that leave no logits behind. The same bits as linear_forward(); where w
/// is of some tokens alone, as if spread_logits() stood between. x: [rows, in], in a multiple of 8   w: [out,
/// in]   tokens: [out], ascending, or null: all draws: [rows], or null   ids: [rows]
template <typename T>
void decode_tokens(const Cuda& device, Rows rows, const T* x, Index out, const T* w,
                   const std::int32_t* tokens, const Draw* draws, std::int32_t* ids) {
  static_assert(std::is_same_v<T, bf16>);
  using namespace cuda;
  const Index blocks = ceil_div(out, stream_outputs * stream_warps);
  const auto run = [&](auto score) {
    using Score = decltype(score);
    const Workspace<Score> best(device, rows.count * blocks);
    const Workspace<std::int32_t> at(device, rows.count * blocks);
    with_fused_tiles(rows.count, [&](auto tiles) {
      launch_early(device, "decode_tokens", stream_argmax<tiles(), Score>,
                   dim3(static_cast<unsigned>(blocks)), dim3(stream_threads), 0, static_cast<int>(rows.count),
                   static_cast<int>(rows.width), rows.stride, x, out, w, draws, tokens, best.data(),
                   at.data());
    });
    launch_early(device, "decode_tokens", best_candidate<Score>, dim3(static_cast<unsigned>(rows.count)),
                 dim3(stream_threads), 0, static_cast<int>(blocks), static_cast<const Score*>(best.data()),
                 static_cast<const std::int32_t*>(at.data()), ids);
  };
  if (draws != nullptr) {
    run(double());
  } else {
    run(float());
  }
}

}  // namespace mtpx
