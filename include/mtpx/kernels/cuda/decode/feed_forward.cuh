#pragma once
// The feed-forward half of a block for a few rows of bf16, in three launches:
//
//   1  norm; router, sigmoid, choice and plan
//   2  gate and up of the chosen experts and of the shared one, activation
//   3  their down products, weighted sum, shared, residual
//
// A dense network has no first: the second norms.
//
// Values are rounded to bf16 where the ops of nn/moe.hpp round them.

#include "../core/top_indices.cuh"
#include "../products/few_rows_experts.cuh"
#include "products.cuh"

namespace mtpx::cuda {

inline constexpr int route_most_slots = 512;  // of a pass

/// The largest of a warp's keys, lane l's i-th being that of number l + 32 i; the lowest number among equals.
/// Takes it out of the race. Race in one piece: these lists are short, and every step counts.
template <int each>
__device__ __forceinline__ int take_best(unsigned (&key)[each]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  unsigned best = 0, at = 0xffffffffU;
#pragma unroll
  for (int i = 0; i < each; ++i) {
    if (key[i] > best) {
      best = key[i];
      at = static_cast<unsigned>(lane + 32 * i);
    }
  }
  const unsigned top = __reduce_max_sync(whole_warp, best);
  const unsigned winner = __reduce_min_sync(whole_warp, best == top ? at : 0xffffffffU);
#pragma unroll
  for (int i = 0; i < each; ++i) {
    if (winner == static_cast<unsigned>(lane + 32 * i)) key[i] = 0;
  }
  return static_cast<int>(winner);
}

inline constexpr int router_cluster = 8;  // blocks, at most

/// *p = x in the shared memory of the cluster's first block.
__device__ __forceinline__ void store_in_first(float* p, float x) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, 0;\n"
      "st.shared::cluster.f32 [there], %1;\n"
      "}" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(p))),
      "f"(x)
      : "memory");
#endif
}

/// Blocks that share the experts, eight warps each.
inline unsigned router_blocks(Index experts) {
  return static_cast<unsigned>(std::clamp<Index>(ceil_div(experts, stream_warps), 1, router_cluster));
}

/// Everything before the experts, in one cluster of blocks: y = norm(x), scores = sigmoid(y w^T), a warp an
/// expert, which meet in the first block's shared memory; that block chooses as route_forward() does and
/// plans as plan_experts() does: a warp a row, then a thread a slot.
///   x, y: [rows, width]   w: [E, width]   bias: [E]   weights: [rows, K]   offsets: [E + 1]
///   slot, place: [rows * K]
///   each: experts of a lane, at most   kept: packs of a router's row that a lane loads early
template <int each, int kept_packs>
__global__ void __launch_bounds__(stream_threads)
    fused_route(int rows, int width, const bf16* x, const float* gain, float eps, Routing r, const float* w,
                const float* bias, bf16* y, float* weights, std::int32_t* offsets, std::int32_t* slot,
                std::int32_t* place) {
  extern __shared__ float4 memory[];
  __shared__ std::int32_t ids[route_most_slots];
  constexpr int N = wide<float>;
  const int experts = static_cast<int>(r.n_experts), top_k = static_cast<int>(r.top_k);
  const int rank = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);  // one cluster
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int first = rank * stream_warps + warp;
  float4 kept[kept_packs];
#pragma unroll
  for (int i = 0; i < kept_packs; ++i) {
    const int c = (i * 32 + lane) * N;
    kept[i] = first < experts && c < width
                  ? *reinterpret_cast<const float4*>(w + first * static_cast<Index>(width) + c)
                  : float4{};
  }
  const NormedRows normed(memory, width);
  float* const scores = reinterpret_cast<float*>(normed.rows + rows * normed.ld);  // [rows, E]
  float shift[each];
#pragma unroll
  for (int i = 0; i < each; ++i) shift[i] = lane + 32 * i < experts ? bias[lane + 32 * i] : 0.0F;
  normed.take_gain(width, gain);
  let_next_start();
  cluster_sync();  // every block's memory is there
  wait_for_previous();
  normed.take_rows(rows, width, x, width, eps);
  if (rank == 0) {
    constexpr int packed = wide<bf16>;
    const int packs = width / packed;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * packs; i += stream_threads) {
      *reinterpret_cast<uint4*>(y + i * static_cast<Index>(packed)) =
          *reinterpret_cast<const uint4*>(normed.rows + i / packs * normed.ld + i % packs * packed);
    }
  }
  const auto judge = [&](int expert, const auto& weight) {  // weight(i, c): pack i of a lane, at column c
#pragma unroll 1
    for (int n = 0; n < rows; ++n) {
      const bf16* const xr = normed.rows + n * normed.ld;  // [width]
      float sum[4] = {};
      const auto add = [&](const float4& wc, int c) {
        const Pack<bf16, N> xc = *reinterpret_cast<const Pack<bf16, N>*>(xr + c);
        sum[0] = fmaf(widen(xc.value[0]), wc.x, sum[0]);
        sum[1] = fmaf(widen(xc.value[1]), wc.y, sum[1]);
        sum[2] = fmaf(widen(xc.value[2]), wc.z, sum[2]);
        sum[3] = fmaf(widen(xc.value[3]), wc.w, sum[3]);
      };
#pragma unroll
      for (int i = 0; i < kept_packs; ++i) {
        const int c = (i * 32 + lane) * N;
        if (c < width) add(weight(i, c), c);
      }
#pragma unroll 1
      for (int c = (kept_packs * 32 + lane) * N; c < width; c += 32 * N)
        add(*reinterpret_cast<const float4*>(w + expert * static_cast<Index>(width) + c), c);
      const float total = warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
      if (lane == 0) store_in_first(scores + n * experts + expert, exact::sigmoid(total));
    }
  };
  if (first < experts) judge(first, [&](int i, int) { return kept[i]; });
#pragma unroll 1
  for (int expert = first + blocks * stream_warps; expert < experts; expert += blocks * stream_warps) {
    judge(expert, [&](int, int c) {
      return *reinterpret_cast<const float4*>(w + expert * static_cast<Index>(width) + c);
    });
  }
  cluster_sync();
  if (rank != 0) return;
  const int group_size = experts / static_cast<int>(r.n_group);
#pragma unroll 1
  for (int row = warp; row < rows; row += stream_warps) {
    const float* const s = scores + row * static_cast<Index>(experts);  // [E]
    float score[each];
    unsigned key[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int e = lane + 32 * i;
      score[i] = e < experts ? s[e] : 0.0F;
      key[i] = e < experts ? order_key(score[i] + shift[i]) : 0;
    }
    if (r.topk_group < r.n_group) {  // a lane a group
      const int group = lane;
      float first = -INFINITY, second = -INFINITY;
      if (group < static_cast<int>(r.n_group)) {
#pragma unroll 1
        for (int e = group * group_size; e < (group + 1) * group_size; ++e) {
          const float value = s[e] + bias[e];
          if (value > first) {
            second = first;
            first = value;
          } else if (value > second) {
            second = value;
          }
        }
      }
      unsigned worth[1] = {
          group < static_cast<int>(r.n_group) ? order_key(group_size > 1 ? first + second : first) : 0};
      unsigned stays = 0;
#pragma unroll 1
      for (int k = 0; k < static_cast<int>(r.topk_group); ++k) stays |= 1U << take_best<1>(worth);
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const int e = lane + 32 * i;
        if (e < experts && (stays >> e / group_size & 1) == 0) key[i] = 0;
      }
    }
    float mine = 0, total = 0;  // lane k: the score of choice k
    if constexpr (each == 1) {  // all ranks at once
      int rank_here = 0;
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        const unsigned other = __shfl_sync(whole_warp, key[0], j);
        rank_here += other > key[0] || (other == key[0] && j < lane);
      }
#pragma unroll 1
      for (int k = 0; k < top_k; ++k) {
        const int e = __ffs(static_cast<int>(__ballot_sync(whole_warp, rank_here == k))) - 1;
        const float chosen = __shfl_sync(whole_warp, score[0], e);
        total += chosen;
        if (lane == k) {
          mine = chosen;
          ids[row * top_k + k] = e;
        }
      }
    }
#pragma unroll 1
    for (int k = 0; each > 1 && k < top_k; ++k) {
      const int e = take_best<each>(key);
      float chosen = 0;
#pragma unroll
      for (int i = 0; i < each; ++i) {
        if (e / 32 == i) chosen = __shfl_sync(whole_warp, score[i], e % 32);
      }
      total += chosen;
      if (lane == k) {
        mine = chosen;
        ids[row * top_k + k] = e;
      }
    }
    const float factor = static_cast<float>(r.scaling_factor) / (r.norm_topk_prob ? total + 1e-20F : 1.0F);
    if (lane < top_k) weights[row * top_k + lane] = mine * factor;
  }
  __syncthreads();
  const int slots = rows * top_k;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < slots; i += stream_threads) {
    const int e = ids[i];
    int at = 0;
#pragma unroll 4
    for (int j = 0; j < slots; ++j) at += ids[j] < e || (ids[j] == e && j < i);
    place[i] = at;
    slot[at] = i;
  }
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x); e <= experts; e += stream_threads) {
    int before = 0;
#pragma unroll 4
    for (int j = 0; j < slots; ++j) before += ids[j] < e;
    offsets[e] = before;
  }
}

}  // namespace mtpx::cuda

namespace mtpx {

/// y = h + ffn(norm(h)). Where decode_fits().   h, y: [rows, hidden]
template <typename T>
void decode_feed_forward(const Cuda& device, const DecodeFeedForward<T>& p, const T* h, T* y) {
  static_assert(std::is_same_v<T, bf16>);
  using namespace cuda;
  const int rows = static_cast<int>(p.rows), hidden = static_cast<int>(p.hidden);
  const Routing& r = p.routing;
  const int experts = static_cast<int>(r.n_experts);
  const Index slots = experts > 0 ? p.rows * r.top_k : 0;
  const Workspace<bf16> normed(device, experts > 0 ? rows * p.hidden : 0),
      hidden_rows(device, slots * p.inner);
  const Workspace<bf16> shared_rows(device, rows * p.shared_inner);
  const Workspace<float> weights(device, slots);
  const Workspace<std::int32_t> offsets(device, r.n_experts + 1), slot(device, slots), place(device, slots);
  const auto route = [&](auto each, auto kept) {
    const unsigned blocks = router_blocks(experts);
    launch_early_clusters(
        device, "decode_feed_forward", fused_route<each(), kept()>, blocks, dim3(blocks),
        dim3(stream_threads),
        NormedRows::bytes(rows, hidden) + static_cast<std::size_t>(rows * experts) * sizeof(float), rows,
        hidden, h, p.norm, p.eps, r, p.router, p.bias, normed.data(), weights.data(), offsets.data(),
        slot.data(), place.data());
  };
  const auto route_with = [&](auto kept) {
    if (experts <= 32) return route(std::integral_constant<int, 1>{}, kept);
    if (experts <= 64) return route(std::integral_constant<int, 2>{}, kept);
    route(std::integral_constant<int, 8>{}, kept);
  };
  ExpertsPass<T> pass;
  if (experts == 0) {
    pass.gain = p.norm;
    pass.eps = p.eps;
  } else {
    if (hidden <= 8 * 32 * wide<float>) {
      route_with(std::integral_constant<int, 8>{});
    } else {
      route_with(std::integral_constant<int, 16>{});
    }
    pass.plan = {static_cast<int>(slots), experts,     static_cast<int>(r.top_k),
                 offsets.data(),          slot.data(), place.data()};
    pass.routed = {p.gate, p.up, p.down, static_cast<int>(p.inner)};
  }
  pass.rows = rows;
  pass.width = hidden;
  pass.x = experts > 0 ? normed.data() : h;
  pass.stride = hidden;
  pass.shared = {p.shared_gate, p.shared_up, p.shared_down, static_cast<int>(p.shared_inner)};
  pass.weights = weights.data();
  pass.hidden = hidden_rows.data();
  pass.shared_hidden = shared_rows.data();
  pass.residual = h;
  pass.y = y;
  run_experts(device, pass, true);
}

}  // namespace mtpx
