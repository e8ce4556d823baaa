#pragma once
// Rows normed in shared memory, by every block that multiplies them.

#include "few_rows.cuh"

namespace mtpx::cuda {

/// Normed rows for a block: the gain is copied before the kernel before this one is done, the rows after.
struct NormedRows {
  float* gain;  // [width]
  bf16* rows;   // [rows][width + row_pad]
  int ld;

  __device__ __forceinline__ NormedRows(void* memory, int width)
      : gain(static_cast<float*>(memory)), rows(reinterpret_cast<bf16*>(gain + width)), ld(width + row_pad) {}

  __device__ __forceinline__ void take_gain(int width, const float* from) const {
#pragma unroll 1
    for (int c = static_cast<int>(threadIdx.x) * 4; c < width; c += stream_threads * 4)
      *reinterpret_cast<float4*>(gain + c) = *reinterpret_cast<const float4*>(from + c);
    __syncthreads();
  }
  /// A row's numbers are summed in groups of 128, a warp's worth of fours, and these in their order: by as
  /// many warps where rows are few, else by one. The same bits either way.
  __device__ __forceinline__ void take_rows(int count, int width, const bf16* x, Index stride,
                                            float eps) const {
    constexpr int few = 2;  // rows that all warps share, on their way together
    __shared__ float squares_of[few][stream_warps];
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, own = 4 * thread;
    if (count <= few) {
      P pack[few];
#pragma unroll
      for (int r = 0; r < few; ++r) pack[r] = take(x + r * stride, own, r < count ? width : 0);
#pragma unroll
      for (int r = 0; r < few; ++r) {
        float squares = square(pack[r]);
#pragma unroll 1
        for (int c = own + 4 * stream_threads; r < count && c < width; c += 4 * stream_threads)
          squares += square(take(x + r * stride, c, width));
        squares = warp_sum(squares);
        if (thread % 32 == 0) squares_of[r][warp] = squares;
      }
      __syncthreads();
#pragma unroll
      for (int r = 0; r < few; ++r) {
        if (r == count) break;
        float total = 0;
#pragma unroll
        for (int w = 0; w < stream_warps; ++w) total += squares_of[r][w];
        const float rstd = rstd_of(total, width, eps);
        if (own < width) write(pack[r], rstd, r, own);
#pragma unroll 1
        for (int c = own + 4 * stream_threads; c < width; c += 4 * stream_threads)
          write(take(x + r * stride, c, width), rstd, r, c);
      }
      __syncthreads();
      return;
    }
#pragma unroll 1
    for (int r = warp; r < count; r += stream_warps) {
      float total = 0;
      P pack[stream_warps];
      const int lane = thread % 32 * 4;
#pragma unroll
      for (int w = 0; w < stream_warps; ++w) pack[w] = take(x + r * stride, 128 * w + lane, width);
#pragma unroll
      for (int w = 0; w < stream_warps; ++w) {
        float squares = square(pack[w]);
#pragma unroll 1
        for (int c = 128 * w + lane + 4 * stream_threads; c < width; c += 4 * stream_threads)
          squares += square(take(x + r * stride, c, width));
        total += warp_sum(squares);
      }
      const float rstd = rstd_of(total, width, eps);
#pragma unroll 1
      for (int c = lane; c < width; c += 128) write(take(x + r * stride, c, width), rstd, r, c);
    }
    __syncthreads();
  }
  using P = Pack<bf16, 4>;
  static __device__ __forceinline__ P take(const bf16* row, int c, int width) {
    return c < width ? *reinterpret_cast<const P*>(row + c) : P{};
  }
  __device__ __forceinline__ void write(const P& from, float rstd, int r, int c) const {
    const float4 g = *reinterpret_cast<const float4*>(gain + c);
    P out;
    out.value[0] = narrow<bf16>(widen(from.value[0]) * rstd * g.x);
    out.value[1] = narrow<bf16>(widen(from.value[1]) * rstd * g.y);
    out.value[2] = narrow<bf16>(widen(from.value[2]) * rstd * g.z);
    out.value[3] = narrow<bf16>(widen(from.value[3]) * rstd * g.w);
    *reinterpret_cast<P*>(rows + r * ld + c) = out;
  }
  static __device__ __forceinline__ float square(const P& p) {
    const float a = widen(p.value[0]), b = widen(p.value[1]), c = widen(p.value[2]), d = widen(p.value[3]);
    return fmaf(a, a, b * b) + fmaf(c, c, d * d);
  }
  static std::size_t bytes(Index count, Index width) {
    return static_cast<std::size_t>(width) * sizeof(float) +
           static_cast<std::size_t>(count * (width + row_pad)) * sizeof(bf16);
  }
};

}  // namespace mtpx::cuda
