#pragma once
// Twins of cpu/adamw.hpp. All tensors of a model in few launches: lists of them travel as kernel parameters,
// and a block finds its tensor in the list by its number. Nothing is copied from the host, so a step can be
// recorded.

#include "core/chunks.cuh"
#include "core/elementwise.cuh"

#include <span>

namespace mtpx {

namespace cuda {

inline constexpr int update_threads = squares_threads;

/// The first of `tensors` whose blocks include `block`.   first: [tensors + 1], the number of its first block
__device__ __forceinline__ int tensor_of(int block, int tensors, const std::int32_t* first) {
  int low = 0, high = tensors - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// --- Sums of squares -------------------------------------------------------------------------------------

/// What one launch can be told: 4 KB.
template <typename A>
struct SquaresList {
  static constexpr int max = 192;
  int tensors;
  std::int32_t first[max + 1];  // block of each tensor's beginning, and the number of blocks
  const A* data[max];
  Index count[max];
};

/// partial[block] = sum of the squares of its part of its tensor.
template <typename A>
__global__ void __launch_bounds__(update_threads)
    squares_of_chunks(const __grid_constant__ SquaresList<A> list, double* partial) {
  constexpr int N = wide<A>;
  constexpr Index chunk = squares_chunk<A>;
  __shared__ double shared[update_threads / 32];
  const int block = static_cast<int>(blockIdx.x), tensor = tensor_of(block, list.tensors, list.first);
  const Index begin = Index{block - list.first[tensor]} * chunk;
  const Index count = min(chunk, list.count[tensor] - begin);
  const A* x = list.data[tensor] + begin;  // [count]
  double sum = 0;
  const auto add = [&](A value) { sum = fma(static_cast<double>(value), static_cast<double>(value), sum); };
  if (count == chunk && reinterpret_cast<std::uintptr_t>(x) % 16 == 0) {
    Numbers<A, N> part[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) part[u] = load_numbers<N>(x + (u * update_threads + threadIdx.x) * N);
#pragma unroll
    for (int u = 0; u < 8; ++u) {
#pragma unroll
      for (int j = 0; j < N; ++j) add(part[u].value[j]);
    }
  } else {
#pragma unroll 8
    for (Index i = threadIdx.x; i < count; i += update_threads) add(x[i]);
  }
  sum = block_sum<update_threads>(sum, shared);
  if (threadIdx.x == 0) partial[block] = sum;
}

// --- The update ------------------------------------------------------------------------------------------

template <typename T>
struct UpdateList {
  static constexpr int max = 55;
  int tensors;
  std::int32_t first[max + 1];  // block of each tensor's beginning, and the number of blocks
  AdamWTensor<T> tensor[max];
};

inline constexpr int update_unroll = 2;
template <typename T>
inline constexpr Index update_chunk = update_threads* wide<acc_t<T>>* update_unroll;  // numbers of a block

template <typename T>
__global__ void __launch_bounds__(update_threads)
    update_tensors(const __grid_constant__ UpdateList<T> list, const AdamWStep s, const double* rates,
                   const double* scale) {
  using A = acc_t<T>;
  constexpr int N = wide<A>;
  constexpr bool copied = !std::is_same_v<T, A>;
  __shared__ exact::AdamW<A> shared;
  const int block = static_cast<int>(blockIdx.x), index = tensor_of(block, list.tensors, list.first);
  const AdamWTensor<T>& t = list.tensor[index];
  const Index begin = Index{block - list.first[index]} * update_chunk<T>;
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  const bool whole = begin + update_chunk<T> <= t.count && aligned(t.grad) && aligned(t.m) && aligned(t.v) &&
                     aligned(t.master) && (!copied || aligned(t.p));
  Numbers<A, N> grad[update_unroll], m[update_unroll], v[update_unroll], p[update_unroll];
  if (whole) {  // under way while the factors are worked out
#pragma unroll
    for (int u = 0; u < update_unroll; ++u) {
      const Index i = begin + (u * update_threads + threadIdx.x) * N;
      grad[u] = load_numbers<N>(t.grad + i);
      m[u] = load_numbers<N>(t.m + i);
      v[u] = load_numbers<N>(t.v + i);
      p[u] = load_numbers<N>(t.master + i);
    }
  }
  if (threadIdx.x == 0) {
    shared = {static_cast<A>(s.beta1),
              static_cast<A>(s.beta2),
              static_cast<A>(rates[0] * t.rate / rates[1]),
              static_cast<A>(1.0 / sqrt(rates[2])),
              static_cast<A>(s.eps),
              static_cast<A>(exact::fma(-(rates[0] * t.rate), t.weight_decay, 1.0)),
              static_cast<A>(*scale)};
  }
  __syncthreads();
  const exact::AdamW<A> factors = shared;
  const auto root = [](A x) { return sqrt(x); };
  if (isnan(factors.clip)) return;
  if (whole) {
#pragma unroll
    for (int u = 0; u < update_unroll; ++u) {
      const Index i = begin + (u * update_threads + threadIdx.x) * N;
      Numbers<T, N> rounded;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        factors.step(grad[u].value[j], m[u].value[j], v[u].value[j], p[u].value[j], root);
        rounded.value[j] = narrow<T>(p[u].value[j]);
      }
      store_numbers<N>(t.m + i, m[u]);
      store_numbers<N>(t.v + i, v[u]);
      store_numbers<N>(t.master + i, p[u]);
      if constexpr (copied) store_numbers<N>(t.p + i, rounded);
    }
    return;
  }
  const Index end = min(t.count, begin + update_chunk<T>);
  for (Index i = begin + threadIdx.x; i < end; i += update_threads) {
    A mi = t.m[i], vi = t.v[i], pi = t.master[i];
    factors.step(t.grad[i], mi, vi, pi, root);
    t.m[i] = mi;
    t.v[i] = vi;
    t.master[i] = pi;
    if constexpr (copied) t.p[i] = narrow<T>(pi);
  }
}

}  // namespace cuda

/// out[c] = sum of the squares of chunk c, in double: squares_chunk numbers of a gradient, the last of each
/// has what is left. All chunks of gradient 0, then those of gradient 1, ...
template <typename A>
void squares_of_chunks(const Cuda& device, std::span<const std::span<const A>> gradients, double* out) {
  using List = cuda::SquaresList<A>;
  for (std::size_t begin = 0; begin < gradients.size(); begin += List::max) {
    List list{};
    list.tensors = static_cast<int>(std::min(gradients.size() - begin, std::size_t{List::max}));
    for (int i = 0; i < list.tensors; ++i) {
      const auto gradient = gradients[begin + static_cast<std::size_t>(i)];
      list.data[i] = gradient.data();
      list.count[i] = static_cast<Index>(gradient.size());
      list.first[i + 1] =
          list.first[i] + static_cast<std::int32_t>(cuda::ceil_div(list.count[i], squares_chunk<A>));
    }
    const auto own = static_cast<unsigned>(list.first[list.tensors]);
    if (own > 0)
      cuda::launch(device, "squares_of_chunks", cuda::squares_of_chunks<A>, own, cuda::update_threads, 0,
                   list, out);
    out += own;
  }
}

/// out[i] = sum of the squares of gradient i: of its chunks, see sums_of_chunks().
template <typename A>
void sums_of_squares(const Cuda& device, std::span<const std::span<const A>> gradients, double* out) {
  const std::vector<ChunkRange> ranges = chunk_ranges(gradients);
  const cuda::Workspace<double> workspace(
      device, ranges.empty() ? 0 : ranges.back().first + ranges.back().count);  // [chunks]
  squares_of_chunks(device, gradients, workspace.data());
  cuda::sum_ranges(device, ranges, workspace.data(), out);
}

/// g = scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
/// p -= rate lr (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay p), decay decoupled from the gradient.
/// rates: {lr, bias1, bias2}, bias = 1 - beta^t. A scale that is NaN changes nothing.
template <typename T>
void adamw_step(const Cuda& device, std::span<const AdamWTensor<T>> parameters, AdamWStep s,
                const double* rates, const double* scale) {
  using List = cuda::UpdateList<T>;
  for (std::size_t begin = 0; begin < parameters.size(); begin += List::max) {
    List list{};
    list.tensors = static_cast<int>(std::min(parameters.size() - begin, std::size_t{List::max}));
    for (int i = 0; i < list.tensors; ++i) {
      list.tensor[i] = parameters[begin + static_cast<std::size_t>(i)];
      list.first[i + 1] = list.first[i] + static_cast<std::int32_t>(
                                              cuda::ceil_div(list.tensor[i].count, cuda::update_chunk<T>));
    }
    static_assert(sizeof(List) + sizeof(AdamWStep) + 2 * sizeof(double*) <= 4096);
    cuda::launch(device, "adamw", cuda::update_tensors<T>, static_cast<unsigned>(list.first[list.tensors]),
                 cuda::update_threads, 0, list, s, rates, scale);
  }
}

}  // namespace mtpx
