#pragma once
// Cross-entropy on Hopper: the logits' product with two endings. Forward, a tile of logits becomes a maximum,
// a sum and an argmax per row, merged afterwards; backward, it becomes a tile of dlogits. Both see the same
// numbers, the float sums of the product. x and W must suit the copy engine; any number of rows and words.

#include "../products/gemm.cuh"
#include "gemm.cuh"

namespace mtpx::cuda::sm90 {

/// What both jobs do: x [rows, width] W [vocab, width]^T.
struct LogitsJob {
  static constexpr int a_transposed = 0, b_transposed = 0;
  static constexpr bool ragged_k = false;
  static constexpr int together = 16;  // row tiles that walk the vocabulary side by side: W is read from L2
  static constexpr float log2_e = 1.44269504088896340736F;
  static constexpr float infinity = __builtin_huge_valf();
  struct Tile {
    int m, n;
    std::int32_t label[2];  // of rows group_row() + 8 i, or of the last row; read long before they are used
  };

  CUtensorMap x, w;
  int rows, vocab, width, tiles_m, tiles_n;
  const std::int32_t* labels;  // [rows]

  __device__ void prepare(int*) const {}
  __device__ __forceinline__ bool find(int id, const int*, Tile& tile) const {
    if (id >= tiles_m * tiles_n) return false;
    const int group = id / (together * tiles_n) * together, rest = id % (together * tiles_n);
    const int size = min(together, tiles_m - group);
    tile.m = (group + rest % size) * tile_m;
    tile.n = rest / size * tile_n;
#pragma unroll
    for (int i = 0; i < 2; ++i) tile.label[i] = labels[row_of(tile, i)];
    return true;
  }
  __device__ __forceinline__ int steps(const Tile&) const { return (width + step_k - 1) / step_k; }
  __device__ __forceinline__ void load(const Tile& tile, int step, unsigned char* a, unsigned char* b,
                                       Barrier& full) const {
    load_box(a, x, full, tile.m, step * step_k);
    load_box(b, w, full, tile.n, step * step_k);
  }

  /// Row group_row() + 8 i of the tile, or the last one.
  __device__ __forceinline__ int row_of(const Tile& tile, int i) const {
    return min(tile.m + group_row() + 8 * i, rows - 1);
  }
  /// Its label as a column of the tile; negative if it is not one of the words there.
  __device__ __forceinline__ int label_column(const Tile& tile, int i) const {
    const std::int32_t label = tile.label[i];
    return label >= tile.n && label < min(vocab, tile.n + tile_n) ? label - tile.n : -1;
  }
  /// 2^x, to 2 units in the last place; small results become 0.
  static __device__ __forceinline__ float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  /// Calls act(sum, column in the tile) for this thread's sums of rows group_row() + 8 i.
  template <typename Act>
  static __device__ __forceinline__ void each(float (&sums)[tile_n / 2], int i, const Act& act) {
#pragma unroll
    for (int j = 0; j < tile_n / 8; ++j) {
#pragma unroll
      for (int k = 0; k < 2; ++k) act(sums[4 * j + 2 * i + k], 8 * j + group_column() + k);
    }
  }
};

/// Of each row's part of a tile: the maximum, the sum of exp(logit - maximum), the lowest column of the
/// maximum, and -logit of the label if it is there.
struct LossJob : LogitsJob {
  static constexpr int parts = 0;
  float* top;             // [tiles_n, rows]
  float* sum;             // [tiles_n, rows]
  std::int32_t* highest;  // [tiles_n, rows]
  float* row_loss;        // [rows]

  __device__ __forceinline__ void finish(const Tile& tile, float (&sums)[tile_n / 2], Packed&) const {
    if (tile.n + tile_n > vocab) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        each(sums, i, [&](float& z, int column) {
          if (tile.n + column >= vocab) z = -infinity;
        });
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = tile.m + group_row() + 8 * i;
      const int label = row < rows ? label_column(tile, i) : -1;
      if (__any_sync(whole_warp, label >= 0)) {
        each(sums, i, [&](float& z, int column) {
          if (column == label) row_loss[row] = -z;
        });
      }
      float most[2] = {-infinity, -infinity};  // fmaxf: a NaN never wins
#pragma unroll
      for (int j = 0; j < tile_n / 8; ++j) {
        most[0] = fmaxf(most[0], sums[4 * j + 2 * i]);
        most[1] = fmaxf(most[1], sums[4 * j + 2 * i + 1]);
      }
      float maximum = fmaxf(most[0], most[1]);
      maximum = fmaxf(maximum, __shfl_xor_sync(whole_warp, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(whole_warp, maximum, 2));
      const float shift = maximum == -infinity ? 0.0F : maximum * log2_e;
      constexpr int none = 0x7fffffff;
      int at = none;
      float part[4] = {};
#pragma unroll
      for (int j = tile_n / 8 - 1; j >= 0; --j) {
#pragma unroll
        for (int k = 1; k >= 0; --k) {
          const float z = sums[4 * j + 2 * i + k];
          if (z == maximum) at = 8 * j + k;
          part[j % 2 * 2 + k] += power(fmaf(z, log2_e, -shift));
        }
      }
      float total = (part[0] + part[1]) + (part[2] + part[3]);
      total += __shfl_xor_sync(whole_warp, total, 1);
      total += __shfl_xor_sync(whole_warp, total, 2);
      if (at != none) at += group_column();
      at = min(at, __shfl_xor_sync(whole_warp, at, 1));
      at = min(at, __shfl_xor_sync(whole_warp, at, 2));
      if (threadIdx.x % 4 == 0 && row < rows) {
        const Index to = static_cast<Index>(tile.n / tile_n) * rows + row;
        top[to] = maximum;
        sum[to] = total;
        highest[to] = at == none ? none : tile.n + at;
      }
    }
  }
};

/// dlogits = (exp(logits - lse) - onehot(label)) * factor * dloss, rounded.
struct DlogitsJob : LogitsJob {
  static constexpr int parts = 4;
  const float *lse, *factor, *dloss;  // [rows], [1], [1]
  bf16* dlogits;                      // [rows, stride]
  Index stride;

  struct Tile : LogitsJob::Tile {
    float lse[2], factor, dloss;
  };

  __device__ __forceinline__ bool find(int id, const int* table, Tile& tile) const {
    if (!LogitsJob::find(id, table, tile)) return false;
#pragma unroll
    for (int i = 0; i < 2; ++i) tile.lse[i] = lse[row_of(tile, i)];
    tile.factor = *factor;
    tile.dloss = *dloss;
    return true;
  }
  __device__ __forceinline__ void finish(const Tile& tile, float (&sums)[tile_n / 2], Packed& packed) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int label = label_column(tile, i);
      const float weight = tile.label[i] < 0 ? 0.0F : tile.factor * tile.dloss;
      const float shift = tile.lse[i] * log2_e;
      each(sums, i, [&](float& z, int) { z = weight * power(fmaf(z, log2_e, -shift)); });
      if (__any_sync(whole_warp, label >= 0)) {
        each(sums, i, [&](float& z, int column) {
          if (column == label) z -= weight;
        });
      }
    }
    pack(sums, packed);
  }
  template <int part>
  __device__ __forceinline__ void write(const Tile& tile, const Packed& packed) const {
    store_part<part>(packed, rows - tile.m, vocab - tile.n, dlogits + tile.m * stride + tile.n, stride);
  }
};

inline constexpr int merge_rows = 32;  // of a block
inline constexpr int merge_parts = 8;  // of the tiles of a row

/// Merges what the tiles of a row found, in a fixed order.   A block per 32 rows, 8 threads a row.
template <int parts>
__global__ void __launch_bounds__(merge_rows* parts)
    merge_tiles(int rows, int vocab, int tiles, const float* top, const float* sum,
                const std::int32_t* highest, const std::int32_t* labels, float* lse, float* row_loss,
                std::int32_t* argmax) {
  __shared__ float values[parts][merge_rows];
  __shared__ std::int32_t places[parts][merge_rows];
  const int x = static_cast<int>(threadIdx.x) % merge_rows, part = static_cast<int>(threadIdx.x) / merge_rows;
  const int row = static_cast<int>(blockIdx.x) * merge_rows + x;
  float best = -LogitsJob::infinity;
  std::int32_t at = 0x7fffffff;
  const auto take = [&](float value, std::int32_t place) {
    if (value > best || (value == best && place < at)) {
      best = value;
      at = place;
    }
  };
  if (row < rows) {
#pragma unroll 4
    for (int t = part; t < tiles; t += parts) {
      const Index from = static_cast<Index>(t) * rows + row;
      take(top[from], highest[from]);
    }
  }
  values[part][x] = best;
  places[part][x] = at;
  __syncthreads();
#pragma unroll
  for (int p = 0; p < parts; ++p) take(values[p][x], places[p][x]);
  __syncthreads();
  float total = 0.0F;
  if (row < rows) {
#pragma unroll 4
    for (int t = part; t < tiles; t += parts) {
      const Index from = static_cast<Index>(t) * rows + row;
      total += sum[from] * expf(top[from] - best);
    }
  }
  values[part][x] = total;
  __syncthreads();
  if (part != 0 || row >= rows) return;
#pragma unroll
  for (int p = 1; p < parts; ++p) total += values[p][x];
  const float result = best + logf(total);
  lse[row] = result;
  argmax[row] = best == -LogitsJob::infinity ? 0 : at;
  const std::int32_t label = labels[row];
  row_loss[row] = label < 0 ? 0.0F : label < vocab ? row_loss[row] + result : __int_as_float(0x7fc00000);
}

/// Rows of a chunk of which each takes `bytes`: a multiple of what LogitsJob walks together, if that fits.
inline Index rows_within(Index limit, Index bytes) {
  const Index rows = limit / bytes;
  const Index unit = rows >= LogitsJob::together * tile_m ? LogitsJob::together * tile_m : tile_m;
  return std::max(unit, rows / unit * unit);
}

inline LogitsJob logits_job(const Cuda& device, Rows rows, Index first, Index count, const bf16* x,
                            Index vocab, const bf16* w, const std::int32_t* labels) {
  return {tensor_map(device, x + first * rows.stride, count, rows.width, rows.stride, tile_m),
          tensor_map(device, w, vocab, rows.width, rows.width, tile_n),
          static_cast<int>(count),
          static_cast<int>(vocab),
          static_cast<int>(rows.width),
          static_cast<int>(ceil_div(count, tile_m)),
          static_cast<int>(ceil_div(vocab, tile_n)),
          labels + first};
}

/// Twin of linear_cross_entropy_forward for bf16; the workspace is at most 128 MiB.
template <typename T>
void cross_entropy_forward(const Cuda& device, Rows rows, const T* x, Index vocab, const T* w,
                           const std::int32_t* labels, float* lse, float* row_loss, std::int32_t* argmax) {
  const Index tiles = ceil_div(vocab, tile_n);
  const Index chunk = std::min(rows.count, rows_within(Index{128} << 20, tiles * 12));
  const Workspace<float> top(device, chunk * tiles);
  const Workspace<float> sum(device, chunk * tiles);
  const Workspace<std::int32_t> highest(device, chunk * tiles);
  for (Index first = 0; first < rows.count; first += chunk) {
    const Index count = std::min(chunk, rows.count - first);
    const LossJob job{logits_job(device, rows, first, count, x, vocab, w, labels), top.data(), sum.data(),
                      highest.data(), row_loss + first};
    run(device, "linear_cross_entropy", job, static_cast<Index>(job.tiles_m) * job.tiles_n, 0);
    launch(device, "linear_cross_entropy", merge_tiles<merge_parts>,
           dim3(static_cast<unsigned>(ceil_div(count, merge_rows))), dim3(merge_rows * merge_parts), 0,
           static_cast<int>(count), static_cast<int>(vocab), job.tiles_n, top.data(), sum.data(),
           highest.data(), labels + first, lse + first, row_loss + first, argmax + first);
  }
}

/// Twin of linear_cross_entropy_backward for bf16: dlogits of as many whole rows as fit into 512 MiB at a
/// time.
template <typename T>
void cross_entropy_backward(const Cuda& device, Rows rows, const T* x, Index vocab, const T* w,
                            const std::int32_t* labels, const float* lse, const float* factor,
                            const float* dloss, Sink<T> dx, Sink<float> dw) {
  const Index width = rows.width;
  const Index stride = ceil_div(vocab, 8) * 8;
  const Index chunk = std::min(rows.count, rows_within(Index{256} << 20, stride));
  const Workspace<bf16> buffer(device, chunk * stride);
  const bf16* const dlogits = buffer.data();
  for (Index first = 0; first < rows.count; first += chunk) {
    const Index count = std::min(chunk, rows.count - first);
    const DlogitsJob job{logits_job(device, rows, first, count, x, vocab, w, labels),
                         lse + first,
                         factor,
                         dloss,
                         buffer.data(),
                         stride};
    run(device, "linear_cross_entropy", job, static_cast<Index>(job.tiles_m) * job.tiles_n, 0);
    if (dx) {
      cuda::multiply(device, count, width, vocab, row_major(dlogits, stride), row_major(w, width),
                     dx.data + first * width, width, dx.accumulate);
    }
    if (dw) {
      cuda::multiply(device, vocab, width, count, transposed(dlogits, stride),
                     row_major(x + first * rows.stride, rows.stride), dw.data, width,
                     dw.accumulate || first > 0);
    }
  }
}

}  // namespace mtpx::cuda::sm90
