#pragma once
// Twins of cpu/rms_norm.hpp. In bf16 a row belongs to a warp or, when wide, to a block, and stays in
// registers between its two passes: every number is read once and written once. Rows of odd widths or
// spacings, and those of float and double, are read twice, in the host's order.
//
// The gain's gradient: a block sums over a fixed number of rows, set by the sizes alone; a second kernel adds
// the blocks' sums.

#include "core/elementwise.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int norm_threads = 256;

/// Threads of a block where G share a row: there are several rows a block, or one.
template <int G>
inline constexpr int norm_block = G < norm_threads ? norm_threads : G;
template <int G>
inline constexpr int rows_at_once = norm_block<G> / G;

/// The sum over the G threads that share a row, in each of them; the whole block calls. shared: a number for
/// every warp of the block, which nobody else touches until the block's next sum after this one.
template <int G, typename A>
__device__ __forceinline__ A row_sum(A x, A* shared) {
  x = warp_sum(x);
  if constexpr (G == 32) return x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) shared[warp] = x;
  __syncthreads();
  const A* const mine = shared + warp / (G / 32) * (G / 32);  // [G / 32]
  A total = mine[0];
#pragma unroll
  for (int w = 1; w < G / 32; ++w) total += mine[w];
  return total;
}

/// total = x + f (if `add`; else total stands for x); y = total * rstd * gain. G threads a row, P packs each.
template <typename T, int G, int P, bool add>
__global__ void __launch_bounds__(norm_block<G>)
    norm_rows(Index count, Index width, Index stride, const T* x, const T* f, const acc_t<T>* gain,
              acc_t<T> eps, T* total, T* y, acc_t<T>* rstd) {
  using A = acc_t<T>;
  constexpr int N = wide<T>;
  __shared__ A shared[norm_block<G> / 32];
  let_next_start();
  const Index row = Index{blockIdx.x} * rows_at_once<G> + threadIdx.x / G;
  if (row >= count) return;
  const Index first = threadIdx.x % G * N;
  const T* xr = x + row * stride;  // [width]
  Numbers<T, N> in[P] = {};
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const Index c = first + p * (G * N);
    if (c < width) in[p] = load_numbers<N>(xr + c);
  }
  if constexpr (add) {
    Numbers<T, N> more[P] = {};
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = first + p * (G * N);
      if (c < width) more[p] = load_numbers<N>(f + row * width + c);
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = first + p * (G * N);
#pragma unroll
      for (int j = 0; j < N; ++j) in[p].value[j] = narrow<T>(widen(in[p].value[j]) + widen(more[p].value[j]));
      if (c < width) store_numbers<N>(total + row * width + c, in[p]);
    }
  }
  A squares(0);
#pragma unroll
  for (int p = 0; p < P; ++p) {
#pragma unroll
    for (int j = 0; j < N; ++j) squares += widen(in[p].value[j]) * widen(in[p].value[j]);
  }
  const A scale = rstd_of(row_sum<G>(squares, shared), width, eps);
  if (first == 0) rstd[row] = scale;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const Index c = first + p * (G * N);
    if (c >= width) continue;
    const Numbers<A, N> g = load_numbers<N>(gain + c);
#pragma unroll
    for (int j = 0; j < N; ++j) in[p].value[j] = narrow<T>(widen(in[p].value[j]) * scale * g.value[j]);
    store_numbers<N>(y + row * width + c, in[p]);
  }
}

/// The same for any row, in the host's order. A warp per row.
template <typename T, bool add>
__global__ void __launch_bounds__(norm_threads)
    norm_rows_in_order(Index count, Index width, Index stride, const T* x, const T* f, const acc_t<T>* gain,
                       acc_t<T> eps, T* total, T* y, acc_t<T>* rstd) {
  using A = acc_t<T>;
  const Index row = Index{blockIdx.x} * rows_at_once<32> + threadIdx.x / 32;
  if (row >= count) return;
  const Index first = threadIdx.x % 32;
  const T* in = x + row * stride;  // [width]
  T* sum = total + row * width;    // [width]
  A squares(0);
  for (Index c = first; c < width; c += 32) {
    T value = in[c];
    if constexpr (add) sum[c] = value = narrow<T>(widen(value) + widen(f[row * width + c]));
    squares = exact::fma(widen(value), widen(value), squares);
  }
  const A scale = rstd_of(warp_sum(squares), width, eps);
  if (first == 0) rstd[row] = scale;
  if constexpr (add) in = sum;  // every thread reads back what it wrote
  for (Index c = first; c < width; c += 32) y[row * width + c] = narrow<T>(widen(in[c]) * scale * gain[c]);
}

/// What a row's gradient is made from, and where it goes.
template <typename T>
struct NormGradients {
  const T* x;  // what was normalised
  Index stride;
  const acc_t<T>*gain, *rstd;
  const T *dtotal, *dy;  // dtotal: null unless the normalised sum has a gradient of its own
  Sink<T> dx, df;
};

/// sink (+)= d
template <int N, typename T>
__device__ __forceinline__ void put_numbers(const Sink<T>& sink, Index at, const Numbers<acc_t<T>, N>& d) {
  if (sink.data == nullptr) return;
  Numbers<T, N> out;
  if (sink.accumulate) out = load_numbers<N>(sink.data + at);
#pragma unroll
  for (int j = 0; j < N; ++j) put(&out.value[j], d.value[j], sink.accumulate);
  store_numbers<N>(sink.data + at, out);
}

/// Threads that sum for the gain: as many as the largest chips run at once, 1024 on each processor.
inline constexpr int gain_threads = 131072;

/// dx = df = dtotal + rstd (g - x_hat mean(g x_hat)), g = dy gain, x_hat = x rstd; partial[block] = sum over
/// the block's rows of dy x_hat (if `gains`). partial:
/// [blocks, width]
template <typename T, int G, int P, bool add, bool gains>
__global__ void __launch_bounds__(norm_block<G>, gains&& P <= 2 ? 1024 / norm_block<G> : 1)
    norm_rows_backward(Index count, Index width, Index rows_per_block, const NormGradients<T> n,
                       acc_t<T>* partial) {
  using A = acc_t<T>;
  constexpr int N = wide<T>, groups = rows_at_once<G>;
  __shared__ A shared[2][norm_block<G> / 32];  // of this row and of the last
  const int group = static_cast<int>(threadIdx.x) / G;
  const Index first = threadIdx.x % G * N;
  const Index begin = blockIdx.x * rows_per_block, end = min(count, begin + rows_per_block);
  const bool rows_wanted = n.dx.data != nullptr || n.df.data != nullptr;
  Numbers<A, N> sums[gains ? P : 1] = {};
  int turn = 0;
  for (Index at = begin; at < end; at += groups, turn ^= 1) {  // the whole block, for its barriers
    const Index row = at + group;
    const Index columns = row < end ? width : 0;
    Numbers<T, N> x[P] = {}, dy[P] = {}, dtotal[add ? P : 1] = {};
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = first + p * (G * N);
      if (c >= columns) continue;
      x[p] = load_numbers<N>(n.x + row * n.stride + c);
      dy[p] = load_numbers<N>(n.dy + row * width + c);
      if constexpr (add) dtotal[p] = load_numbers<N>(n.dtotal + row * width + c);
    }
    const A scale = row < end ? n.rstd[row] : A(0);
    A dot(0);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = first + p * (G * N);
      if (c >= columns) continue;
      const Numbers<A, N> g = load_numbers<N>(n.gain + c);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const A product = widen(dy[p].value[j]) * (widen(x[p].value[j]) * scale);
        dot += product * g.value[j];
        if constexpr (gains) sums[p].value[j] += product;
      }
    }
    if (!rows_wanted) continue;
    const A mean = row_sum<G>(dot, shared[turn]) / static_cast<A>(width);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = first + p * (G * N);
      if (c >= columns) continue;
      const Numbers<A, N> g = load_numbers<N>(n.gain + c);
      Numbers<A, N> d;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const A x_hat = widen(x[p].value[j]) * scale;
        d.value[j] = scale * (widen(dy[p].value[j]) * g.value[j] - x_hat * mean);
        if constexpr (add) d.value[j] += widen(dtotal[p].value[j]);
      }
      put_numbers<N>(n.dx, row * width + c, d);
      if constexpr (add) put_numbers<N>(n.df, row * width + c, d);
    }
  }
  if constexpr (gains) {
    A* const mine = partial + blockIdx.x * width;  // [width]
    if constexpr (groups == 1) {
#pragma unroll
      for (int p = 0; p < P; ++p) {
        if (const Index c = first + p * (G * N); c < width) store_numbers<N>(mine + c, sums[p]);
      }
    } else {
      __shared__ __align__(16) A of_group[groups][G * N * P];
#pragma unroll
      for (int p = 0; p < P; ++p) store_numbers<N>(of_group[group] + first + p * (G * N), sums[p]);
      __syncthreads();
      for (Index c = threadIdx.x; c < width; c += norm_block<G>) {
        A sum = of_group[0][c];
#pragma unroll
        for (int other = 1; other < groups; ++other) sum += of_group[other][c];
        mine[c] = sum;
      }
    }
  }
}

/// The rows' gradients for any row, in the host's order. A warp per row.
template <typename T>
__global__ void __launch_bounds__(norm_threads)
    norm_rows_backward_in_order(Index count, Index width, const NormGradients<T> n) {
  using A = acc_t<T>;
  const Index row = Index{blockIdx.x} * rows_at_once<32> + threadIdx.x / 32;
  if (row >= count) return;
  const T* x = n.x + row * n.stride;  // [width]
  const T* dy = n.dy + row * width;   // [width]
  const A scale = n.rstd[row];
  A dot(0);
  for (Index c = threadIdx.x % 32; c < width; c += 32)
    dot = exact::fma(widen(dy[c]) * n.gain[c], widen(x[c]) * scale, dot);
  const A mean = warp_sum(dot) / static_cast<A>(width);
  for (Index c = threadIdx.x % 32; c < width; c += 32) {
    const Index at = row * width + c;
    const A x_hat = widen(x[c]) * scale;
    A d = exact::product(scale, exact::fma(widen(dy[c]), n.gain[c], -exact::product(x_hat, mean)));
    if (n.dtotal != nullptr) d += widen(n.dtotal[at]);
    if (n.dx.data != nullptr) put(n.dx.data + at, d, n.dx.accumulate);
    if (n.df.data != nullptr) put(n.df.data + at, d, n.df.accumulate);
  }
}

/// partial[block] = the gain's sum over gain_rows rows. A thread per column.   partial: [blocks, width]
template <typename T>
__global__ void __launch_bounds__(norm_threads)
    gain_partials_in_order(Index count, Index width, const NormGradients<T> n, acc_t<T>* partial) {
  const Index c = Index{blockIdx.y} * norm_threads + threadIdx.x;
  if (c >= width) return;
  const Index begin = blockIdx.x * gain_rows, end = min(count, begin + gain_rows);
  acc_t<T> sum(0);
  for (Index row = begin; row < end; ++row)
    sum = exact::fma(widen(n.dy[row * width + c]), widen(n.x[row * n.stride + c]) * n.rstd[row], sum);
  partial[blockIdx.x * width + c] = sum;
}

/// to (+)= the sum of partial's rows, in order. A thread per column.
template <typename A, typename G>
__global__ void __launch_bounds__(32)
    add_partials_in_order(Index parts, Index width, const A* partial, Sink<G> to) {
  const Index c = Index{blockIdx.x} * 32 + threadIdx.x;
  if (c >= width) return;
  A sum(0);
#pragma unroll 8
  for (Index p = 0; p < parts; ++p) sum += partial[p * width + c];
  put(to.data + c, sum, to.accumulate);
}

/// to (+)= the sum of partial's rows. A block per 8 columns, 128 threads each.
/// partial: [parts, width]   to: [width]
template <typename A>
__global__ void __launch_bounds__(1024) add_partials(Index parts, Index width, const A* partial, Sink<A> to) {
  __shared__ A of_warp[32][8];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Index c = Index{blockIdx.x} * 8 + thread % 8;
  A sum(0);
  if (c < width) {
#pragma unroll 8
    for (Index p = thread / 8; p < parts; p += 128) sum += partial[p * width + c];
  }
  sum += __shfl_xor_sync(whole_warp, sum, 8);
  sum += __shfl_xor_sync(whole_warp, sum, 16);
  if (lane < 8) of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp >= 8) return;
  sum = warp_sum(of_warp[lane][warp]);
  const Index column = Index{blockIdx.x} * 8 + warp;
  if (lane == 0 && column < width) put(to.data + column, sum, to.accumulate);
}

/// How rows are spread over threads: with several packs a thread, so that few threads share a row; or with
/// few, or one where a block has enough threads, which leaves registers for sums.
enum class Spread { packed, few_packs, one_pack };

/// Calls run<G, P>() for the G threads and P packs that hold a row of `width`; false if it is too wide.
template <typename T, Spread spread, typename Run>
bool for_row_layout(Index width, const Run& run) {
  constexpr bool packed = spread == Spread::packed, one = spread == Spread::one_pack;
  const Index packs = width / wide<T>;
  if (packs <= 32) {
    run.template operator()<32, 1>();
  } else if (packs <= 64) {
    run.template operator()<packed ? 32 : 64, packed ? 2 : 1>();
  } else if (packs <= 128) {
    run.template operator()<packed ? 32 : 128, packed ? 4 : 1>();
  } else if (packs <= 256) {
    run.template operator()<256, 1>();
  } else if (packs <= 512) {
    run.template operator()<packed ? 256 : 512, packed ? 2 : 1>();
  } else if (packs <= 1024) {
    run.template operator()<one ? 1024 : 512, one ? 1 : 2>();
  } else if (packs <= 2048) {
    run.template operator()<512, 4>();
  } else {
    return false;
  }
  return true;
}

/// Queues `kernel` for `count` rows, G threads each, or `rows_per_block` a block.
template <int G, typename... Parameters, typename... Arguments>
void launch_rows(const Cuda& device, const char* name, void (*kernel)(Parameters...), Index count,
                 Index rows_per_block, const Arguments&... arguments) {
  launch(device, name, kernel, static_cast<unsigned>(ceil_div(count, rows_per_block)), norm_block<G>, 0,
         count, arguments...);
}
template <typename T, bool add>
void norm_forward(const Cuda& device, const char* name, Rows rows, const T* x, const T* f,
                  const acc_t<T>* gain, acc_t<T> eps, T* total, T* y, acc_t<T>* rstd) {
  const auto run = [&]<int G>(auto kernel) {
    launch_rows<G>(device, name, kernel, rows.count, rows_at_once<G>, rows.width, rows.stride, x, f, gain,
                   eps, total, y, rstd);
  };
  if constexpr (!in_order<T>) {
    const bool done = can_be_wide<T>(rows.width, rows.stride, x, f, gain, total, y) &&
                      for_row_layout<T, Spread::packed>(rows.width, [&]<int G, int P>() {
                        run.template operator()<G>(norm_rows<T, G, P, add>);
                      });
    if (done) return;
  }
  run.template operator()<32>(norm_rows_in_order<T, add>);
}

/// The gradients where rows are packs of 16 bytes; false if they are not, or too wide.
template <typename T, bool add>
bool norm_backward_of_packs(const Cuda& device, const char* name, Index count, Index width,
                            const NormGradients<T>& n, Sink<acc_t<T>> dgain) {
  using A = acc_t<T>;
  if (!can_be_wide<T>(width, n.stride, n.x, n.gain, n.dtotal, n.dy, n.dx.data, n.df.data)) return false;
  if (!dgain) {
    return for_row_layout<T, Spread::packed>(width, [&]<int G, int P>() {
      launch_rows<G>(device, name, norm_rows_backward<T, G, P, add, false>, count, rows_at_once<G>, width,
                     Index{rows_at_once<G>}, n, nullptr);
    });
  }
  constexpr Spread spread = add ? Spread::one_pack : Spread::few_packs;
  return for_row_layout<T, spread>(width, [&]<int G, int P>() {
    constexpr Index at_once = rows_at_once<G>;
    const Index share = std::max(ceil_div(count * norm_block<G>, gain_threads), 2 * at_once);
    const Index rows_per_block = ceil_div(share, at_once) * at_once, blocks = ceil_div(count, rows_per_block);
    const Workspace<A> partial(device, blocks * width);  // [blocks, width]
    launch_rows<G>(device, name, norm_rows_backward<T, G, P, add, true>, count, rows_per_block, width,
                   rows_per_block, n, partial.data());
    launch(device, name, add_partials<A>, static_cast<unsigned>(ceil_div(width, 8)), 1024, 0, blocks, width,
           partial.data(), dgain);
  });
}

template <typename T, bool add>
void norm_backward(const Cuda& device, const char* name, Index count, Index width, const NormGradients<T>& n,
                   Sink<acc_t<T>> dgain) {
  using A = acc_t<T>;
  const bool rows_wanted = n.dx || n.df;
  if (!rows_wanted && !dgain) return;
  if constexpr (!in_order<T>) {
    if (norm_backward_of_packs<T, add>(device, name, count, width, n, dgain)) return;
  }
  if (rows_wanted)
    launch_rows<32>(device, name, norm_rows_backward_in_order<T>, count, rows_at_once<32>, width, n);
  if (!dgain) return;
  const Index blocks = ceil_div(count, gain_rows);
  const Workspace<A> partial(device, blocks * width);  // [blocks, width]
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(ceil_div(width, norm_threads)));
  launch(device, name, gain_partials_in_order<T>, grid, norm_threads, 0, count, width, n, partial.data());
  launch(device, name, add_partials_in_order<A, A>, static_cast<unsigned>(ceil_div(width, 32)), 32, 0, blocks,
         width, partial.data(), dgain);
}

}  // namespace cuda

/// y = x / sqrt(mean(x^2) + eps) * gain, row by row.   x: [N, D] strided   gain: [D]   y: [N, D]   rstd: [N]
template <typename T>
void rms_norm_forward(const Cuda& device, Rows rows, const T* x, const acc_t<T>* gain, acc_t<T> eps, T* y,
                      acc_t<T>* rstd) {
  cuda::norm_forward<T, false>(device, "rms_norm", rows, x, nullptr, gain, eps, nullptr, y, rstd);
}

/// dx = rstd (g - x_hat mean(g x_hat)) with g = dy gain, x_hat = x rstd;  dgain = sum over rows of dy x_hat.
template <typename T>
void rms_norm_backward(const Cuda& device, Rows rows, const T* x, const acc_t<T>* gain, const acc_t<T>* rstd,
                       const T* dy, Sink<T> dx, Sink<acc_t<T>> dgain) {
  cuda::norm_backward<T, false>(device, "rms_norm_backward", rows.count, rows.width,
                                {x, rows.stride, gain, rstd, nullptr, dy, dx, {}}, dgain);
}

/// total = x + f; y = rms_norm(total).   All [N, D] dense.
template <typename T>
void add_rms_norm_forward(const Cuda& device, Index count, Index width, const T* x, const T* f,
                          const acc_t<T>* gain, acc_t<T> eps, T* total, T* y, acc_t<T>* rstd) {
  cuda::norm_forward<T, true>(device, "add_rms_norm", {count, width, width}, x, f, gain, eps, total, y, rstd);
}

/// dx = df = dtotal + (gradient of the norm).
template <typename T>
void add_rms_norm_backward(const Cuda& device, Index count, Index width, const T* total, const acc_t<T>* gain,
                           const acc_t<T>* rstd, const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df,
                           Sink<acc_t<T>> dgain) {
  cuda::norm_backward<T, true>(device, "add_rms_norm_backward", count, width,
                               {total, width, gain, rstd, dtotal, dy, dx, df}, dgain);
}

}  // namespace mtpx
