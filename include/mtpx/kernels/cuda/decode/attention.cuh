#pragma once
// The attention half of a block for a few rows of bf16, in six launches: whatever is small is computed again
// by every block that needs it, and every kernel asks for its weights before the kernel before it is done.
//
//   1  norm, q_a_proj and kv_a_proj           4  attention to the parts of the cache
//   2  norm, q_b_proj; the new cache entries  5  join the parts, W_UV
//   3  rotate q, W_UK                         6  o_proj, residual
//
// Without q_a_proj there is no second: the first makes the queries, the third the entries, too. Where
// joins_queries(), the second and the third are one launch of clusters.
//
// Values are rounded to bf16 where the ops of nn/mla.hpp round them.

#include "../latent_attention.cuh"
#include "head_queries.cuh"

namespace mtpx::cuda {

// --- 2: queries and cache entries ------------------------------------------------------------------------

/// q_b_proj of the normed low-rank queries; one further block per row makes its cache entry.
template <int tiles, int split, bool deep>
__global__ void __launch_bounds__(stream_threads, fused_resident)
    fused_queries(int rows, int in, const bf16* x, FusedMatrix m, Around around, NewEntries to) {
  extern __shared__ float4 memory[];
  const int blocks = static_cast<int>(gridDim.x) - rows, block = static_cast<int>(blockIdx.x);
  if (block >= blocks) return make_entry(to, block - blocks);
  fused_product<tiles, split, deep>(rows, in, x, in, m, FusedMatrix{}, block, blocks, around, memory);
}

// --- 3: absorbed queries ---------------------------------------------------------------------------------

/// absorbed = [q_nope W_UK | rotated q_rope].   Block: 64 columns of a head, four rows of q. A warp takes
/// four rows of W_UK at a time, eight neighbouring columns a lane. Blocks of a head too many make the cache
/// entries.   q: [rows, heads * (nope + rope)], not rotated
static __global__ void __launch_bounds__(stream_threads)
    fused_absorb(AttentionShape s, int latent, int rows, const bf16* q, const bf16* w, const float* cos,
                 const float* sin, const std::int32_t* positions, float* absorbed, NewEntries entries) {
  __shared__ float sums_of[stream_warps][absorb_rows][absorb_columns_of_block];
  if (blockIdx.y == s.heads) {
    for (int row = static_cast<int>(blockIdx.x + blockIdx.z * gridDim.x); row < rows;
         row += static_cast<int>(gridDim.x * gridDim.z))
      make_entry(entries, row);
    return;
  }
  constexpr int N = wide<bf16>;
  constexpr int ahead = 4;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int nope = static_cast<int>(s.nope), rope = static_cast<int>(s.rope),
            heads = static_cast<int>(s.heads);
  const int head = static_cast<int>(blockIdx.y),
            slab = static_cast<int>(blockIdx.x) * absorb_columns_of_block;
  const int column = slab + lane % 8 * N;
  const int first = warp * 4 + lane / 8;                               // row of W_UK
  const bf16* const wk = w + head * (s.nope + s.v) * latent + column;  // [nope][latent]
  uint4 loads[ahead];
  const auto load = [&](int from) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int n = from + 32 * i;
      loads[i] = load_once(wk + n * latent, n < nope && column < latent);
    }
  };
  load(first);
  const int start = static_cast<int>(blockIdx.z) * absorb_rows;
  const auto entry = [&](int i) {
    return positions[start + i / (rope / 2)] * static_cast<Index>(rope / 2) + i % (rope / 2);
  };
  const bool turns = slab == 0 && thread < min(absorb_rows, rows - start) * (rope / 2);
  const float early_cos = turns ? cos[entry(thread)] : 0.0F, early_sin = turns ? sin[entry(thread)] : 0.0F;
  let_next_start();
  wait_for_previous();
  const Index q_width = nope + rope;
  const int at = static_cast<int>(blockIdx.z) * absorb_rows, some = min(absorb_rows, rows - at);
  const bf16* const qh = q + (at * s.heads + head) * q_width;  // [rows][nope | rope]
  float sum[absorb_rows][N] = {};
#pragma unroll 1
  for (int n = first; n - first < nope; n += 32 * ahead) {
    if (n > first) load(n);
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const bf16* const wi = reinterpret_cast<const bf16*>(&loads[i]);
#pragma unroll
      for (int r = 0; r < absorb_rows; ++r) {
        if (r >= some) break;
        const float x = n + 32 * i < nope ? widen(qh[r * heads * q_width + n + 32 * i]) : 0.0F;
#pragma unroll
        for (int j = 0; j < N; ++j) sum[r][j] = fmaf(x, widen(wi[j]), sum[r][j]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < absorb_rows; ++r) {
    if (r >= some) break;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x = sum[r][j];
      x += __shfl_xor_sync(whole_warp, x, 8);
      x += __shfl_xor_sync(whole_warp, x, 16);
      if (lane < 8) sums_of[warp][r][lane * N + j] = x;
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < some * absorb_columns_of_block; i += stream_threads) {
    const int r = i / absorb_columns_of_block, c = i % absorb_columns_of_block;
    if (slab + c >= latent) continue;
    float total = 0;
#pragma unroll
    for (int n = 0; n < stream_warps; ++n) total += sums_of[n][r][c];
    absorbed[((at + r) * s.heads + head) * (latent + rope) + slab + c] = total;
  }
  if (slab > 0) return;
#pragma unroll 1
  for (int i = thread; i < some * (rope / 2); i += stream_threads) {
    const int r = i / (rope / 2), j = i % (rope / 2);
    const bf16* const turned = qh + r * heads * q_width + nope + 2 * j;  // [2]
    const float even = widen(turned[0]), odd = widen(turned[1]);
    const float c = i == thread ? early_cos : cos[entry(i)], n = i == thread ? early_sin : sin[entry(i)];
    float* const to = absorbed + ((at + r) * s.heads + head) * (latent + rope) + latent + 2 * j;  // [2]
    const exact::Rotated<float> pair(even, odd, c, n);
    to[0] = widen(narrow<bf16>(pair.even));
    to[1] = widen(narrow<bf16>(pair.odd));
  }
}

// --- 5: the parts together, and values -------------------------------------------------------------------

inline constexpr int expand_most_latent = 512;

/// o = W_UV,h (sum of the parts / their total). Block: `each` outputs a warp of head blockIdx.y, row
/// blockIdx.z.
///   o: [rows, heads * v]
template <int each>
__global__ void __launch_bounds__(stream_threads, 2)
    fused_expand(AttentionShape s, int latent, const std::int32_t* positions, LatentPartials<float> from,
                 const bf16* w, bf16* o) {
  __shared__ float share[latent_most_parts + 1];  // of each part; then 1 / total
  __shared__ float4 group_sums[stream_threads];   // [groups][latent / 4]
  __shared__ float4 attended[expand_most_latent / 4];
  constexpr int N = wide<bf16>;
  constexpr int kept = 2;    // packs of a row of W_UV that are loaded early
  constexpr int ahead = 16;  // parts that a thread loads at once
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int v = static_cast<int>(s.v), head = static_cast<int>(blockIdx.y);
  const Index row = blockIdx.z;
  const int first = (static_cast<int>(blockIdx.x) * stream_warps + warp) * each;
  const bf16* const wv = w + (head * (s.nope + s.v) + s.nope) * latent;  // [v, latent]
  const auto load = [&](int i, int c) {
    return load_once(wv + (first + i) * latent + c, first + i < v && c < latent);
  };
  uint4 loads[each][kept];
#pragma unroll
  for (int i = 0; i < each; ++i) {
#pragma unroll
    for (int n = 0; n < kept; ++n) loads[i][n] = load(i, (n * 32 + lane) * N);
  }
  // A thread adds up four columns of parts g, g + groups, ...
  const int columns = latent / 4, groups = stream_threads / columns, group = thread / columns;
  const int parts = group < groups ? latent_parts(positions[row] + 1) : 0;
  let_next_start();
  wait_for_previous();
  const auto block = [&](int i) { return (row * from.parts + i) * s.heads + head; };
  const float* const parts_of = from.o + block(0) * latent + 4 * (thread % columns);
  const Index part_stride = s.heads * latent;
  float4 part[ahead];
  const auto fetch = [&](int i) {
#pragma unroll
    for (int n = 0; n < ahead; ++n) {
      if (i + n * groups < parts) {
        part[n] = *reinterpret_cast<const float4*>(parts_of + (i + n * groups) * part_stride);
      }
    }
  };
  fetch(group);
  if (warp == 0) {
    float top[2], total[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 both = lane + 32 * n < parts
                              ? *reinterpret_cast<const float2*>(from.top_total + 2 * block(lane + 32 * n))
                              : make_float2(-INFINITY, 0.0F);
      top[n] = both.x;
      total[n] = both.y;
    }
    const float highest = warp_max(fmaxf(top[0], top[1]));
    const float e0 = expf(top[0] - highest), e1 = expf(top[1] - highest);
    share[lane] = e0;
    share[lane + 32] = e1;
    const float all = warp_sum(e0 * total[0] + e1 * total[1]);
    if (lane == 0) share[latent_most_parts] = 1.0F / all;
  }
  __syncthreads();
  float4 sum{};
#pragma unroll 1
  for (int i = group; i < parts; i += ahead * groups) {
    if (i > group) fetch(i);
#pragma unroll
    for (int n = 0; n < ahead; ++n) {
      if (i + n * groups >= parts) break;
      const float f = share[i + n * groups];
      sum.x = fmaf(f, part[n].x, sum.x);
      sum.y = fmaf(f, part[n].y, sum.y);
      sum.z = fmaf(f, part[n].z, sum.z);
      sum.w = fmaf(f, part[n].w, sum.w);
    }
  }
  group_sums[thread] = sum;
  __syncthreads();
  if (thread < columns) {
    const float f = share[latent_most_parts];
#pragma unroll 1
    for (int g = 1; g < groups; ++g) {
      const float4 more = group_sums[g * columns + thread];
      sum.x += more.x;
      sum.y += more.y;
      sum.z += more.z;
      sum.w += more.w;
    }
    attended[thread] = make_float4(sum.x * f, sum.y * f, sum.z * f, sum.w * f);
  }
  __syncthreads();
  float dot[each] = {};
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const auto add = [&](const uint4& x, int c) {
      if (c >= latent) return;
      const bf16* const wi = reinterpret_cast<const bf16*>(&x);
      const float4 low = attended[c / 4], high = attended[c / 4 + 1];
      const float a[N] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int j = 0; j < N; ++j) dot[i] = fmaf(a[j], widen(wi[j]), dot[i]);
    };
#pragma unroll
    for (int n = 0; n < kept; ++n) add(loads[i][n], (n * 32 + lane) * N);
#pragma unroll 1
    for (int c = (kept * 32 + lane) * N; c < latent; c += 32 * N) add(load(i, c), c);
  }
#pragma unroll
  for (int i = 0; i < each; ++i) dot[i] = warp_sum(dot[i]);
#pragma unroll
  for (int i = 0; i < each; ++i) {
    if (lane == 0 && first + i < v) o[(row * s.heads + head) * s.v + first + i] = narrow<bf16>(dot[i]);
  }
}

// --- All six ---------------------------------------------------------------------------------------------

}  // namespace mtpx::cuda

namespace mtpx {

/// h = x + Mla(norm(x)), appending to the cache.   x, h: [rows, hidden]
/// Where decode_fits(). The pass that this is part of must have begun with a kernel that waits for everything
/// before it.
template <typename T>
void decode_attention(const Cuda& device, const DecodeAttention<T>& p, const T* x, T* h) {
  static_assert(std::is_same_v<T, bf16>);
  using namespace cuda;
  const int rows = static_cast<int>(p.rows), hidden = static_cast<int>(p.hidden);
  const int q_rank = static_cast<int>(p.q_rank), latent = static_cast<int>(p.latent);
  const AttentionShape& s = p.heads;
  const int q_width = static_cast<int>(s.heads * (s.nope + s.rope)),
            width = latent + static_cast<int>(s.rope);
  const int v_width = static_cast<int>(s.heads * s.v), parts = latent_most(p.capacity);
  const bool joined = device.properties().major >= 9 && joins_queries(p);
  const Workspace<bf16> q_low(device, rows * p.q_rank), q(device, joined ? 0 : rows * Index{q_width});
  const Workspace<bf16> kv(device, rows * Index{width}), o(device, rows * Index{v_width});
  const Workspace<float> absorbed(device, rows * s.heads * width);
  const Workspace<float> memory(device, LatentPartials<float>::numbers(rows, s.heads, latent, parts));
  const LatentPartials<float> partials(memory.data(), rows, s.heads, latent, parts);
  const FusedMatrix first = {p.q_a, p.q_rank > 0 ? q_rank : q_width, p.q_rank > 0 ? q_low.data() : q.data()};
  const FusedMatrix second = {p.kv_a, width, kv.data()};
  const NewEntries entries = {kv.data(),
                              p.kv_norm,
                              p.latent_eps,
                              p.cos,
                              p.sin,
                              p.sequences,
                              p.positions,
                              p.places,
                              p.cache,
                              latent,
                              static_cast<int>(s.rope),
                              p.capacity};
  with_fused_tiles(rows, [&](auto tiles) {
    with_split(p.hidden, 0, [&](auto split, auto deep) {
      launch_early(device, "decode_attention", fused_products<tiles(), split(), deep()>,
                   dim3(fused_blocks<split(), deep()>(device, first.out, second.out)), dim3(stream_threads),
                   NormedRows::bytes(rows, hidden), rows, hidden, x, p.hidden, first, second,
                   Around{p.norm, p.eps, nullptr});
    });
    if (joined || p.q_rank == 0) return;
    with_split(p.q_rank, 0, [&](auto split, auto deep) {
      const FusedMatrix queries = {p.q_b, q_width, q.data()};
      launch_early(device, "decode_attention", fused_queries<tiles(), split(), deep()>,
                   dim3(fused_blocks<split(), deep()>(device, q_width) + static_cast<unsigned>(rows)),
                   dim3(stream_threads), NormedRows::bytes(rows, q_rank), rows, q_rank,
                   static_cast<const bf16*>(q_low.data()), queries, Around{p.q_norm, p.latent_eps, nullptr},
                   entries);
    });
  });
  if (joined) {
    const HeadQueries queries = {q_low.data(), p.q_norm, p.latent_eps,   q_rank,
                                 p.q_b,        p.kv_b,   absorbed.data()};
    with_fused_tiles(rows, [&](auto tiles) {
      const auto run = [&](auto batch) {
        launch_early_clusters(device, "decode_attention", fused_head_queries<tiles(), batch()>, head_blocks,
                              dim3(head_blocks, static_cast<unsigned>(s.heads + 1)), dim3(stream_threads),
                              head_queries_shared<tiles()>(rows, queries.in), s, rows, queries, entries);
      };
      if (queries.in <= 3 * stream_warps * stream_step) {
        run(std::integral_constant<int, 3>{});
      } else {
        run(std::integral_constant<int, 6>{});
      }
    });
  } else {
    const bool entries_left = p.q_rank == 0;
    launch_early(device, "decode_attention", fused_absorb,
                 dim3(static_cast<unsigned>(ceil_div(latent, absorb_columns_of_block)),
                      static_cast<unsigned>(s.heads + entries_left),
                      static_cast<unsigned>(ceil_div(rows, absorb_rows))),
                 dim3(stream_threads), 0, s, latent, rows, static_cast<const bf16*>(q.data()), p.kv_b, p.cos,
                 p.sin, p.positions, absorbed.data(), entries);
  }
  queue_latent_parts<bf16>(device, LatentShape{rows, s.heads, latent, s.rope, p.capacity}, p.sequences,
                           p.positions, p.paths, absorbed.data(), p.cache, p.scale, partials, true);
  // Every block joins the parts again: no more blocks of a head than the chip needs to be full.
  const auto expand = [&](auto each) {
    launch_early(device, "decode_attention", fused_expand<each()>,
                 dim3(static_cast<unsigned>(ceil_div(s.v, each() * stream_warps)),
                      static_cast<unsigned>(s.heads), static_cast<unsigned>(rows)),
                 dim3(stream_threads), 0, s, latent, p.positions, partials, p.kv_b, o.data());
  };
  if (s.heads * ceil_div(s.v, 4 * stream_warps) >= device.processors()) {
    expand(std::integral_constant<int, 4>{});
  } else {
    expand(std::integral_constant<int, 2>{});
  }
  with_fused_tiles(rows, [&](auto tiles) {
    with_split(v_width, 0, [&](auto split, auto deep) {
      launch_early(device, "decode_attention", fused_products<tiles(), split(), deep()>,
                   dim3(fused_blocks<split(), deep()>(device, hidden)), dim3(stream_threads), 0, rows,
                   v_width, static_cast<const bf16*>(o.data()), Index{v_width}, FusedMatrix{p.o, hidden, h},
                   FusedMatrix{}, Around{nullptr, 0.0F, x});
    });
  });
}

}  // namespace mtpx
