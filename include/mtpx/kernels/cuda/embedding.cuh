#pragma once
// Twins of cpu/embedding.hpp. The table's gradient without atomics: token positions are sorted by id, stably,
// and then every id sums its rows in their order. In bf16 long runs of one id are cut into chunks that are
// summed side by side.

#include "core/elementwise.cuh"

#include <bit>

namespace mtpx {

namespace cuda {

/// Token ids [B, T], strided, as one list.
struct IdList {
  const std::int32_t* id;
  Index width, stride, vocab;

  /// Id i, or `vocab` where it is outside the vocabulary. There are fewer than 2^31.
  __device__ __forceinline__ std::uint32_t operator()(Index i) const {
    const auto at = static_cast<std::uint32_t>(i), of_row = static_cast<std::uint32_t>(width);
    const std::int32_t value = id[at / of_row * stride + at % of_row];
    return static_cast<std::uint32_t>(value >= 0 && value < vocab ? value : vocab);
  }
};

inline constexpr int embedding_threads = 256;
inline constexpr int embedding_warps = embedding_threads / 32;

/// y[i] = table[id[i]], zeros where there is no such row. A warp per row, P packs of N numbers a lane.
template <typename T, int N, int P>
__global__ void __launch_bounds__(embedding_threads)
    embed_rows(Index count, const IdList ids, Index width, Index stride, const T* table, T* y) {
  let_next_start();
  const Index i = Index{blockIdx.x} * embedding_warps + threadIdx.x / 32;
  if (i >= count) return;
  const Index id = ids(i);
  const T* row = table + id * stride;  // [width]
  T* to = y + i * width;               // [width]
  for (Index begin = threadIdx.x % 32 * N; begin < width; begin += 32 * N * P) {
    Numbers<T, N> part[P] = {};
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = begin + p * (32 * N);
      if (c < width && id < ids.vocab) part[p] = load_numbers<N>(row + c);
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Index c = begin + p * (32 * N);
      if (c < width) store_numbers<N>(to + c, part[p]);
    }
  }
}

// --- The sort: least significant digit first, stable -----------------------------------------------------

/// An id above, its position below.
using Place = std::uint64_t;

inline constexpr int digit_bits = 9;

/// Where a pass finds its places: in the ids themselves at first.
struct PlaceList {
  IdList ids;
  const Place* places;

  __device__ __forceinline__ Place operator()(Index i) const {
    return places != nullptr ? places[i] : Place{ids(i)} << 32 | static_cast<Place>(i);
  }
};

template <int digits>
__device__ __forceinline__ int digit_of(Place place, int shift) {
  return static_cast<int>(place >> (32 + shift)) & (digits - 1);
}

/// counts[tile][digit]: places of the tile with that digit.
template <int digits>
__global__ void __launch_bounds__(embedding_threads)
    count_digits(Index count, Index tile, int shift, const PlaceList list, std::int32_t* counts) {
  __shared__ int mine[digits];
  for (int d = static_cast<int>(threadIdx.x); d < digits; d += embedding_threads) mine[d] = 0;
  __syncthreads();
  const Index end = min(count, (blockIdx.x + 1) * tile);
  for (Index i = blockIdx.x * tile + threadIdx.x; i < end; i += embedding_threads)
    atomicAdd(&mine[digit_of<digits>(list(i), shift)], 1);  // whole numbers: the order does not matter
  __syncthreads();
  for (int d = static_cast<int>(threadIdx.x); d < digits; d += embedding_threads)
    counts[Index{blockIdx.x} * digits + d] = mine[d];
}

/// Puts a tile's places where the digits of all tiles send them. A warp takes an eighth of the tile, in
/// rounds of 32 neighbours.
template <int digits, int rounds>
__global__ void __launch_bounds__(embedding_threads)
    place_digits(Index count, int shift, const PlaceList list, const std::int32_t* counts, Place* to) {
  __shared__ int next[embedding_warps][digits];
  __shared__ int of_warp[embedding_warps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Index first = (Index{blockIdx.x} * embedding_warps + warp) * (32 * rounds) + lane;
  Place place[rounds];
#pragma unroll
  for (int r = 0; r < rounds; ++r) place[r] = first + r * 32 < count ? list(first + r * 32) : 0;
  // what has smaller digits, then what earlier tiles have of this digit, then earlier warps
  constexpr int each = digits / embedding_threads;
  int all[each] = {}, earlier[each] = {};
#pragma unroll 8
  for (unsigned t = 0; t < gridDim.x; ++t) {
#pragma unroll
    for (int d = 0; d < each; ++d) {
      const int n = counts[Index{t} * digits + thread * each + d];
      all[d] += n;
      earlier[d] += t < blockIdx.x ? n : 0;
    }
  }
  for (int i = thread; i < embedding_warps * digits; i += embedding_threads) next[0][i] = 0;
  __syncthreads();
  unsigned same[rounds];  // lanes with the same digit
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    const int digit = first + r * 32 < count ? digit_of<digits>(place[r], shift) : -1;
    same[r] = __match_any_sync(whole_warp, digit);
    if (digit >= 0 && lane == __ffs(static_cast<int>(same[r])) - 1) next[warp][digit] += __popc(same[r]);
    __syncwarp();
  }
  int sum = 0;
#pragma unroll
  for (int d = 0; d < each; ++d) sum += all[d];
  int before = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(whole_warp, before, offset);
    if (lane >= offset) before += below;
  }
  if (lane == 31) of_warp[warp] = before;
  before -= sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += of_warp[w];
#pragma unroll
  for (int d = 0; d < each; ++d) {
    int at = before + earlier[d];
#pragma unroll
    for (int w = 0; w < embedding_warps; ++w) {
      const int own = next[w][thread * each + d];
      next[w][thread * each + d] = at;
      at += own;
    }
    before += all[d];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    const bool inside = first + r * 32 < count;
    const int digit = digit_of<digits>(place[r], shift), rank = __popc(same[r] & ((1U << lane) - 1U));
    Index at = 0;
    if (inside) at = next[warp][digit] + rank;
    __syncwarp();
    if (inside && rank == 0) next[warp][digit] += __popc(same[r]);
    __syncwarp();
    if (inside) to[at] = place[r];
  }
}

/// Sorted places [begin, end) of an id.
struct Run {
  std::int32_t begin, end;
};

/// A run longer than this is summed in chunks of so many rows.
inline constexpr int run_chunk = 32;

/// runs[id], for the ids that occur; the ids with long runs are listed, in any order. long_count begins as 0.
template <typename Place>
__global__ void __launch_bounds__(embedding_threads)
    find_runs(Index count, Index vocab, const Place* places, Run* runs, std::int32_t* long_ids,
              std::int32_t* long_count) {
  const Index i = Index{blockIdx.x} * embedding_threads + threadIdx.x;
  if (i >= count) return;
  const auto id = places[i] >> 32;
  if (i == 0 || places[i - 1] >> 32 != id) {
    runs[id].begin = static_cast<std::int32_t>(i);
    if (i + run_chunk < count && places[i + run_chunk] >> 32 == id && static_cast<Index>(id) < vocab)
      long_ids[atomicAdd(long_count, 1)] = static_cast<std::int32_t>(id);
  }
  if (i + 1 == count || places[i + 1] >> 32 != id) runs[id].end = static_cast<std::int32_t>(i + 1);
}

// --- The sums --------------------------------------------------------------------------------------------

/// Every 32 sorted places a chunk begins in at most two runs: one that began before (slot 2 w), and one that
/// begins here (slot 2 w + 1).
__device__ __forceinline__ Index chunk_slot(Run run, Index begin) {
  return begin / run_chunk * 2 + (begin == run.begin ? 1 : 0);
}

/// The first sorted place of slot's chunk, or -1 if there is none; `run` becomes its run.
__device__ __forceinline__ Index chunk_of(Index slot, Index count, const Place* places, const Run* runs,
                                          Run& run) {
  const Index window = slot / 2 * run_chunk, last = min(count, window + run_chunk) - 1;
  const bool begins = slot % 2 != 0;
  run = runs[places[begins ? last : window] >> 32];
  if (run.end - run.begin <= run_chunk) return -1;
  if (begins) return run.begin >= window ? run.begin : -1;
  const Index chunk = run.begin + ceil_div(window - run.begin, run_chunk) * run_chunk;
  return run.begin < window && chunk < min(Index{run.end}, window + run_chunk) ? chunk : -1;
}

/// sum += rows [begin, end) of the sorted dy in their order, P packs of N columns a lane, beginning at
/// `column`.
template <int N, int P, typename T>
__device__ __forceinline__ void add_run(Index begin, Index end, const Place* places, const T* dy, Index width,
                                        Index column, Numbers<acc_t<T>, N> (&sum)[P]) {
  constexpr int at_once = 4 / P;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (Index i = begin; i < end; i += 32) {
    const int n = static_cast<int>(min(Index{32}, end - i));
    const auto position = lane < n ? static_cast<std::uint32_t>(places[i + lane]) : 0U;
    for (int r = 0; r < n; r += at_once) {
      Numbers<T, N> part[at_once][P] = {};
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const T* row = dy + Index{__shfl_sync(whole_warp, position, r + u)} * width;  // [width]
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const Index c = column + p * (32 * N);
          if (r + u < n && c < width) part[u][p] = load_numbers<N>(row + c);
        }
      }
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
#pragma unroll
        for (int p = 0; p < P; ++p) {
#pragma unroll
          for (int j = 0; j < N; ++j) sum[p].value[j] += widen(part[u][p].value[j]);
        }
      }
    }
  }
}

/// to (+)= sum
template <int N, typename A>
__device__ __forceinline__ void put_numbers(A* to, Numbers<A, N> sum, bool accumulate) {
  if (accumulate) {
    const Numbers<A, N> old = load_numbers<N>(to);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.value[j] += old.value[j];
  }
  store_numbers<N>(to, sum);
}

/// The gradient of every id whose run is not longer than `longest`, no run at all included: its rows are
/// added one by one to what stands there. A warp per id and 32 N P columns.
template <typename T, int N, int P>
__global__ void __launch_bounds__(embedding_threads, 4)
    sum_short_runs(Index vocab, Index width, Index longest, const Run* runs, const Place* places, const T* dy,
                   Sink<acc_t<T>> dtable) {
  const Index id = Index{blockIdx.x} * embedding_warps + threadIdx.x / 32;
  if (id >= vocab) return;
  const Run run = runs[id];
  const int length = run.end - run.begin;
  if (length > longest || (length == 0 && dtable.accumulate)) return;
  const Index column = (Index{blockIdx.y} * (32 * P) + threadIdx.x % 32) * N;
  acc_t<T>* const to = dtable.data + id * width;  // [width]
  Numbers<acc_t<T>, N> sum[P] = {};
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const Index c = column + p * (32 * N);
    if (dtable.accumulate && c < width) sum[p] = load_numbers<N>(to + c);
  }
  add_run<N, P>(run.begin, run.end, places, dy, width, column, sum);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const Index c = column + p * (32 * N);
    if (c < width) store_numbers<N>(to + c, sum[p]);
  }
}

/// partial[slot] = the sum of one chunk of a long run. A warp per slot and 32 N columns.
template <typename T, int N>
__global__ void __launch_bounds__(embedding_threads, 4)
    sum_chunks(Index slots, Index count, Index width, const Run* runs, const Place* places, const T* dy,
               acc_t<T>* partial) {
  const Index slot = Index{blockIdx.x} * embedding_warps + threadIdx.x / 32;
  if (slot >= slots) return;
  Run run;
  const Index begin = chunk_of(slot, count, places, runs, run);
  if (begin < 0) return;
  const Index column = (Index{blockIdx.y} * 32 + threadIdx.x % 32) * N;
  Numbers<acc_t<T>, N> sum[1] = {};
  add_run<N, 1>(begin, min(Index{run.end}, begin + run_chunk), places, dy, width, column, sum);
  if (column < width) store_numbers<N>(partial + slot * width + column, sum[0]);
}

inline constexpr int long_warps = 32;

/// The gradients of the ids whose runs are long, from their chunks. A block per id and 32 N columns at a
/// time: its warps sum a part of the chunks each.
template <typename A, int N>
__global__ void __launch_bounds__(long_warps * 32)
    sum_long_runs(Index width, const std::int32_t* long_ids, const std::int32_t* long_count, const Run* runs,
                  const A* partial, Sink<A> dtable) {
  __shared__ Numbers<A, N> of_warp[long_warps][32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Index column = (Index{blockIdx.y} * 32 + lane) * N;
  for (int i = static_cast<int>(blockIdx.x); i < *long_count; i += static_cast<int>(gridDim.x)) {
    const Index id = long_ids[i];
    const Run run = runs[id];
    const Index chunks = ceil_div(run.end - run.begin, run_chunk), share = ceil_div(chunks, long_warps);
    Numbers<A, N> sum = {};
    if (column < width) {
#pragma unroll 4
      for (Index c = warp * share; c < min(chunks, (warp + 1) * share); ++c) {
        const Index slot = chunk_slot(run, run.begin + c * run_chunk);
        const Numbers<A, N> part = load_numbers<N>(partial + slot * width + column);
#pragma unroll
        for (int j = 0; j < N; ++j) sum.value[j] += part.value[j];
      }
    }
    of_warp[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
      for (int w = 1; w < long_warps; ++w) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum.value[j] += of_warp[w][lane].value[j];
      }
      put_numbers(dtable.data + id * width + column, sum, dtable.accumulate);
    }
    __syncthreads();
  }
}

/// `count` places sorted by id in one of the two buffers, which is returned.
inline const Place* sort_places(const Cuda& device, Index count, const IdList& ids, Place* a, Place* b) {
  constexpr int digits = 1 << digit_bits;
  const bool many = count > 65536;  // then larger tiles: each reads the counts of all
  const Index tile = embedding_threads * (many ? 8 : 4), tiles = ceil_div(count, tile);
  const Workspace<std::int32_t> counts(device, tiles * digits);  // [tiles, digits]
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(ids.vocab)));
  const auto queue = [&](auto kernel, auto... arguments) {
    launch(device, "embedding_backward", kernel, static_cast<unsigned>(tiles), embedding_threads, 0, count,
           arguments...);
  };
  PlaceList list{ids, nullptr};
  for (int shift = 0; shift < bits; shift += digit_bits) {
    queue(count_digits<digits>, tile, shift, list, counts.data());
    queue(many ? place_digits<digits, 8> : place_digits<digits, 4>, shift, list, counts.data(), a);
    list.places = a;
    std::swap(a, b);
  }
  return list.places;
}

}  // namespace cuda

/// y[i] = table[id[i]]; zeros for an id outside the vocabulary, which only the host can report.
/// ids: [B, T] strided   table: [V, D]   y: [B * T, D] dense
template <typename T>
void embedding_forward(const Cuda& device, const char* op, Rows ids, const std::int32_t* id, Rows table_rows,
                       const T* table, T* y) {
  const Index count = ids.count * ids.width, width = table_rows.width;
  const cuda::IdList list{id, ids.width, ids.stride, table_rows.count};
  const auto run = [&](auto kernel) {
    cuda::launch(device, op, kernel, static_cast<unsigned>(cuda::ceil_div(count, cuda::embedding_warps)),
                 cuda::embedding_threads, 0, count, list, width, table_rows.stride, table, y);
  };
  if (cuda::can_be_wide<T>(width, table_rows.stride, table, y)) {
    run(cuda::embed_rows<T, cuda::wide<T>, 4>);
  } else {
    run(cuda::embed_rows<T, 1, 4>);
  }
}

/// dtable[v] (+)= sum of dy[i] over the i with id[i] = v; ids outside the vocabulary count for nothing.
/// ids: [B, T] strided   dy: [B * T, D] dense   dtable: [V, D]
template <typename T>
void embedding_backward(const Cuda& device, const char* op, Rows ids, const std::int32_t* id, Index vocab,
                        Index width, const T* dy, Sink<acc_t<T>> dtable) {
  if (!dtable || vocab * width == 0) return;
  using A = acc_t<T>;
  using cuda::ceil_div;
  const Index count = ids.count * ids.width, windows = ceil_div(count, cuda::run_chunk);
  const cuda::Workspace<cuda::Place> a(device, count), b(device, count);
  const cuda::Workspace<cuda::Run> run_space(device,
                                             vocab + 2);  // [vocab], outside of it, and the list's length
  const cuda::Workspace<std::int32_t> long_ids(device, count / cuda::run_chunk);
  cuda::Run* const runs = run_space.data();
  std::int32_t* const long_count = &runs[vocab + 1].begin;
  const cuda::Place* const places =
      cuda::sort_places(device, count, {id, ids.width, ids.stride, vocab}, a.data(), b.data());
  set_zero(device, runs, static_cast<std::size_t>(vocab + 2) * sizeof(cuda::Run));
  cuda::launch(device, op, cuda::find_runs<cuda::Place>,
               static_cast<unsigned>(ceil_div(count, cuda::embedding_threads)), cuda::embedding_threads, 0,
               count, vocab, places, runs, long_ids.data(), long_count);
  const Index longest = cuda::in_order<T> ? count : cuda::run_chunk;
  const auto sum = [&]<int N>() {
    const auto blocks = [](Index tasks) {
      return static_cast<unsigned>(ceil_div(tasks, cuda::embedding_warps));
    };
    const auto columns = [&](Index at_once) {
      return static_cast<unsigned>(ceil_div(width, 32 * N * at_once));
    };
    cuda::launch(device, op, cuda::sum_short_runs<T, N, 2>, dim3(blocks(vocab), columns(2)),
                 cuda::embedding_threads, 0, vocab, width, longest, runs, places, dy, dtable);
    if (count <= longest) return;
    const cuda::Workspace<A> partial(device, 2 * windows * width);  // [slots, width]
    cuda::launch(device, op, cuda::sum_chunks<T, N>, dim3(blocks(2 * windows), columns(1)),
                 cuda::embedding_threads, 0, 2 * windows, count, width, runs, places, dy, partial.data());
    cuda::launch(device, op, cuda::sum_long_runs<A, N>,
                 dim3(cuda::grid_for(device, count / cuda::run_chunk, 1, 2), columns(1)),
                 cuda::long_warps * 32, 0, width, long_ids.data(), long_count, runs, partial.data(), dtable);
  };
  if (cuda::can_be_wide<T>(width, width, dy, dtable.data)) {
    sum.template operator()<cuda::wide<T>>();
  } else {
    sum.template operator()<1>();
  }
}

}  // namespace mtpx
