#pragma once
// Products of few rows, as decoding makes them: a stream of W, every number of which meets all rows of x
// while it is in a register. How a sum over k is cut and in which order its parts are added depends on the
// sizes of W alone, so that a row has the same bits alone, beside others, and wherever it stands among them.
//
// bf16: mma.sync with 16 rows of x against 8 rows of W. A lane loads 16 bytes of one row of W, 8 neighbours
// in k, and the same 8 of a row of x: which k a lane's numbers are does not matter to a sum, as long as both
// operands agree. Other types: a warp an output, fused multiply-adds.

#include "../../decode_shapes.hpp"
#include "../core/launch.cuh"

namespace mtpx::cuda {

/// Most rows that have the same bits whatever stands beside them.
inline constexpr Index few_rows = alike_rows;

// --- Kernels that start early ----------------------------------------------------------------------------

/// Queues a kernel that may start while the one before it still runs: its blocks do what needs none of that
/// one's results, such as loading weights, and call wait_for_previous() before they touch anything else.
/// In clusters of `cluster` blocks.
template <typename... Parameters, typename... Arguments>
void launch_early_clusters(const Cuda& device, const char* name, void (*kernel)(Parameters...),
                           unsigned cluster, dim3 grid, dim3 block, std::size_t shared,
                           Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || device.planned()) return;
  const Cuda::Current current(device);
  allow_shared(name, reinterpret_cast<const void*>(kernel), shared);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = device.stream();
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  detail::cuda_check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}
template <typename... Parameters, typename... Arguments>
void launch_early(const Cuda& device, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                  std::size_t shared, Arguments&&... arguments) {
  if (device.properties().major >= 9) {
    launch_early_clusters(device, name, kernel, 1, grid, block, shared,
                          std::forward<Arguments>(arguments)...);
  } else {
    launch(device, name, kernel, grid, block, shared, std::forward<Arguments>(arguments)...);
  }
}

/// All threads of all blocks of a cluster: what they stored in each other's shared memory can be read.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.aligned;\n"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
#endif
}

// --- The pieces of a bf16 product ------------------------------------------------------------------------

inline constexpr int stream_warps = 8;  // of a block
inline constexpr int stream_threads = 32 * stream_warps;
inline constexpr int stream_outputs = 8;  // rows of W that a warp takes at a time
inline constexpr int stream_step = 32;    // numbers of each that a warp loads at once
inline constexpr int row_pad = 32;        // between rows in shared memory, so that they start in other banks

/// Where a lane's 8 numbers of a step begin.
__device__ __forceinline__ int stream_k(int step) {
  return step * stream_step + static_cast<int>(threadIdx.x % 4 * 8);
}

// Loads are predicated instructions and no branches: mma.sync needs all lanes of a warp at the same place.

/// 16 bytes that are read once; zeros where they are not wanted.
__device__ __forceinline__ uint4 load_once(const bf16* p, bool wanted) {
  uint4 x;
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %5, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "mov.u32 %2, 0;\n"
      "mov.u32 %3, 0;\n"
      "@wanted ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=&r"(x.x), "=&r"(x.y), "=&r"(x.z), "=&r"(x.w)
      : "l"(p), "r"(static_cast<unsigned>(wanted)));
  return x;
}
/// 16 bytes of global or shared memory; zeros where they are not wanted.
__device__ __forceinline__ uint4 load_pack(const bf16* p, bool wanted) {
  uint4 x;
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %5, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "mov.u32 %2, 0;\n"
      "mov.u32 %3, 0;\n"
      "@wanted ld.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=&r"(x.x), "=&r"(x.y), "=&r"(x.z), "=&r"(x.w)
      : "l"(p), "r"(static_cast<unsigned>(wanted))
      : "memory");
  return x;
}

__device__ __forceinline__ void mma(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                    std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// How many rows a warp holds sums of: one group of 8, or `tiles` of 16.
__host__ __device__ constexpr int stream_rows(int tiles) { return tiles == 0 ? 8 : 16 * tiles; }
__host__ __device__ constexpr int stream_groups(int tiles) { return tiles == 0 ? 1 : 2 * tiles; }

/// The rows of x that a lane reads, one of each group of 8; null: zeros.
template <int tiles>
struct StreamRows {
  const bf16* at[stream_groups(tiles)];

  /// Rows `stride` apart.
  __device__ __forceinline__ StreamRows(const bf16* x, Index stride, int rows) {
    const int row = static_cast<int>(threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < stream_groups(tiles); ++i)
      at[i] = 8 * i + row < rows ? x + (8 * i + row) * stride : nullptr;
  }
};

/// 16 bytes of each of these rows: this lane's numbers of one step.
template <int tiles>
struct StreamPacks {
  uint4 row[stream_groups(tiles)];

  /// k: where they begin; none from `end` on
  __device__ __forceinline__ void load(const StreamRows<tiles>& x, int k, int end) {
#pragma unroll
    for (int i = 0; i < stream_groups(tiles); ++i)
      row[i] = load_pack(x.at[i] + k, x.at[i] != nullptr && k < end);
  }
};

/// The steps of one warp of `split` that share the sums of a product: neighbours, so that whole lines of
/// memory are asked for at once.
struct StreamPart {
  int first;
  int end;  // of k

  __device__ __forceinline__ StreamPart(int in, int split, int part) {
    const int each = ((in + stream_step - 1) / stream_step + split - 1) / split;
    first = part * each;
    end = min(in, (part + 1) * each * stream_step);
  }
};

/// A warp's share of the products of some rows with 8 outputs. Two sums, of the first and the second four of
/// each lane's eight numbers.
template <int tiles>
struct StreamSums {
  static constexpr int pairs = tiles == 0 ? 1 : tiles;
  float sum[pairs][2][4] = {};

  __device__ __forceinline__ void add(uint4 w, const StreamPacks<tiles>& x) {
#pragma unroll
    for (int i = 0; i < pairs; ++i) {
      const uint4 a = x.row[2 * i];
      uint4 b{};
      if constexpr (tiles > 0) b = x.row[2 * i + 1];
      mma(sum[i][0], a.x, b.x, a.y, b.y, w.x, w.y);
      mma(sum[i][1], a.z, b.z, a.w, b.w, w.z, w.w);
    }
  }

  /// Those of `rows` rows into shared memory, [rows][8] of this warp.
  __device__ __forceinline__ void store(float* to, int rows = stream_rows(tiles)) const {
    const int row = static_cast<int>(threadIdx.x % 32 / 4), column = static_cast<int>(threadIdx.x % 4 * 2);
#pragma unroll
    for (int i = 0; i < stream_groups(tiles); ++i) {
      const float(&first)[4] = sum[i / 2][0], (&second)[4] = sum[i / 2][1];
      const int half = i % 2 * 2;
      if (8 * i + row < rows) {
        *reinterpret_cast<float2*>(to + (8 * i + row) * stream_outputs + column) =
            make_float2(first[half] + second[half], first[half + 1] + second[half + 1]);
      }
    }
  }
};

/// Steps that a lane has under way. Deep: of rows of W with more than the few for a warp.
inline constexpr int stream_batch = 4;
__host__ __device__ constexpr int stream_batch_of(bool deep) { return deep ? 6 : stream_batch; }

/// The next steps of a row of W that this lane loads, from step `first` on.
template <int batch>
struct StreamLoads {
  uint4 w[batch];

  __device__ __forceinline__ void load(const bf16* row, int first, int end) {
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int k = stream_k(first + i);
      w[i] = load_once(row + k, k < end);
    }
  }
};

/// Over how many warps the sums of a product are cut.
inline int stream_split(Index in, Index out) {
  const Index steps = ceil_div(in, stream_step);
  if (out >= 16384 || steps < 4) return 1;
  return steps < 8 ? 2 : steps < 24 ? 4 : 8;
}

/// Whether a warp then has more steps than stream_batch.
inline bool is_deep(Index in, int split) { return ceil_div(in, stream_step) > Index{split} * stream_batch; }

/// How many steps of x are loaded at once, as far as registers go.
__host__ __device__ constexpr int stream_at_once(int tiles, int batch) {
  return tiles > 1 ? 1 : batch % 4 == 0 ? 4 : 3;
}

/// All steps of one warp. `loads` holds the first ones already; whatever was multiplied makes room for what
/// comes a batch later.
template <int tiles, int batch>
__device__ __forceinline__ void stream_row(const bf16* row, const StreamPart& part, StreamLoads<batch>& loads,
                                           const StreamRows<tiles>& x, StreamSums<tiles>& sums) {
#pragma unroll 1
  for (int step = part.first; step * stream_step < part.end; step += batch) {
    constexpr int n = stream_at_once(tiles, batch);
#pragma unroll
    for (int i = 0; i < batch; i += n) {
      StreamPacks<tiles> packs[n];
#pragma unroll
      for (int j = 0; j < n; ++j) packs[j].load(x, stream_k(step + i + j), part.end);
#pragma unroll
      for (int j = 0; j < n; ++j) {
        sums.add(loads.w[i + j], packs[j]);
        const int k = stream_k(step + batch + i + j);
        loads.w[i + j] = load_once(row + k, k < part.end);
      }
    }
  }
}

/// y [rows, out] = x w^T.   x: [rows, in], in a multiple of 8
template <int tiles, int split, bool deep, typename Y>
__global__ void __launch_bounds__(stream_threads)
    stream_product(int rows, int in, Index stride, const bf16* x, Index out, const bf16* w, Y* y) {
  __shared__ float sums_of[stream_warps][stream_rows(tiles) * stream_outputs];
  constexpr int columns = stream_outputs * (stream_warps / split);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const Index first = blockIdx.x * static_cast<Index>(columns);
  const Index output = first + warp / split * stream_outputs + threadIdx.x % 32 / 4;
  const bf16* const row = w + (output < out ? output : out - 1) * in;  // [in]
  StreamSums<tiles> sums;
  const StreamPart part(in, split, warp % split);
  StreamLoads<stream_batch_of(deep)> loads;
  loads.load(row, part.first, part.end);
  let_next_start();
  wait_for_previous();
  stream_row(row, part, loads, StreamRows<tiles>(x, stride, rows), sums);
  sums.store(sums_of[warp]);
  __syncthreads();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns; i += stream_threads) {
    const int r = i / columns, c = i % columns;
    if (first + c >= out) continue;
    float total = 0;
#pragma unroll
    for (int s = 0; s < split; ++s)
      total += sums_of[c / stream_outputs * split + s][r * stream_outputs + c % stream_outputs];
    y[r * out + first + c] = narrow<Y>(total);
  }
}

// --- Any types -------------------------------------------------------------------------------------------

inline constexpr int dot_rows = 8;  // rows of x that a warp holds sums of

/// The dot products of up to 8 rows of x with a row of W, over a warp, in every lane. A lane takes N
/// neighbours at a time.   x: row r at x + r * stride
template <int N, typename X, typename W, typename A>
__device__ __forceinline__ void warp_dots(Index in, int rows, const X* x, Index stride, const W* w,
                                          A (&sum)[dot_rows]) {
#pragma unroll
  for (int r = 0; r < dot_rows; ++r) sum[r] = A(0);
#pragma unroll 4
  for (Index k = threadIdx.x % 32 * N; k < in; k += 32 * N) {
    const Pack<W, N> wk = *reinterpret_cast<const Pack<W, N>*>(w + k);
#pragma unroll
    for (int r = 0; r < dot_rows; ++r) {
      if (r >= rows) break;
      const Pack<X, N> xk = *reinterpret_cast<const Pack<X, N>*>(x + r * stride + k);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[r] = fma(A(widen(xk.value[i])), A(widen(wk.value[i])), sum[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < dot_rows; ++r) {
    if (r < rows) sum[r] = warp_sum(sum[r]);
  }
}

template <int N, typename X, typename W, typename Y>
__global__ void __launch_bounds__(stream_threads)
    dot_product(Index rows, Index in, Index stride, const X* x, Index out, const W* w, Y* y) {
  const Index output = blockIdx.x * static_cast<Index>(stream_warps) + threadIdx.x / 32;
  if (output >= out) return;
  for (Index first = 0; first < rows; first += dot_rows) {
    const int count = static_cast<int>(rows - first < dot_rows ? rows - first : dot_rows);
    acc_t<Y> sum[dot_rows];
    warp_dots<N>(in, count, x + first * stride, stride, w + output * in, sum);
    if (threadIdx.x % 32 != 0) continue;
#pragma unroll
    for (int r = 0; r < dot_rows; ++r) {
      if (r < count) y[(first + r) * out + output] = narrow<Y>(sum[r]);
    }
  }
}

// --- The product -----------------------------------------------------------------------------------------

/// Calls run(std::integral_constant<int, n>, std::bool_constant<b>) with the split of a product, that of its
/// sizes alone, and whether it is deep then.
template <typename Run>
void with_split(Index in, Index out, const Run& run) {
  const std::false_type few;
  switch (stream_split(in, out)) {
    case 1:
      return run(std::integral_constant<int, 1>{}, std::true_type{});
    case 2:
      return run(std::integral_constant<int, 2>{}, few);
    case 4:
      return run(std::integral_constant<int, 4>{}, few);
    default:
      if (is_deep(in, 8)) return run(std::integral_constant<int, 8>{}, std::true_type{});
      run(std::integral_constant<int, 8>{}, few);
  }
}

/// The same with the number of row groups (0: 8 rows), of rows that are taken up to 16 at a time.
template <typename Run>
void with_fused_tiles(Index rows, const Run& run) {
  if (rows <= 8) return run(std::integral_constant<int, 0>{});
  run(std::integral_constant<int, 1>{});
}
/// Or of up to few_rows rows at once.
template <typename Run>
void with_row_tiles(Index rows, const Run& run) {
  if (rows <= 16) return with_fused_tiles(rows, run);
  run(std::integral_constant<int, 4>{});
}

/// y = x w^T for at most few_rows rows.   x: [rows, in] strided   w: [out, in] dense   y: [rows, out] dense
/// A row's bits depend on that row and w alone.
template <typename X, typename W, typename Y>
void few_rows_product(const Cuda& device, Rows rows, const X* x, Index out, const W* w, Y* y) {
  if (rows.count == 0 || out == 0) return;
  const Index in = rows.width;
  if constexpr (std::is_same_v<X, bf16> && std::is_same_v<W, bf16>) {
    if (in > 0 && can_be_wide<bf16>(in, rows.stride, x, w)) {
      with_split(in, out, [&](auto split, auto deep) {
        with_row_tiles(rows.count, [&](auto tiles) {
          const Index columns = stream_outputs * (stream_warps / split());
          launch(device, "linear", stream_product<tiles(), split(), deep(), Y>,
                 dim3(static_cast<unsigned>(ceil_div(out, columns))), dim3(stream_threads), 0,
                 static_cast<int>(rows.count), static_cast<int>(in), static_cast<int>(rows.stride), x, out, w,
                 y);
        });
      });
      return;
    }
  }
  const auto run = [&](auto n) {
    launch(device, "linear", dot_product<n(), X, W, Y>,
           dim3(static_cast<unsigned>(ceil_div(out, stream_warps))), dim3(stream_threads), 0, rows.count, in,
           rows.stride, x, out, w, y);
  };
  constexpr int most = std::min(wide<X>, wide<W>);
  if (in % most == 0 && rows.stride % most == 0 &&
      reinterpret_cast<std::uintptr_t>(x) % (most * sizeof(X)) == 0 &&
      reinterpret_cast<std::uintptr_t>(w) % (most * sizeof(W)) == 0) {
    run(std::integral_constant<int, most>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace mtpx::cuda
