#pragma once
// Twins of cpu/router.hpp. A warp handles a token: lane l holds the experts l, l + 32, ..., in registers
// where there are at most 256 of them.

#include "core/top_indices.cuh"
#include "elementwise.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int route_threads = balance_threads;
inline constexpr int route_warps = route_threads / 32;

/// The two largest numbers met; NaN is not looked at.
template <typename A>
struct TwoBest {
  A first = -INFINITY, second = -INFINITY;

  __device__ __forceinline__ void meet(A value) {
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  /// Those of all lanes.
  __device__ __forceinline__ void share() {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(whole_warp, first, offset);
      second = max(min(first, other), max(second, __shfl_xor_sync(whole_warp, second, offset)));
      first = max(first, other);
    }
  }
};

/// group[g] = the sum of the two largest pick(e) of a group, or the largest. Small groups have a lane each,
/// others the warp.
template <typename A, typename Pick>
__device__ __forceinline__ void score_groups(int groups, int size, bool adds_two, const Pick& pick,
                                             A* group) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto score = [&](const TwoBest<A>& best) { return adds_two ? best.first + best.second : best.first; };
  if (size <= 8) {
    for (int g = lane; g < groups; g += 32) {
      TwoBest<A> best;
      for (int i = g * size; i < (g + 1) * size; ++i) best.meet(pick(i));
      group[g] = score(best);
    }
    return;
  }
  for (int g = 0; g < groups; ++g) {
    TwoBest<A> best;
    for (int i = g * size + lane; i < (g + 1) * size; i += 32) best.meet(pick(i));
    best.share();
    if (lane == 0) group[g] = score(best);
  }
}

/// shared: [warps, n_group] scores, then [warps, n_group] bytes, where groups are limited. keys: [warps of
/// the grid, E] for J = 0.
template <typename A, int J>
__global__ void __launch_bounds__(route_threads)
    route_tokens(Index tokens, const Routing r, const A* scores, const A* bias, OrderKey<A>* keys,
                 std::int32_t* ids, A* weights) {
  extern __shared__ double route_shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int experts = static_cast<int>(r.n_experts), groups = static_cast<int>(r.n_group);
  const int group_size = experts / groups, top_k = static_cast<int>(r.top_k);
  const bool limited = r.topk_group < r.n_group;
  A* const group = reinterpret_cast<A*>(route_shared) + warp * groups;  // [groups]
  auto* const out =
      reinterpret_cast<unsigned char*>(reinterpret_cast<A*>(route_shared) + route_warps * groups) +
      warp * groups;  // [groups]
  const Index first = Index{blockIdx.x} * route_warps + warp;
  for (Index t = first; t < tokens; t += Index{gridDim.x} * route_warps) {
    const A* s = scores + t * experts;  // [E]
    const auto pick = [&](int e) { return bias != nullptr ? s[e] + bias[e] : s[e]; };
    if (limited) {
      score_groups(groups, group_size, r.adds_two(group_size), pick, group);
      for (int g = lane; g < groups; g += 32) out[g] = 1;
      for (int k = 0; k < static_cast<int>(r.topk_group); ++k) {
        __syncwarp();
        OrderKey<A> best = 0;
        int at = groups;
        for (int g = lane; g < groups; g += 32) {
          const OrderKey<A> key = out[g] != 0 ? order_key(group[g]) : 0;
          if (key > best) {
            best = key;
            at = g;
          }
        }
        const int winner = smallest_index(best == largest_key(best) ? at : groups);
        if (winner < groups && winner % 32 == lane) out[winner] = 0;
      }
      __syncwarp();
    }
    Race<A, J> race(experts, J > 0 ? nullptr : keys + first * experts);
    race.start(
        [&](int e) -> OrderKey<A> { return limited && out[e / group_size] != 0 ? 0 : order_key(pick(e)); });
    A total(0);
    std::int32_t* const id = ids + t * top_k;  // [K]
    A* const w = weights + t * top_k;          // [K]
    for (int begin = 0; begin < top_k; begin += 32) {
      const int count = min(32, top_k - begin);
      int mine = 0;
      for (int k = 0; k < count; ++k) {
        const int winner = race.next();
        if (k == lane) mine = winner;
      }
      const A score = lane < count ? s[mine] : A(0);
      if (lane < count) {
        id[begin + lane] = mine;
        w[begin + lane] = score;
      }
      for (int k = 0; k < count; ++k) total += __shfl_sync(whole_warp, score, k);
    }
    const A factor = static_cast<A>(r.scaling_factor) / (r.norm_topk_prob ? total + A(1e-20) : A(1));
    for (int k = lane; k < top_k; k += 32) w[k] *= factor;  // each lane its own
  }
}

template <typename A>
__global__ void __launch_bounds__(route_threads)
    route_tokens_backward(Index tokens, const Routing r, const A* scores, const std::int32_t* ids,
                          const A* weights, const A* dweights, Sink<A> dscores) {
  const Index t = Index{blockIdx.x} * route_warps + threadIdx.x / 32;
  if (t >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, top_k = static_cast<int>(r.top_k);
  const A* s = scores + t * r.n_experts;     // [E]
  A* ds = dscores.data + t * r.n_experts;    // [E]
  const std::int32_t* id = ids + t * top_k;  // [K]
  A total(0), dot(0);
  for (int begin = 0; begin < top_k; begin += 32) {
    const int count = min(32, top_k - begin);
    const Index at = t * top_k + begin + lane;
    const A score = lane < count ? s[ids[at]] : A(0);
    const A dw = lane < count ? dweights[at] : A(0), w = lane < count ? weights[at] : A(0);
    for (int k = 0; k < count; ++k) {
      total += __shfl_sync(whole_warp, score, k);
      dot = exact::fma(__shfl_sync(whole_warp, dw, k), __shfl_sync(whole_warp, w, k), dot);
    }
  }
  if (!dscores.accumulate) {
    for (Index e = lane; e < r.n_experts; e += 32) ds[e] = A(0);
    __syncwarp();
  }
  for (int k = lane; k < top_k; k += 32) {
    const A dw = exact::product(static_cast<A>(r.scaling_factor), dweights[t * top_k + k]);
    ds[id[k]] += r.norm_topk_prob ? (dw - dot) / (total + A(1e-20)) : dw;
  }
}

// --- Balance ---------------------------------------------------------------------------------------------

/// p[chunk] = sum over a chunk of a sequence's tokens of s / sum(s), n[chunk] = how often each expert was
/// among the K largest. A block per chunk.   p, n: [B, chunks, E]   keys: the same, for J = 0
template <typename A, int J>
__global__ void __launch_bounds__((J > 0 ? 8 : 1) * 32)
    balance_chunks(Index chunks, Index time, int experts, int top_k, const A* scores, OrderKey<A>* keys, A* p,
                   std::int32_t* n) {
  constexpr int warps = J > 0 ? 8 : 1;  // one where the numbers of an expert do not fit into registers
  const Index chunk = blockIdx.x, b = chunk / chunks;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Index begin = (chunk % chunks * warps + warp) * balance_tokens;
  const Index end = min(time, begin + balance_tokens);
  A* const p_out = p + chunk * experts;             // [E]
  std::int32_t* const n_out = n + chunk * experts;  // [E]
  Race<A, J> race(experts, J > 0 ? nullptr : keys + chunk * experts);
  A share[J > 0 ? J : 1] = {};
  int often[J > 0 ? J : 1] = {};
  if constexpr (J == 0) {
    race.each([&](int, int e) {
      p_out[e] = A(0);
      n_out[e] = 0;
    });
  }
  for (Index t = begin; t < end; ++t) {
    const A* s = scores + (b * time + t) * experts;  // [E]
    A total(0);
    race.each([&](int, int e) { total += s[e]; });
    total = warp_sum(total);
    race.start([&](int e) { return order_key(s[e]); });
    race.each([&](int j, int e) {
      if constexpr (J > 0) {
        share[j] += s[e] / total;
      } else {
        p_out[e] += s[e] / total;
      }
    });
    for (int k = 0; k < top_k; ++k) {
      const int winner = race.next();
      if constexpr (J > 0) {
#pragma unroll
        for (int j = 0; j < J; ++j) often[j] += winner == j * 32 + race.lane ? 1 : 0;
      } else if (winner % 32 == race.lane) {
        ++n_out[winner];
      }
    }
  }
  if constexpr (J > 0) {
    __shared__ A shares[warps][J * 32];
    __shared__ int counts[warps][J * 32];
#pragma unroll
    for (int j = 0; j < J; ++j) {
      shares[warp][j * 32 + race.lane] = share[j];
      counts[warp][j * 32 + race.lane] = often[j];
    }
    __syncthreads();
    if (const int e = static_cast<int>(threadIdx.x); e < experts) {
      A sum = shares[0][e];
      int all = counts[0][e];
#pragma unroll
      for (int w = 1; w < warps; ++w) {
        sum += shares[w][e];
        all += counts[w][e];
      }
      p_out[e] = sum;
      n_out[e] = all;
    }
  }
}

/// f = E / (K T) n, fp = f P for every sequence and expert; balance_parts threads each.   f, fp: [B, E]
template <typename A>
__global__ void __launch_bounds__(route_threads)
    balance_sequences(Index chunks, Index experts, A n_factor, A p_factor, const A* p, const std::int32_t* n,
                      A* f, A* fp) {
  __shared__ A p_shared[balance_parts][32];
  __shared__ int n_shared[balance_parts][32];
  const Index b = blockIdx.x, e = Index{blockIdx.y} * 32 + threadIdx.x;
  A share(0);
  int often = 0;
  if (e < experts) {
#pragma unroll 4
    for (Index c = threadIdx.y; c < chunks; c += balance_parts) {
      share += p[(b * chunks + c) * experts + e];
      often += n[(b * chunks + c) * experts + e];
    }
  }
  p_shared[threadIdx.y][threadIdx.x] = share;
  n_shared[threadIdx.y][threadIdx.x] = often;
  __syncthreads();
  if (threadIdx.y != 0 || e >= experts) return;
#pragma unroll
  for (int i = 1; i < balance_parts; ++i) {
    share += p_shared[i][threadIdx.x];
    often += n_shared[i][threadIdx.x];
  }
  const A fraction = static_cast<A>(often) * n_factor;
  f[b * experts + e] = fraction;
  fp[b * experts + e] = fraction * (share * p_factor);
}

/// out = factor * sum(x). One block.
template <typename A>
__global__ void __launch_bounds__(route_threads) scaled_sum(Index count, A factor, const A* x, A* out) {
  __shared__ A shared[route_warps];
  A sum(0);
#pragma unroll 4
  for (Index i = threadIdx.x; i < count; i += route_threads) sum += x[i];
  sum = block_sum<route_threads>(sum, shared);
  if (threadIdx.x == 0) *out = factor * sum;
}

template <typename A>
__global__ void __launch_bounds__(route_threads)
    balance_tokens_backward(Index tokens, Index time, Index experts, A factor, const A* scores, const A* f,
                            const A* dloss, Sink<A> dscores) {
  const Index row = Index{blockIdx.x} * route_warps + threadIdx.x / 32;
  if (row >= tokens) return;
  const A* s = scores + row * experts;     // [E]
  const A* fb = f + row / time * experts;  // [E]
  A* ds = dscores.data + row * experts;    // [E]
  A total(0), dot(0);
  for (Index e = threadIdx.x % 32; e < experts; e += 32) {
    total += s[e];
    dot = exact::fma(fb[e], s[e], dot);
  }
  total = warp_sum(total);
  dot = warp_sum(dot);
  factor *= *dloss;
  for (Index e = threadIdx.x % 32; e < experts; e += 32)
    put(ds + e, factor * (fb[e] - dot / total) / total, dscores.accumulate);
}

/// One block.
template <typename A>
__global__ void __launch_bounds__(route_threads)
    move_bias(Index experts, A speed, const double* scale, A* load, A* bias) {
  __shared__ A shared[route_warps];
  A mean(0);
  for (Index e = threadIdx.x; e < experts; e += route_threads) mean += load[e];
  mean = block_sum<route_threads>(mean, shared) / static_cast<A>(experts);
  if (scale != nullptr && isnan(*scale)) speed = A(0);
  for (Index e = threadIdx.x; e < experts; e += route_threads) {
    const A gap = mean - load[e];
    bias[e] += speed * static_cast<A>((gap > A(0)) - (gap < A(0)));
    load[e] = A(0);
  }
}

/// Calls run<J>() for the J numbers a lane that hold `experts`; 0: too many for registers.
template <typename Run>
void for_experts(Index experts, const Run& run) {
  if (experts <= 32) {
    run.template operator()<1>();
  } else if (experts <= 64) {
    run.template operator()<2>();
  } else if (experts <= 128) {
    run.template operator()<4>();
  } else if (experts <= 256) {
    run.template operator()<8>();
  } else {
    run.template operator()<0>();
  }
}

}  // namespace cuda

/// Chooses top_k experts by score + bias, inside the topk_group groups whose two best such sums add up to
/// most, or whose best is largest (see Routing). Weights come from the unbiased scores.
///   scores: [N, E]   bias: [E], or null   ids: [N, K] by descending score + bias   weights: [N, K]
template <typename A>
void route_forward(const Cuda& device, Index tokens, Routing r, const A* scores, const A* bias,
                   std::int32_t* ids, A* weights) {
  if (tokens == 0) return;
  const bool limited = r.topk_group < r.n_group;
  const std::size_t shared =
      limited ? static_cast<std::size_t>(cuda::route_warps * r.n_group) * (sizeof(A) + 1) : 0;
  cuda::for_experts(r.n_experts, [&]<int J>() {
    const auto blocks = J > 0 ? static_cast<unsigned>(cuda::ceil_div(tokens, cuda::route_warps))
                              : cuda::grid_for(device, tokens, cuda::route_warps);
    const cuda::Workspace<cuda::OrderKey<A>> keys(device,
                                                  J > 0 ? 0 : blocks * cuda::route_warps * r.n_experts);
    cuda::launch(device, "route", cuda::route_tokens<A, J>, blocks, cuda::route_threads, shared, tokens, r,
                 scores, bias, keys.data(), ids, weights);
  });
}

/// With w_k = c s_k / S, S = sum of the chosen scores:  ds_k = (c dw_k - sum_j dw_j w_j) / S.  Without the
/// normalisation: ds_k = c dw_k. All other scores have no gradient.
template <typename A>
void route_backward(const Cuda& device, Index tokens, Routing r, const A* scores, const std::int32_t* ids,
                    const A* weights, const A* dweights, Sink<A> dscores) {
  if (!dscores) return;
  cuda::launch(device, "route_backward", cuda::route_tokens_backward<A>,
               static_cast<unsigned>(cuda::ceil_div(tokens, cuda::route_warps)), cuda::route_threads, 0,
               tokens, r, scores, ids, weights, dweights, dscores);
}

/// The sequence-wise balance loss (DeepSeek-V3 Eq. 17-20), averaged over the batch:
///   f_i = N / (K T) #{t : s_it among the K largest of s_t},  P_i = mean_t s_it / sum_j s_jt,
///   loss = alpha / B sum_b sum_i f_i P_i
/// scores: [B * T, E]   loss: [1]   f: [B, E], for backward
template <typename A>
void balance_forward(const Cuda& device, Index batch, Index time, Index experts, Index top_k, A alpha,
                     const A* scores, A* loss, A* f) {
  if (batch * time == 0) return fill_value(device, 1, A(0), loss);
  using cuda::ceil_div;
  const cuda::Workspace<A> fp(device, batch * experts);  // [B, E]
  const auto times = static_cast<A>(time);
  cuda::for_experts(experts, [&]<int J>() {
    const int warps = balance_warps(experts);
    const Index chunks = ceil_div(time, balance_tokens * warps), all = batch * chunks;
    const cuda::Workspace<A> p(device, all * experts);             // [B, chunks, E]
    const cuda::Workspace<std::int32_t> n(device, all * experts);  // [B, chunks, E]
    const cuda::Workspace<cuda::OrderKey<A>> keys(device, J > 0 ? 0 : all * experts);
    cuda::launch(device, "balance", cuda::balance_chunks<A, J>, static_cast<unsigned>(all), warps * 32, 0,
                 chunks, time, static_cast<int>(experts), static_cast<int>(top_k), scores, keys.data(),
                 p.data(), n.data());
    cuda::launch(device, "balance", cuda::balance_sequences<A>,
                 dim3(static_cast<unsigned>(batch), static_cast<unsigned>(ceil_div(experts, 32))),
                 dim3(32, balance_parts), 0, chunks, experts,
                 static_cast<A>(experts) / (static_cast<A>(top_k) * times), A(1) / times, p.data(), n.data(),
                 f, fp.data());
  });
  cuda::launch(device, "balance", cuda::scaled_sum<A>, 1, cuda::route_threads, 0, batch * experts,
               alpha / static_cast<A>(batch), fp.data(), loss);
}

/// ds_it = alpha / (B T) dloss (f_i - sum_j f_j s_jt / S_t) / S_t,  S_t = sum_j s_jt.  f is a constant.
template <typename A>
void balance_backward(const Cuda& device, Index batch, Index time, Index experts, A alpha, const A* scores,
                      const A* f, const A* dloss, Sink<A> dscores) {
  const Index tokens = batch * time;
  if (!dscores || tokens == 0) return;
  cuda::launch(device, "balance_backward", cuda::balance_tokens_backward<A>,
               static_cast<unsigned>(cuda::ceil_div(tokens, cuda::route_warps)), cuda::route_threads, 0,
               tokens, time, experts, alpha / static_cast<A>(tokens), scores, f, dloss, dscores);
}

/// Aux-loss-free balancing (DeepSeek-V3 sec. 2.1.2): b_i += speed * sign(mean load - load_i); the load is
/// then forgotten. `scale`: null, or that of clip_scale(); where it is NaN, no bias moves.
template <typename A>
void update_bias(const Cuda& device, Index experts, A speed, const double* scale, A* load, A* bias) {
  cuda::launch(device, "update_bias", cuda::move_bias<A>, 1, cuda::route_threads, 0, experts, speed, scale,
               load, bias);
}

}  // namespace mtpx
