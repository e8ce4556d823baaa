#pragma once
// Routed experts for few tokens: only the chosen experts' weights are read, each once for all rows that chose
// it. Two kernels: gate and up with the activation, then down with the weighted sum. A token's bits depend on
// that token alone. The shared expert, which every token goes through, runs in the same two launches where
// ../decode/feed_forward.cuh asks for it.

#include "../core/silu.cuh"
#include "normed_rows.cuh"

namespace mtpx::cuda {

/// Who goes where, as plan_experts() says.
struct ExpertPlanView {
  int slots = 0;
  int experts = 0;
  int top_k = 1;
  const std::int32_t* offsets = nullptr;  // [experts + 1]
  const std::int32_t* slot = nullptr;     // [slots], by sorted place
  const std::int32_t* place = nullptr;    // [slots], by slot
};

/// A SwiGLU network's first half, several of them stacked: [E, inner, in] each.
struct ExpertWeights {
  const bf16* gate = nullptr;
  const bf16* up = nullptr;
  const bf16* down = nullptr;  // [E, width, inner]
  int inner = 0;
};

/// The expert whose rows begin at sorted place p, and how many they are; {-1, 0} if none does. For a whole
/// warp.
__device__ __forceinline__ int2 expert_at(const ExpertPlanView& plan, int p) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  constexpr int at_once = 2;  // loads that are under way together
#pragma unroll 1
  for (int first = 0; first < plan.experts; first += 32 * at_once) {
    int begin[at_once], end[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int e = first + 32 * i + lane;
      begin[i] = e < plan.experts ? plan.offsets[e] : -1;
      end[i] = e < plan.experts ? plan.offsets[e + 1] : -1;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const unsigned votes = __ballot_sync(whole_warp, begin[i] == p && end[i] > p);
      if (votes == 0) continue;
      const int winner = __ffs(static_cast<int>(votes)) - 1;
      return make_int2(first + 32 * i + winner, __shfl_sync(whole_warp, end[i], winner) - p);
    }
  }
  return make_int2(-1, 0);
}

/// Both first products and the activation. Blocks: the shared network's outputs, then those of the expert
/// that owns sorted place 0, 1, 2, ..., if one begins there. Dynamic shared memory: a group of rows of x, or
/// NormedRows.
///   x: [rows, in]   gain: norms: of a norm of x first, where there is the shared network alone   hidden:
///   [slots, inner], sorted   shared_hidden: [rows, shared.inner] gate, up: [slots, inner], what was
///   activated, or null
template <int tiles, int split, bool deep, bool norms>
__global__ void __launch_bounds__(stream_threads, deep ? 2 : 3)
    stream_swiglu(int rows, int in, Index stride, const bf16* x, const float* gain, float eps,
                  ExpertPlanView plan, ExpertWeights routed, ExpertWeights shared, bf16* gate, bf16* up,
                  bf16* hidden, bf16* shared_hidden) {
  extern __shared__ float4 memory[];
  __shared__ float sums_of[2][stream_warps][stream_rows(tiles) * stream_outputs];
  constexpr int columns = stream_outputs * (stream_warps / split);
  const NormedRows normed(memory, in);
  bf16* const staged =
      norms ? normed.rows : reinterpret_cast<bf16*>(memory);  // [rows of a group][in + row_pad]
  const int warp = static_cast<int>(threadIdx.x / 32), row = static_cast<int>(threadIdx.x % 32 / 4);
  const int shared_blocks = (shared.inner + columns - 1) / columns;
  const bool is_shared = static_cast<int>(blockIdx.x) < shared_blocks;
  const int inner = is_shared ? shared.inner : routed.inner;
  const int blocks = is_shared ? shared_blocks : (inner + columns - 1) / columns;
  const int block = static_cast<int>(blockIdx.x) - (is_shared ? 0 : shared_blocks);
  const int place = block / blocks, first = block % blocks * columns;
  const StreamPart part(in, split, warp % split);
  constexpr int batch = stream_batch_of(deep);
  StreamLoads<batch> gates, ups;
  const bf16 *gate_row = nullptr, *up_row = nullptr;
  const auto begin = [&](int expert) {
    const int output = min(first + warp / split * stream_outputs + row, inner - 1);
    const Index at = (expert * static_cast<Index>(inner) + output) * in;
    gate_row = (is_shared ? shared.gate : routed.gate) + at;
    up_row = (is_shared ? shared.up : routed.up) + at;
    gates.load(gate_row, part.first, part.end);
    ups.load(up_row, part.first, part.end);
  };
  if (is_shared) begin(0);
  if constexpr (norms) {
    normed.take_gain(in, gain);
    let_next_start();
  }
  wait_for_previous();
  let_next_start();  // not before the plan is there: stream_down() reads it early
  const int packs = in / wide<bf16>, thread = static_cast<int>(threadIdx.x);
  const bool alone =
      !norms && rows == 1 && thread < packs;  // the first pack of the only row is on its way early
  const uint4 early = load_pack(x + thread * wide<bf16>, alone);
  int2 expert = make_int2(0, rows);  // and its rows
  if (!is_shared) {
    expert = expert_at(plan, place);
    if (expert.x < 0) return;
    begin(expert.x);
  }
#pragma unroll 1
  for (int done = 0; done < expert.y; done += stream_rows(tiles)) {
    const int some = min(expert.y - done, stream_rows(tiles));
    if (done > 0) {
      __syncthreads();
      begin(expert.x);
    }
    if constexpr (norms) normed.take_rows(rows, in, x, stride, eps);  // one group
    if (alone) *reinterpret_cast<uint4*>(staged + thread * wide<bf16>) = early;
    for (int i = alone ? thread + stream_threads : thread; !norms && i < some * packs; i += stream_threads) {
      const int r = i / packs, c = i % packs * wide<bf16>;
      const Index from = is_shared ? done + r : plan.slot[place + done + r] / plan.top_k;
      *reinterpret_cast<uint4*>(staged + r * (in + row_pad) + c) =
          *reinterpret_cast<const uint4*>(x + from * stride + c);
    }
    __syncthreads();
    const StreamRows<tiles> from(staged, in + row_pad, some);
    StreamSums<tiles> gate_sums, up_sums;
#pragma unroll 1
    for (int step = part.first; step * stream_step < part.end; step += batch) {
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        StreamPacks<tiles> pack;
        pack.load(from, stream_k(step + i), part.end);
        gate_sums.add(gates.w[i], pack);
        up_sums.add(ups.w[i], pack);
      }
      gates.load(gate_row, step + batch, part.end);
      ups.load(up_row, step + batch, part.end);
    }
    gate_sums.store(sums_of[0][warp]);
    up_sums.store(sums_of[1][warp]);
    __syncthreads();
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < some * columns; i += stream_threads) {
      const int r = i / columns, c = i % columns;
      if (first + c >= inner) continue;
      float total[2] = {};
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int s = 0; s < split; ++s)
          total[n] += sums_of[n][c / stream_outputs * split + s][r * stream_outputs + c % stream_outputs];
      }
      const bf16 g = narrow<bf16>(total[0]), u = narrow<bf16>(total[1]);
      const Index at = (place + done + r) * static_cast<Index>(inner) + first + c;
      (is_shared ? shared_hidden : hidden)[at] = narrow<bf16>(swiglu_of<bf16>(widen(g), widen(u)));
      if (!is_shared && gate != nullptr) {
        gate[at] = g;
        up[at] = u;
      }
    }
  }
}

/// The down products and what becomes of them:  y_n = sum_k weight_nk W_e hidden_k (+ W_shared hidden_n) (+
/// x_n), rounded where separate ops would round. A block makes 8 outputs of every row: the shared network's k
/// is cut over all warps, an expert's over `split` of them.
///   hidden: [slots, inner], sorted   weights: [rows, top_k]   shared_hidden: [rows, shared.inner]
///   residual: [rows, width] or null   y: [rows, width]
template <int tiles, int split, bool deep>
__global__ void __launch_bounds__(stream_threads, 2)
    stream_down(int rows, int width, ExpertPlanView plan, ExpertWeights routed, ExpertWeights shared,
                const float* weights, const bf16* hidden, const bf16* shared_hidden, const bf16* residual,
                bf16* y, bool staged) {
  extern __shared__ float4 memory[];
  float* const sums_of = reinterpret_cast<float*>(memory);                   // [split][slots][8]
  float* const shared_sums = sums_of + split * plan.slots * stream_outputs;  // [stream_warps][rows][8]
  float* const shares =
      shared_sums + (shared.inner > 0 ? stream_warps * rows * stream_outputs : 0);  // [slots]
  int* const places = reinterpret_cast<int*>(shares + plan.slots);                  // [slots]
  int2* const chosen = reinterpret_cast<int2*>(places + plan.slots);   // [slots]: expert, first row
  bf16* const rows_of = reinterpret_cast<bf16*>(chosen + plan.slots);  // [slots, inner] [rows, shared.inner]
  __shared__ int how_many;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int first = static_cast<int>(blockIdx.x) * stream_outputs;
  const Index output = min(first + lane / 4, width - 1);
  const StreamPart shared_part(shared.inner, stream_warps, warp);
  constexpr int batch = stream_batch_of(deep);
  StreamLoads<batch> shared_loads;
  const bf16* const shared_row = shared.down + output * shared.inner;  // [shared.inner]
  if (shared.inner > 0) shared_loads.load(shared_row, shared_part.first, shared_part.end);
  let_next_start();
  constexpr int teams = stream_warps / split;
  const int team = warp / split;
  const StreamPart part(routed.inner, split, warp % split);
  constexpr int ahead = 2;  // experts that a warp has under way
  StreamLoads<batch> loads[ahead];
  const auto row_of = [&](int n) {  // [inner]
    return routed.down + (chosen[n].x * static_cast<Index>(width) + output) * routed.inner;
  };
  // The plan was there before the kernel that made hidden let this one start; past the L1 cache, which may
  // remember another.
  if (plan.slots > 0) {
    if (warp == 0) {  // the chosen experts, in their order
      int total = 0;
#pragma unroll 1
      for (int e = lane; e - lane < plan.experts; e += 32) {
        const int begin = e < plan.experts ? __ldcg(plan.offsets + e) : 0,
                  end = e < plan.experts ? __ldcg(plan.offsets + e + 1) : 0;
        const unsigned votes = __ballot_sync(whole_warp, end > begin);
        if (end > begin) chosen[total + __popc(votes & ((1U << lane) - 1))] = make_int2(e, begin);
        total += __popc(votes);
      }
      if (lane == 0) how_many = total;
    } else {
#pragma unroll 1
      for (int i = thread - 32; i < plan.slots; i += stream_threads - 32) {
        shares[i] = __ldcg(weights + i);
        places[i] = __ldcg(plan.place + i);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < ahead; ++i) {
    if (plan.slots > 0 && team + i * teams < how_many)
      loads[i].load(row_of(team + i * teams), part.first, part.end);
  }
  wait_for_previous();
  const auto at = [&](int i) {
    return i / stream_outputs * static_cast<Index>(width) + first + i % stream_outputs;
  };
  const bool adds =
      residual != nullptr && thread < rows * stream_outputs && first + thread % stream_outputs < width;
  const float early_residual = adds ? widen(residual[at(thread)]) : 0.0F;
  const int routed_size = plan.slots * routed.inner, shared_size = rows * shared.inner;
  if (staged) {
    const auto keep = [&](bf16* to, const bf16* from, int count) {
#pragma unroll 1
      for (int i = thread * wide<bf16>; i < count; i += stream_threads * wide<bf16>)
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    };
    keep(rows_of, hidden, routed_size);
    keep(rows_of + routed_size, shared_hidden, shared_size);
    hidden = rows_of;
    shared_hidden = rows_of + routed_size;
  }
  __syncthreads();
  if (shared.inner > 0) {
#pragma unroll 1
    for (int done = 0; done < rows; done += stream_rows(tiles)) {
      if (done > 0) shared_loads.load(shared_row, shared_part.first, shared_part.end);
      const int some = min(rows - done, stream_rows(tiles));
      StreamSums<tiles> sums;
      stream_row(
          shared_row, shared_part, shared_loads,
          StreamRows<tiles>(shared_hidden + done * static_cast<Index>(shared.inner), shared.inner, some),
          sums);
      sums.store(shared_sums + (warp * rows + done) * stream_outputs, some);
    }
  }
#pragma unroll 1
  for (int n = team; n < (plan.slots > 0 ? how_many : 0); n += ahead * teams) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int which = n + i * teams;
      if (which >= how_many) break;
      const int begin = chosen[which].y, end = which + 1 < how_many ? chosen[which + 1].y : plan.slots;
      const bf16* const row = row_of(which);
#pragma unroll 1
      for (int done = begin; done < end; done += stream_rows(tiles)) {
        if (done > begin) loads[i].load(row, part.first, part.end);
        const int some = min(end - done, stream_rows(tiles));
        StreamSums<tiles> sums;
        stream_row(row, part, loads[i],
                   StreamRows<tiles>(hidden + done * static_cast<Index>(routed.inner), routed.inner, some),
                   sums);
        sums.store(sums_of + (warp % split * plan.slots + done) * stream_outputs, some);
      }
      if (which + ahead * teams < how_many)
        loads[i].load(row_of(which + ahead * teams), part.first, part.end);
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < rows * stream_outputs; i += stream_threads) {
    const int n = i / stream_outputs, c = i % stream_outputs;
    if (first + c >= width) continue;
    float total = 0;
    for (int k = 0; k < (plan.slots > 0 ? plan.top_k : 0); ++k) {
      const int p = places[n * plan.top_k + k];
      float one = 0;
#pragma unroll
      for (int s = 0; s < split; ++s) one += sums_of[(s * plan.slots + p) * stream_outputs + c];
      total += shares[n * plan.top_k + k] * widen(narrow<bf16>(one));
    }
    if (shared.inner > 0) {
      float one = 0;
#pragma unroll
      for (int s = 0; s < stream_warps; ++s) one += shared_sums[(s * rows + n) * stream_outputs + c];
      total = (plan.slots > 0 ? widen(narrow<bf16>(total)) : 0.0F) + widen(narrow<bf16>(one));
    }
    if (residual != nullptr)
      total = (i == thread ? early_residual : widen(residual[at(i)])) + widen(narrow<bf16>(total));
    y[at(i)] = narrow<bf16>(total);
  }
}

/// What both kernels take. T is bf16.
template <typename T>
struct ExpertsPass {
  int rows = 0;
  int width = 0;
  const T* x = nullptr;  // [rows, width], `stride` apart
  Index stride = 0;
  const float* gain = nullptr;  // see stream_swiglu()
  float eps = 0;
  ExpertPlanView plan;
  ExpertWeights routed, shared;
  const float* weights = nullptr;  // [rows, top_k]
  T* gate = nullptr;               // [slots, inner] or null
  T* up = nullptr;                 // [slots, inner] or null
  T* hidden = nullptr;             // [slots, inner]
  T* shared_hidden = nullptr;      // [rows, shared.inner]
  const T* residual = nullptr;     // [rows, width] or null
  T* y = nullptr;                  // [rows, width]
};

/// early: the weights may be read while earlier kernels still run
template <typename T>
void run_experts(const Cuda& device, const ExpertsPass<T>& p, bool early) {
  const auto start = [&](auto kernel, unsigned blocks, std::size_t shared, auto... arguments) {
    if (early) {
      launch_early(device, "experts", kernel, dim3(blocks), dim3(stream_threads), shared, arguments...);
    } else {
      launch(device, "experts", kernel, dim3(blocks), dim3(stream_threads), shared, arguments...);
    }
  };
  const int most_rows = std::max(p.rows, p.plan.slots);  // of an expert, should a token choose it twice
  with_split(p.width, 0, [&](auto split, auto deep) {
    with_fused_tiles(p.rows, [&](auto tiles) {
      const int columns = stream_outputs * (stream_warps / split());
      const auto blocks = [&](int inner) { return static_cast<unsigned>(ceil_div(inner, columns)); };
      const unsigned grid =
          blocks(p.shared.inner) + static_cast<unsigned>(p.plan.slots) * blocks(p.routed.inner);
      const auto run = [&](auto norms, std::size_t memory) {
        start(stream_swiglu<tiles(), split(), deep(), norms()>, grid, memory, p.rows, p.width, p.stride, p.x,
              p.gain, p.eps, p.plan, p.routed, p.shared, p.gate, p.up, p.hidden, p.shared_hidden);
      };
      if (p.gain != nullptr) {
        run(std::true_type{}, NormedRows::bytes(p.rows, p.width));
      } else {
        run(std::false_type{},
            static_cast<std::size_t>(std::min(most_rows, stream_rows(tiles())) * (p.width + row_pad)) *
                sizeof(bf16));
      }
    });
  });
  const auto down = [&](auto split, auto deep) {
    with_fused_tiles(p.rows, [&](auto tiles) {
      const std::size_t numbers = static_cast<std::size_t>(split() * p.plan.slots +
                                                           (p.shared.inner > 0 ? stream_warps * p.rows : 0)) *
                                      stream_outputs +
                                  static_cast<std::size_t>(4 * p.plan.slots);
      const std::size_t hidden =
          static_cast<std::size_t>(p.plan.slots * p.routed.inner + p.rows * p.shared.inner) * sizeof(bf16);
      const bool staged = hidden <= 32 * 1024;
      start(stream_down<tiles(), split(), deep()>, static_cast<unsigned>(ceil_div(p.width, stream_outputs)),
            numbers * sizeof(float) + (staged ? hidden : 0), p.rows, p.width, p.plan, p.routed, p.shared,
            p.weights, static_cast<const T*>(p.hidden), static_cast<const T*>(p.shared_hidden), p.residual,
            p.y, staged);
    });
  };
  if (p.routed.inner <= 4 * stream_batch * stream_step) {
    down(std::integral_constant<int, 4>{}, std::false_type{});
  } else if (is_deep(p.routed.inner, 8)) {
    down(std::integral_constant<int, 8>{}, std::true_type{});
  } else {
    down(std::integral_constant<int, 8>{}, std::false_type{});
  }
}

// --- Any types -------------------------------------------------------------------------------------------

/// gate, up [slots, inner] of one sorted place and output a warp.
template <int N, typename T>
__global__ void __launch_bounds__(stream_threads)
    dot_swiglu(ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot, const T* x,
               Index stride, const T* wg, const T* wu, T* gate, T* up, T* hidden) {
  const Index task = blockIdx.x * static_cast<Index>(stream_warps) + threadIdx.x / 32;
  const Index p = task / s.inner, f = task % s.inner;
  if (p >= s.tokens * s.top_k) return;
  Index e = 0;
  while (offsets[e + 1] <= p) ++e;
  const T* const xr = x + slot[p] / s.top_k * stride;  // [width]
  const Index at = (e * s.inner + f) * s.width;
  acc_t<T> g[dot_rows], u[dot_rows];
  warp_dots<N>(s.width, 1, xr, stride, wg + at, g);
  warp_dots<N>(s.width, 1, xr, stride, wu + at, u);
  if (threadIdx.x % 32 != 0) return;
  gate[task] = narrow<T>(g[0]);
  up[task] = narrow<T>(u[0]);
  hidden[task] = narrow<T>(swiglu_of<T>(widen(gate[task]), widen(up[task])));
}

/// y [tokens, width], an output a warp.
template <int N, typename T>
__global__ void __launch_bounds__(stream_threads)
    dot_down(ExpertsShape s, const std::int32_t* offsets, const std::int32_t* place, const acc_t<T>* weights,
             const T* wd, const T* hidden, T* y) {
  const Index task = blockIdx.x * static_cast<Index>(stream_warps) + threadIdx.x / 32;
  const Index n = task / s.width, c = task % s.width;
  if (n >= s.tokens) return;
  acc_t<T> total(0);
#pragma unroll 1
  for (Index k = 0; k < s.top_k; ++k) {
    const Index p = place[n * s.top_k + k];
    Index e = 0;
    while (offsets[e + 1] <= p) ++e;
    acc_t<T> one[dot_rows];
    warp_dots<N>(s.inner, 1, hidden + p * s.inner, s.inner, wd + (e * s.width + c) * s.inner, one);
    total += weights[n * s.top_k + k] * widen(narrow<T>(one[0]));
  }
  if (threadIdx.x % 32 == 0) y[task] = narrow<T>(total);
}

/// experts_forward() for at most few_rows tokens: a token's bits depend on that token alone.
template <typename T>
void few_rows_experts(const Cuda& device, ExpertsShape s, const std::int32_t* offsets,
                      const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                      const acc_t<T>* weights, const T* wg, const T* wu, const T* wd, T* gate, T* up, T* y) {
  if (s.tokens == 0) return;
  const Workspace<T> hidden(device, s.slots() * s.inner);
  if constexpr (std::is_same_v<T, bf16>) {
    if (can_be_wide<T>(s.width, x_stride, x, wg, wu, wd) && s.inner % wide<T> == 0) {
      ExpertsPass<T> p;
      p.rows = static_cast<int>(s.tokens);
      p.width = static_cast<int>(s.width);
      p.x = x;
      p.stride = x_stride;
      p.plan = {static_cast<int>(s.slots()),
                static_cast<int>(s.experts),
                static_cast<int>(s.top_k),
                offsets,
                slot,
                place};
      p.routed = {wg, wu, wd, static_cast<int>(s.inner)};
      p.weights = weights;
      p.gate = gate;
      p.up = up;
      p.hidden = hidden.data();
      p.y = y;
      run_experts(device, p, false);
      return;
    }
  }
  const auto run = [&](auto n) {
    const auto blocks = [](Index tasks) {
      return dim3(static_cast<unsigned>(ceil_div(tasks, stream_warps)));
    };
    launch(device, "experts", dot_swiglu<n(), T>, blocks(s.slots() * s.inner), dim3(stream_threads), 0, s,
           offsets, slot, x, x_stride, wg, wu, gate, up, hidden.data());
    launch(device, "experts", dot_down<n(), T>, blocks(s.tokens * s.width), dim3(stream_threads), 0, s,
           offsets, place, weights, wd, static_cast<const T*>(hidden.data()), y);
  };
  if (can_be_wide<T>(s.width, x_stride, x, wg, wu, wd) && s.inner % wide<T> == 0) {
    run(std::integral_constant<int, wide<T>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace mtpx::cuda
