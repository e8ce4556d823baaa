#pragma once
// What a depth that drafts reads, from a token's embedding and a state, in one launch.

#include "products.cuh"

namespace mtpx {

namespace cuda {

/// y = w [norm(first) ; norm(second)], by blocks that norm the rows for themselves. A row's bits are its own.
template <int tiles, int split, bool deep>
__global__ void __launch_bounds__(stream_threads)
    fused_inputs(DecodeInputs<bf16> p, const bf16* first, const bf16* second, bf16* y) {
  extern __shared__ float4 memory[];
  __shared__ float sums_of[stream_warps][stream_rows(tiles) * stream_outputs];
  constexpr int columns = stream_outputs * (stream_warps / split);
  const int width = static_cast<int>(p.hidden), in = 2 * width, rows = static_cast<int>(p.rows);
  const int warp = static_cast<int>(threadIdx.x / 32), begin = static_cast<int>(blockIdx.x) * columns;
  const int output =
      min(begin + warp / split * stream_outputs + static_cast<int>(threadIdx.x % 32 / 4), width - 1);
  const bf16* const row = p.w + output * static_cast<Index>(in);
  const StreamPart part(in, split, warp % split);
  StreamLoads<stream_batch_of(deep)> loads;
  loads.load(row, part.first, part.end);
  NormedRows one(memory, width), two(memory, width);
  two.gain += width;
  one.rows = reinterpret_cast<bf16*>(two.gain + width);
  two.rows = one.rows + width;
  one.ld = two.ld = in + row_pad;
  one.take_gain(width, p.first_norm);
  two.take_gain(width, p.second_norm);
  let_next_start();
  wait_for_previous();
  one.take_rows(rows, width, first, width, p.first_eps);
  two.take_rows(rows, width, second, width, p.second_eps);
  StreamSums<tiles> sums;
  stream_row(row, part, loads, StreamRows<tiles>(one.rows, one.ld, rows), sums);
  sums.store(sums_of[warp]);
  __syncthreads();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns; i += stream_threads) {
    const int r = i / columns, c = i % columns;
    if (begin + c >= width) continue;
    float total = 0;
#pragma unroll
    for (int s = 0; s < split; ++s)
      total += sums_of[c / stream_outputs * split + s][r * stream_outputs + c % stream_outputs];
    y[r * p.hidden + begin + c] = narrow<bf16>(total);
  }
}

}  // namespace cuda

/// y = w [norm(first) ; norm(second)]. Where decode_fits().   first, second, y: [rows, hidden]
template <typename T>
void decode_inputs(const Cuda& device, const DecodeInputs<T>& p, const T* first, const T* second, T* y) {
  static_assert(std::is_same_v<T, bf16>);
  using namespace cuda;
  with_fused_tiles(p.rows, [&](auto tiles) {
    with_split(2 * p.hidden, 0, [&](auto split, auto deep) {
      const Index columns = stream_outputs * (stream_warps / split());
      const std::size_t shared = static_cast<std::size_t>(2 * p.hidden) * sizeof(float) +
                                 static_cast<std::size_t>(p.rows * (2 * p.hidden + row_pad)) * sizeof(bf16);
      launch_early(device, "decode_inputs", fused_inputs<tiles(), split(), deep()>,
                   dim3(static_cast<unsigned>(ceil_div(p.hidden, columns))), dim3(stream_threads), shared, p,
                   first, second, y);
    });
  });
}

}  // namespace mtpx
