#pragma once
// Tokens found on the device, by a race or by a draw, from the distribution of kernels/sampling.hpp:
// softmax(logits / temperature), cut to the top_k, then to the top_p of what is left. So a sampled token
// leaves as greedy ones do, and nobody waits for a row of logits. All sums are in double and in a fixed
// order: a row's token depends on its logits and its Draw alone.
//
// Neither cut sorts. The order is that of whole-number keys of the logits, and what is sought is the largest
// key t such that the keys from t on are top_k many, or have top_p of the weight: four bits of it at a time.

#include "../sampling.hpp"
#include "core/top_indices.cuh"

namespace mtpx {

namespace cuda {

// --- Logits of some tokens -----------------------------------------------------------------------------

inline constexpr int spread_threads = 256;
inline constexpr Index spread_columns = 4096;  // that a block writes

/// A block a part of a row.
template <typename A>
__global__ void __launch_bounds__(spread_threads)
    spread_block(Index width, Index stride, const A* logits, const std::int32_t* tokens, Index vocab, A* y) {
  const Index begin = blockIdx.x * spread_columns, end = min(vocab, begin + spread_columns);
  const A* const from = logits + blockIdx.y * stride;  // [width]
  A* const to = y + blockIdx.y * vocab;                // [vocab]
  for (Index c = begin + threadIdx.x; c < end; c += spread_threads)
    to[c] = -std::numeric_limits<A>::infinity();
  Index first = 0;  // of this part's tokens
  for (Index last = width; first < last;) {
    const Index middle = first + (last - first) / 2;
    if (tokens[middle] < begin) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  __syncthreads();
  for (Index j = first + threadIdx.x; j < width && tokens[j] < end; j += spread_threads)
    to[tokens[j]] = from[j];
}

// --- The most likely one -------------------------------------------------------------------------------

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

/// The best of the candidates of argmax_threads threads, in the first warp's lanes.
template <typename A>
__device__ __forceinline__ void best_of_block(A& best, std::int32_t& at) {
  __shared__ A values[argmax_threads / 32];
  __shared__ std::int32_t places[argmax_threads / 32];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
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
}

/// A block a row.
template <typename A, int N>
__global__ void __launch_bounds__(argmax_threads)
    argmax_block(std::int32_t width, Index stride, const A* logits, std::int32_t* ids) {
  const A* const row = logits + blockIdx.x * stride;  // [width]
  const int thread = static_cast<int>(threadIdx.x);
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
  best_of_block(best, at);
  if (thread == 0) ids[blockIdx.x] = token_or_not(at, best);
}

// --- By chance --------------------------------------------------------------------------------------------

inline constexpr int draw_threads = 1024;
inline constexpr int draw_warps = draw_threads / 32;

/// What a block that works on one row shares.
struct DrawShared {
  double sums[draw_warps][16];
  double totals[16];
  unsigned long long best;  // of keys
  int place;
};

/// shared.totals[d] = the sum over the block of sums[d], for d < n, to be read until the next such sum.
template <int n>
__device__ void add_over_block(DrawShared& shared, double (&sums)[n]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int d = 0; d < n; ++d) {
    sums[d] = warp_sum(sums[d]);
    if (lane == 0) shared.sums[warp][d] = sums[d];
  }
  __syncthreads();
  if (threadIdx.x < n) {
    double total = 0;
    for (int w = 0; w < draw_warps; ++w) total += shared.sums[w][threadIdx.x];
    shared.totals[threadIdx.x] = total;
  }
  __syncthreads();
}

/// The id at which the sum of weight(0), weight(1), .., weight(width - 1), in this order, passes u times all
/// of it; -1 where no weight is. Each warp of a block adds a part of them; the warp whose part it is walks
/// through it.
template <typename Weight>
__device__ int draw_of_block(DrawShared& shared, Index width, const Weight& weight, double u) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Index share = ceil_div(ceil_div(width, 32), draw_warps) * 32;
  const Index begin = min(width, warp * share), end = min(width, begin + share);
  double part = 0;
  for (Index i = begin + lane; i < end; i += 32) part += weight(i);
  part = warp_sum(part);
  if (lane == 0) shared.sums[warp][0] = part;
  if (threadIdx.x == 0) shared.place = -1;
  __syncthreads();
  double all = 0, before = 0;
  int chosen = -1;  // the first warp that passes the mark, or the last with any weight
  for (int w = 0; w < draw_warps; ++w) all += shared.sums[w][0];
  double sum = 0;
  for (int w = 0; w < draw_warps; ++w) {
    if (shared.sums[w][0] <= 0) continue;
    chosen = w;
    before = sum;
    sum += shared.sums[w][0];
    if (u * all < sum) break;
  }
  if (warp == chosen) {
    int last = -1;
    for (Index first = begin; first < end; first += 32) {
      const Index i = first + lane;
      const double mine = i < end ? weight(i) : 0.0;
      double up_to = mine;  // of this group, this lane's included
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const double below = __shfl_up_sync(whole_warp, up_to, offset);
        if (lane >= offset) up_to += below;
      }
      const unsigned there = __ballot_sync(whole_warp, mine > 0);
      const unsigned past = __ballot_sync(whole_warp, mine > 0 && u * all < before + up_to);
      if (there != 0) last = static_cast<int>(first) + 31 - __clz(static_cast<int>(there));
      if (past != 0) {
        last = static_cast<int>(first) + __ffs(static_cast<int>(past)) - 1;
        break;
      }
      before += __shfl_sync(whole_warp, up_to, 31);
    }
    if (lane == 0) shared.place = last;
  }
  __syncthreads();
  return shared.place;
}

/// One row: logits [V], and weights [V], 0 for what was cut. A block works on it.
template <typename A>
struct DrawRow {
  using Key = OrderKey<A>;
  Index width;
  const A* logits;
  double* weights;

  /// f(i, key, weight) for every i of this thread.
  template <typename F>
  __device__ void each(const F& f) const {
#pragma unroll 4
    for (Index i = threadIdx.x; i < width; i += draw_threads) f(i, order_key(logits[i]), weights[i]);
  }

  /// Keeps, of what has weight, as many of the likeliest as measure `target` together, or one more where that
  /// is not met exactly; equally likely ones from the lowest id. measure(w) of one: 1, or its weight.
  template <typename Measure>
  __device__ void cut(DrawShared& shared, double target, const Measure& measure) const {
    Key found = 0;
    double above = 0;   // the measure of all keys beyond those that begin as `found` does
    double of_key = 0;  // that of the keys that are `found`, in the end
    for (int shift = 8 * static_cast<int>(sizeof(Key)) - 4; shift >= 0; shift -= 4) {
      double sums[16] = {};
      each([&](Index, Key key, double weight) {
        // Shifted twice: a shift by all bits is not defined.
        if (weight <= 0 || key >> shift >> 4 != found >> shift >> 4) return;
        const int digit = static_cast<int>(key >> shift) & 15;
#pragma unroll
        for (int d = 0; d < 16; ++d) sums[d] += digit == d ? measure(weight) : 0.0;
      });
      add_over_block(shared, sums);
      int digit = 0;
      double beyond = above;
      for (int d = 15; d >= 0; --d) {
        if (shared.totals[d] <= 0) continue;
        digit = d;  // the last that is there, should roundings keep the sums below the target
        above = beyond;
        beyond += shared.totals[d];
        if (beyond >= target) break;
      }
      of_key = shared.totals[digit];
      found |= static_cast<Key>(digit) << shift;
    }
    // How many of the equal ones, and up to which id.
    double equals[1] = {};
    each([&](Index, Key key, double weight) { equals[0] += key == found && weight > 0 ? 1.0 : 0.0; });
    add_over_block(shared, equals);
    const double count = shared.totals[0];
    const double keep = max(1.0, min(count, ceil((target - above) / (of_key / count))));
    Index last = width;  // the first id that is not kept any more
    if (keep < count) {
      Index low = 0;
      while (low + 1 < last) {  // fewer than `keep` stand before low, at least as many before last
        const Index middle = low + (last - low) / 2;
        double before[1] = {};
        each([&](Index i, Key key, double weight) {
          before[0] += key == found && weight > 0 && i < middle ? 1.0 : 0.0;
        });
        add_over_block(shared, before);
        if (shared.totals[0] >= keep) {
          last = middle;
        } else {
          low = middle;
        }
      }
    }
    each([&](Index i, Key key, double) {
      if (key < found || (key == found && i >= last)) weights[i] = 0;
    });
    __syncthreads();
  }

  /// The largest logit.
  __device__ double top(DrawShared& shared) const {
    __syncthreads();
    if (threadIdx.x == 0) shared.best = 0;
    __syncthreads();
    Key best = 0;
    for (Index i = threadIdx.x; i < width; i += draw_threads) best = max(best, order_key(logits[i]));
    best = largest_key(best);
    if (threadIdx.x % 32 == 0) atomicMax(&shared.best, static_cast<unsigned long long>(best));
    __syncthreads();
    return number_of(static_cast<Key>(shared.best));
  }

  /// The weights of all tokens, and nothing for those that were cut.
  __device__ void weigh(DrawShared& shared, const SamplingOptions& s) const {
    const double top = this->top(shared);
    for (Index i = threadIdx.x; i < width; i += draw_threads) {
      const double z = widen(logits[i]);
      weights[i] = z == top ? 1.0 : z == z ? exact::exp((z - top) / s.temperature) : 0.0;
    }
    __syncthreads();
    const Index top_k = s.greedy() ? 1 : s.top_k;
    if (top_k > 0 && top_k < width) cut(shared, static_cast<double>(top_k), [](double) { return 1.0; });
    if (s.top_p < 1) cut(shared, s.top_p * total(shared), [](double weight) { return weight; });
  }

  /// The sum of all weights.
  __device__ double total(DrawShared& shared) const {
    double sums[1] = {};
    each([&](Index, Key, double weight) { sums[0] += weight; });
    add_over_block(shared, sums);
    return shared.totals[0];
  }
};

/// A block a row.   weights: [rows, width], scratch where no distribution is kept
template <typename A>
__global__ void __launch_bounds__(draw_threads)
    draw_block(Index width, Index stride, const A* logits, const Draw* draws, double* weights,
               const Kept kept, std::int32_t* ids) {
  __shared__ DrawShared shared;
  const SamplingOptions s = draws[blockIdx.x].sampling;
  const bool keep = kept.table != nullptr;
  const DrawRow<A> row{width, logits + blockIdx.x * stride,
                       keep ? kept.table + kept.rows[blockIdx.x] * width : weights + blockIdx.x * width};
  row.weigh(shared, s);
  const auto weight = [&](Index i) { return row.weights[i]; };
  const int id = max(0, draw_of_block(shared, width, weight, draws[blockIdx.x].number));
  const std::int32_t token = token_or_not(id, row.logits[id]);
  if (threadIdx.x == 0) ids[blockIdx.x] = token;
  if (!keep) return;
  const double total = row.total(shared);
  for (Index i = threadIdx.x; i < width; i += draw_threads)
    row.weights[i] = token < 0 ? std::numeric_limits<double>::quiet_NaN() : row.weights[i] / total;
}

/// A block a row; a thread takes the four tokens that share a block of random words. Each further token of
/// the list is the best of those that the one before it beats.   weights: [rows, width], scratch of rows with
/// cuts
template <typename A>
__global__ void __launch_bounds__(argmax_threads)
    race_block(Index width, Index stride, const A* logits, const Draw* draws, double* weights, int count,
               std::int32_t* ids) {
  static_assert(argmax_threads == draw_threads);
  __shared__ DrawShared shared;
  __shared__ double last_score;
  __shared__ std::int32_t last;
  const Draw draw = draws[blockIdx.x];
  const SamplingOptions& s = draw.sampling;
  const DrawRow<A> row{width, logits + blockIdx.x * stride, weights + blockIdx.x * width};
  const bool races = !s.greedy(), cut = races && s.cuts(width);
  if (cut) row.weigh(shared, s);
  double top = 0;  // the largest logit, for lists
  if (count > 1) top = row.top(shared);
  const Index all = ceil_div(width, Noise::group) * Noise::blocks;
#pragma unroll 1
  for (int n = 0; n < count; ++n) {
    double best = std::numeric_limits<double>::quiet_NaN();  // which every number beats
    std::int32_t at = static_cast<std::int32_t>(width);
    for (Index b = threadIdx.x; b < all; b += argmax_threads) {
      const Index group = b / Noise::blocks, i = b % Noise::blocks;
      std::uint32_t words[4] = {};
      if (races) {
        const auto block = Philox::block(draw.noise.seed, Noise::high, draw.noise.counter(group, i));
        for (int j = 0; j < 4; ++j) words[j] = block[j];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Index id = group * Noise::group + j * Noise::blocks + i;
        if (id >= width || (cut && row.weights[id] <= 0)) continue;
        const double z = widen(row.logits[id]);
        if (races && z / s.temperature + exact::noise_bound<float>(words[j]) < best) continue;  // cannot win
        if (n > 0 && (id == last || !may_race(z, top, s))) continue;
        const double score = race_score(z, s, draw.noise, id);
        if (n > 0 && !beats(last_score, last, score, static_cast<std::int32_t>(id))) continue;
        if (beats(score, static_cast<std::int32_t>(id), best, at)) {
          best = score;
          at = static_cast<std::int32_t>(id);
        }
      }
    }
    best_of_block(best, at);
    if (threadIdx.x == 0) {
      const std::int32_t id = at < width ? at : 0;
      last_score = best;
      last = at;
      ids[blockIdx.x * static_cast<Index>(count) + n] = n == 0       ? token_or_not(id, row.logits[id])
                                                        : at < width ? at
                                                                     : no_token;
    }
    __syncthreads();
    if (last >= width) {  // none is left
      for (int m = n + 1 + static_cast<int>(threadIdx.x); m < count; m += argmax_threads)
        ids[blockIdx.x * static_cast<Index>(count) + m] = no_token;
      return;
    }
  }
}

}  // namespace cuda

/// y[r, tokens[j]] = logits[r, j], and minus infinity everywhere else: a row in which only some tokens have a
/// chance.   logits: [rows, width]   tokens: [width], ascending   y: [rows, vocab] dense
template <typename A>
void spread_logits(const Cuda& device, Rows rows, const A* logits, const std::int32_t* tokens, Index vocab,
                   A* y) {
  const dim3 grid(static_cast<unsigned>(cuda::ceil_div(vocab, cuda::spread_columns)),
                  static_cast<unsigned>(rows.count));
  cuda::launch(device, "spread_logits", cuda::spread_block<A>, grid, dim3(cuda::spread_threads), 0,
               rows.width, rows.stride, logits, tokens, vocab, y);
}

/// ids[r] = the place of the largest of logits [rows, width], the lowest among equals. NaN never wins. Here
/// and below as token_or_not() gives it.
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

/// ids[r] = the `best` tokens of row r that win the race of draws[r], in their order: of the largest logit /
/// temperature and noise together, among those that top_k and top_p leave; no_token behind them
/// (../sampling.hpp). Temperature 0: the likeliest.   logits: [rows, width]   draws: [rows]   ids: [rows,
/// best]
template <typename A>
void race_rows(const Cuda& device, Rows rows, const A* logits, const Draw* draws, Index best,
               std::int32_t* ids) {
  const cuda::Workspace<double> weights(device, rows.count * rows.width);
  cuda::launch(device, "race", cuda::race_block<A>, static_cast<unsigned>(rows.count), cuda::argmax_threads,
               0, rows.width, rows.stride, logits, draws, weights.data(), static_cast<int>(best), ids);
}

/// ids[r] = a token drawn from softmax(logits / temperature) of row r, cut to the top_k, then to the top_p of
/// what is left, as draws[r] says: that at which the cumulated probabilities pass its number. Temperature 0:
/// the likeliest. The distributions can be kept, NaN where no token can be chosen.   logits: [rows, width]
/// draws, ids: [rows]
template <typename A>
void draw_rows(const Cuda& device, Rows rows, const A* logits, const Draw* draws, std::int32_t* ids,
               const Kept& kept) {
  const cuda::Workspace<double> weights(device, kept.table != nullptr ? 0 : rows.count * rows.width);
  cuda::launch(device, "draw", cuda::draw_block<A>, static_cast<unsigned>(rows.count), cuda::draw_threads, 0,
               rows.width, rows.stride, logits, draws, weights.data(), kept, ids);
}

}  // namespace mtpx
