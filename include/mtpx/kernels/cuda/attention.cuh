#pragma once
// Causal attention with a latent-attention head layout: tiled kernels for every type and width, and the
// choice between them and Hopper's (sm90/). Equations: kernels/cpu/attention.hpp.

#include "core/launch.cuh"

#ifdef MTPX_SM90A
#include "sm90/attention_backward.cuh"
#endif

namespace mtpx {

namespace cuda {

// --- One head ----------------------------------------------------------------------------------------------

inline constexpr int attention_tile = 64;      // queries or keys
inline constexpr int attention_columns = 128;  // of the output, per block: wider heads take several blocks

/// Blocks of 256 threads on a multiprocessor at once, which tells the compiler how many registers it has.
template <typename T>
inline constexpr int attention_blocks = sizeof(acc_t<T>) == 4 ? 2 : 1;

/// What one (sequence, head) reads and where its rows stand. All rows belong to one sequence.
template <typename T>
struct AttentionRows {
  AttentionShape s;
  const T* q;       // [time - before] rows of nope + rope, q_stride() apart
  const T* k_nope;  // [time] rows of nope, kv_stride() apart
  const T* v;       // [time] rows of v, as far apart
  const T* k_rope;  // [time] rows of rope, shared by all heads
  const std::int32_t* positions;

  __device__ AttentionRows(AttentionShape shape, Index head, const T* q_all, const T* kv_all,
                           const T* k_rope_all, const std::int32_t* positions_all)
      : s(shape) {
    const Index b = head / s.heads, h = head % s.heads;
    q = q_all + b * s.queries() * q_stride() + h * (s.nope + s.rope);
    k_nope = kv_all + b * s.time * kv_stride() + h * (s.nope + s.v);
    v = k_nope + s.nope;
    k_rope = k_rope_all + b * s.time * s.rope;
    positions = positions_all == nullptr ? nullptr : positions_all + b * s.time;
  }
  __device__ Index q_stride() const { return s.heads * (s.nope + s.rope); }
  __device__ Index kv_stride() const { return s.heads * (s.nope + s.v); }
  __device__ bool sees(Index i, Index j) const {
    return j <= i && i < s.time && (positions == nullptr || j >= i - positions[i]);
  }
};

/// Rows [begin, begin + count) of something, `stride` apart, from column 0 on.
template <typename T>
struct RowsOf {
  const T* data;
  Index stride;
  Index count;
};
template <typename T>
__device__ RowsOf<T> rows_from(const T* data, Index stride, Index begin, Index time) {
  return {data + begin * stride, stride, time - begin};
}

// --- Products over tiles -----------------------------------------------------------------------------------
//
// 256 threads as 16 x 16; thread (ty, tx) holds rows ty + 16 i and columns tx + 16 j of every tile.

template <typename A>
struct AttentionShared {
  static constexpr int depth = 64 / static_cast<int>(sizeof(A));
  static constexpr int pitch = attention_tile + 1;
  A weights[attention_tile * pitch];  // P or dS
  union {
    struct {
      A left[depth * pitch], right[depth * pitch];  // [depth, 64]: columns of two tiles
    };
    A values[depth * attention_columns];  // [depth, 128]: rows of the right operand
  };
};

/// sums [64, 64] += A B^T over `width` columns. Rows that do not exist count as zeros.
template <typename T, typename A>
__device__ void add_scores(AttentionShared<A>& shared, A (&sums)[4][4], RowsOf<T> a, RowsOf<T> b,
                           Index width) {
  constexpr int depth = AttentionShared<A>::depth, pitch = AttentionShared<A>::pitch;
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  for (Index begin = 0; begin < width; begin += depth) {
    __syncthreads();
    for (int at = t; at < depth * attention_tile; at += 256) {
      const int row = at / depth, c = at % depth;
      const bool inside = begin + c < width;
      shared.left[c * pitch + row] =
          inside && row < a.count ? widen(a.data[row * a.stride + begin + c]) : A(0);
      shared.right[c * pitch + row] =
          inside && row < b.count ? widen(b.data[row * b.stride + begin + c]) : A(0);
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < depth; ++c) {
      A x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = shared.left[c * pitch + ty + 16 * i];
        y[i] = shared.right[c * pitch + tx + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = exact::fma(x[i], y[j], sums[i][j]);
      }
    }
  }
}

/// sums [64, 128] += W B: W in shared.weights, or its transpose there; B of 64 rows, `width` columns of it.
template <bool transposed, typename T, typename A>
__device__ void add_product(AttentionShared<A>& shared, A (&sums)[4][8], RowsOf<T> b, Index width) {
  constexpr int depth = AttentionShared<A>::depth, pitch = AttentionShared<A>::pitch;
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  for (int begin = 0; begin < attention_tile; begin += depth) {
    __syncthreads();
    for (int at = t; at < depth * attention_columns; at += 256) {
      const int row = at / attention_columns, c = at % attention_columns;
      const bool inside = c < width && begin + row < b.count;
      shared.values[at] = inside ? widen(b.data[(begin + row) * b.stride + c]) : A(0);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < depth; ++k) {
      A x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = ty + 16 * i;
        x[i] = shared.weights[transposed ? (begin + k) * pitch + row : row * pitch + begin + k];
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const A y = shared.values[k * attention_columns + tx + 16 * j];
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i][j] = exact::fma(x[i], y, sums[i][j]);
      }
    }
  }
}

/// The scores q_i . k_j of queries from `first` and keys from `begin` on.
template <typename T, typename A>
__device__ void scores_of(AttentionShared<A>& shared, A (&sums)[4][4], const AttentionRows<T>& head,
                          Index first, Index begin) {
  for (auto& row : sums) {
    for (A& sum : row) sum = A(0);
  }
  const auto q = rows_from(head.q, head.q_stride(), first - head.s.before, head.s.queries());
  add_scores(shared, sums, q, rows_from(head.k_nope, head.kv_stride(), begin, head.s.time), head.s.nope);
  add_scores(shared, sums, {q.data + head.s.nope, q.stride, q.count},
             rows_from(head.k_rope, head.s.rope, begin, head.s.time), head.s.rope);
}

/// Over the 16 threads that hold a row's columns.
template <typename A, typename Combine>
__device__ A across_row(A x, Combine combine) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(whole_warp, x, offset));
  return x;
}

/// The first key tile that queries [first, first + 64) see. All threads.
template <typename T>
__device__ Index first_tile(const AttentionRows<T>& head, Index first) {
  if (head.positions == nullptr) return 0;
  Index least = first;
  for (Index i = first; i < min(first + attention_tile, head.s.time); ++i) {
    least = min(least, max(Index{0}, i - head.positions[i]));
  }
  return least / attention_tile * attention_tile;
}

// --- Forward -----------------------------------------------------------------------------------------------

/// Block (head and query tile, columns of v): a running maximum m and sum l over key tiles, as on the CPU.
template <typename T>
__global__ void __launch_bounds__(256, attention_blocks<T>)
    attention_forward_kernel(AttentionShape s, const T* q, const T* kv, const T* k_rope,
                             const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse) {
  using A = acc_t<T>;
  __shared__ AttentionShared<A> shared;
  const Index tiles = (s.queries() + attention_tile - 1) / attention_tile;
  const Index heads = s.batch * s.heads;
  const Index task = blockIdx.x % heads;
  // The longest rows first.
  const Index first = s.before + (tiles - 1 - blockIdx.x / heads) * attention_tile;
  const Index column = Index{blockIdx.y} * attention_columns;
  const AttentionRows<T> head(s, task, q, kv, k_rope, positions);
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  A out[4][8] = {}, top[4], total[4] = {};
  for (A& m : top) m = -A(INFINITY);

  for (Index begin = first_tile(head, first); begin < first + attention_tile; begin += attention_tile) {
    A p[4][4];
    scores_of(shared, p, head, first, begin);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Index query = first + ty + 16 * i;
      const auto seen = [&](int j) { return head.sees(query, begin + tx + 16 * j); };
      A highest = top[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (seen(j)) highest = max(highest, p[i][j] * scale);
      }
      highest = across_row(highest, [](A x, A y) { return max(x, y); });
      const A shrink = total[i] == A(0) ? A(0) : exponential<T>(top[i] - highest);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        p[i][j] = seen(j) ? exponential<T>(exact::fma(p[i][j], scale, -highest)) : A(0);
        shared.weights[(ty + 16 * i) * shared.pitch + tx + 16 * j] = p[i][j];
      }
      const A sum = (p[i][0] + p[i][2]) + (p[i][1] + p[i][3]);  // first those 32 apart, then 16, ...
      total[i] = exact::fma(total[i], shrink, across_row(sum, [](A x, A y) { return x + y; }));
      top[i] = highest;
#pragma unroll
      for (int j = 0; j < 8; ++j) out[i][j] *= shrink;
    }
    auto values = rows_from(head.v, head.kv_stride(), begin, s.time);
    values.data += column;
    add_product<false>(shared, out, values, s.v - column);
  }

  const Index b = task / s.heads, h = task % s.heads;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Index query = first + ty + 16 * i, row = query - s.before;
    if (query >= s.time) continue;
    T* const to = o + ((b * s.queries() + row) * s.heads + h) * s.v;  // [v]
    for (int j = 0; j < 8; ++j) {
      if (const Index c = column + tx + 16 * j; c < s.v) to[c] = narrow<T>(out[i][j] / total[i]);
    }
    if (tx == 0 && column == 0) lse[task * s.queries() + row] = top[i] + exact::log(total[i]);
  }
}

// --- Backward ----------------------------------------------------------------------------------------------

/// delta [batch, heads, time]: delta_i = sum_c do_ic o_ic, in the order of do_i . v_j. A thread for each.
template <typename T>
__global__ void __launch_bounds__(64)
    attention_delta_kernel(AttentionShape s, const T* o, const T* d_o, acc_t<T>* delta) {
  const Index row = Index{blockIdx.x} * 64 + threadIdx.x;  // of [batch, time, heads]
  if (row >= s.batch * s.time * s.heads) return;
  acc_t<T> sum(0);
#pragma unroll 8
  for (Index c = 0; c < s.v; ++c) sum = exact::fma(widen(d_o[row * s.v + c]), widen(o[row * s.v + c]), sum);
  const Index h = row % s.heads, t = row / s.heads % s.time, b = row / s.heads / s.time;
  delta[(b * s.heads + h) * s.time + t] = sum;
}

template <typename T>
struct AttentionGradient {
  AttentionShape s;
  const T *q, *kv, *k_rope;
  const std::int32_t* positions;
  acc_t<T> scale;
  const T* d_o;
  const acc_t<T>*lse, *delta;
};

/// To shared.weights, for queries from `first` and keys from `begin` on: P, or dS = P (dP - delta) scale.
template <typename T, typename A>
__device__ void weights_of(AttentionShared<A>& shared, const AttentionGradient<T>& g,
                           const AttentionRows<T>& head, Index task, Index first, Index begin, bool ds) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const Index b = task / g.s.heads, h = task % g.s.heads, o_stride = g.s.heads * g.s.v;
  A p[4][4], dp[4][4] = {};
  scores_of(shared, p, head, first, begin);
  if (ds) {
    add_scores(shared, dp, rows_from(g.d_o + b * g.s.time * o_stride + h * g.s.v, o_stride, first, g.s.time),
               rows_from(head.v, head.kv_stride(), begin, g.s.time), g.s.v);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Index query = first + ty + 16 * i;
    const Index row = task * g.s.time + min(query, g.s.time - 1);
    const A lse = g.lse[row], delta = g.delta[row];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      A w = exponential<T>(exact::fma(p[i][j], g.scale, -lse));
      if (ds) w = w * (dp[i][j] - delta) * g.scale;
      shared.weights[(ty + 16 * i) * shared.pitch + tx + 16 * j] =
          head.sees(query, begin + tx + 16 * j) ? w : A(0);
    }
  }
}

/// Block (head and key tile, columns of [k | v]): dv_j = sum_i p_ij do_i, dk_j = sum_i ds_ij q_i over query
/// tiles. `parts` [batch, heads, time, rope], or null: this head's dk_rope.
template <typename T>
__global__ void __launch_bounds__(256, attention_blocks<T>)
    attention_keys_kernel(AttentionGradient<T> g, Sink<T> dkv, acc_t<T>* parts) {
  using A = acc_t<T>;
  __shared__ AttentionShared<A> shared;
  const AttentionShape& s = g.s;
  const Index heads = s.batch * s.heads, task = blockIdx.x % heads, width = s.nope + s.rope;
  const Index begin = blockIdx.x / heads * attention_tile;
  const Index k_blocks = (width + attention_columns - 1) / attention_columns;
  const bool of_k = blockIdx.y < k_blocks;
  const Index column = (blockIdx.y - (of_k ? 0 : k_blocks)) * attention_columns;
  const AttentionRows<T> head(s, task, g.q, g.kv, g.k_rope, g.positions);
  const Index b = task / s.heads, h = task % s.heads;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const T* const d_o = g.d_o + b * s.time * s.heads * s.v + h * s.v;
  A out[4][8] = {};
  for (Index first = begin; first < s.time; first += attention_tile) {
    if (first_tile(head, first) > begin) continue;
    weights_of(shared, g, head, task, first, begin, of_k);
    auto rows = of_k ? rows_from(head.q, head.q_stride(), first, s.time)
                     : rows_from(d_o, s.heads * s.v, first, s.time);
    rows.data += column;
    add_product<true>(shared, out, rows, (of_k ? width : s.v) - column);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Index t = begin + ty + 16 * i;
    if (t >= s.time) continue;
    for (int j = 0; j < 8; ++j) {
      const Index c = column + tx + 16 * j;
      if (c >= (of_k ? width : s.v)) continue;
      if (of_k && c >= s.nope) {
        if (parts != nullptr) parts[(task * s.time + t) * s.rope + c - s.nope] = out[i][j];
      } else if (dkv.data != nullptr) {
        T* const to = dkv.data + ((b * s.time + t) * s.heads + h) * (s.nope + s.v);  // [nope | v]
        put(to + (of_k ? c : s.nope + c), out[i][j], dkv.accumulate);
      }
    }
  }
}

/// Block (head and query tile, columns of q): dq_i = sum_j ds_ij k_j over key tiles.
template <typename T>
__global__ void __launch_bounds__(256, attention_blocks<T>)
    attention_queries_kernel(AttentionGradient<T> g, Sink<T> dq) {
  using A = acc_t<T>;
  __shared__ AttentionShared<A> shared;
  const AttentionShape& s = g.s;
  const Index heads = s.batch * s.heads, task = blockIdx.x % heads;
  const Index tiles = (s.time + attention_tile - 1) / attention_tile;
  const Index first = (tiles - 1 - blockIdx.x / heads) * attention_tile;
  const Index nope_blocks = (s.nope + attention_columns - 1) / attention_columns;
  const bool of_nope = blockIdx.y < nope_blocks;
  const Index column = (blockIdx.y - (of_nope ? 0 : nope_blocks)) * attention_columns;  // of nope or rope
  const Index width = of_nope ? s.nope : s.rope;
  const AttentionRows<T> head(s, task, g.q, g.kv, g.k_rope, g.positions);
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  A out[4][8] = {};
  for (Index begin = first_tile(head, first); begin <= first; begin += attention_tile) {
    weights_of(shared, g, head, task, first, begin, true);
    auto rows = of_nope ? rows_from(head.k_nope, head.kv_stride(), begin, s.time)
                        : rows_from(head.k_rope, s.rope, begin, s.time);
    rows.data += column;
    add_product<false>(shared, out, rows, width - column);
  }
  const Index b = task / s.heads, h = task % s.heads;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Index t = first + ty + 16 * i;
    if (t >= s.time) continue;
    T* const to = dq.data + ((b * s.time + t) * s.heads + h) * (s.nope + s.rope);  // [nope | rope]
    for (int j = 0; j < 8; ++j) {
      const Index c = column + tx + 16 * j;
      if (c < width) put(to + (of_nope ? c : s.nope + c), out[i][j], dq.accumulate);
    }
  }
}

/// dk_rope [batch, time, rope] (+)= the sum over heads, in their order, of parts [batch, heads, time, rope].
template <typename T>
__global__ void __launch_bounds__(256)
    attention_rope_kernel(AttentionShape s, const acc_t<T>* parts, Sink<T> dk_rope) {
  const Index at = Index{blockIdx.x} * 256 + threadIdx.x;
  if (at >= s.batch * s.time * s.rope) return;
  const Index per_head = s.time * s.rope;
  const acc_t<T>* const of = parts + at / per_head * s.heads * per_head + at % per_head;
  acc_t<T> total = dk_rope.accumulate ? widen(dk_rope.data[at]) : acc_t<T>(0);
  for (Index h = 0; h < s.heads; ++h) total += of[h * per_head];
  dk_rope.data[at] = narrow<T>(total);
}

/// The tiled kernels, for any shape.
template <typename T>
void tiled_attention_forward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                             const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse) {
  const Index blocks = s.batch * s.heads * ceil_div(s.queries(), attention_tile);
  const Index columns = std::max<Index>(1, ceil_div(s.v, attention_columns));
  launch(device, "attention_forward", attention_forward_kernel<T>,
         dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(columns)), 256, 0, s, q, kv, k_rope,
         positions, scale, o, lse);
}
template <typename T>
void tiled_attention_backward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                              const std::int32_t* positions, acc_t<T> scale, const T* o, const acc_t<T>* lse,
                              const T* d_o, Sink<T> dq, Sink<T> dkv, acc_t<T>* rope_parts) {
  const Index rows = s.batch * s.time * s.heads;
  const auto blocks = static_cast<unsigned>(s.batch * s.heads * ceil_div(s.time, attention_tile));
  const auto columns = [](Index a, Index b) {
    return static_cast<unsigned>(ceil_div(a, attention_columns) + ceil_div(b, attention_columns));
  };
  const Workspace<acc_t<T>> delta(device, rows);
  launch(device, "attention_delta", attention_delta_kernel<T>, static_cast<unsigned>(ceil_div(rows, 64)), 64,
         0, s, o, d_o, delta.data());
  const AttentionGradient<T> g{s, q, kv, k_rope, positions, scale, d_o, lse, delta.data()};
  if (dkv || rope_parts != nullptr) {
    launch(device, "attention_keys", attention_keys_kernel<T>, dim3(blocks, columns(s.nope + s.rope, s.v)),
           256, 0, g, dkv, rope_parts);
  }
  if (dq) {
    launch(device, "attention_queries", attention_queries_kernel<T>, dim3(blocks, columns(s.nope, s.rope)),
           256, 0, g, dq);
  }
}

}  // namespace cuda

/// Causal attention in tiles with a running maximum and sum (Dao et al. 2022, arXiv 2205.14135); see the CPU
/// twin. Tiles start at key 0, so a query's bits depend on itself and its keys alone. On Hopper, bf16 with
/// nope of 128 or 64, v a multiple of 64 and rope one of 8 up to 64 runs on the tensor cores (sm90/), all
/// else in the tiled kernels.
template <typename T>
void attention_forward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                       const std::int32_t* positions, acc_t<T> scale, T* o, acc_t<T>* lse) {
#ifdef MTPX_SM90A
  if constexpr (std::is_same_v<T, bf16>) {
    if (cuda::sm90::attention_forward(device, s, q, kv, k_rope, positions, scale, o, lse)) return;
  }
#endif
  cuda::tiled_attention_forward(device, s, q, kv, k_rope, positions, scale, o, lse);
}

/// Recomputes p = exp(scale * score - lse) tile by tile; see the CPU twin for the equations. Nothing is
/// summed by atomics: dk and dv are sums over queries in one kernel, dq over keys in another, and the heads'
/// parts of dk_rope are added in order.
template <typename T>
void attention_backward(const Cuda& device, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                        const std::int32_t* positions, acc_t<T> scale, const T* o, const acc_t<T>* lse,
                        const T* d_o, Sink<T> dq, Sink<T> dkv, Sink<T> dk_rope) {
  const Index rope_size = s.batch * s.time * s.rope;
  const cuda::Workspace<acc_t<T>> parts(device, dk_rope ? rope_size * s.heads : 0);
  acc_t<T>* const rope_parts = dk_rope ? parts.data() : nullptr;
  bool done = false;
#ifdef MTPX_SM90A
  if constexpr (std::is_same_v<T, bf16>) {
    done = cuda::sm90::attention_backward(device, s, q, kv, k_rope, positions, scale, o, lse, d_o, dq, dkv,
                                          rope_parts);
  }
#endif
  if (!done) {
    cuda::tiled_attention_backward(device, s, q, kv, k_rope, positions, scale, o, lse, d_o, dq, dkv,
                                   rope_parts);
  }
  if (dk_rope) {
    cuda::launch(device, "attention_rope", cuda::attention_rope_kernel<T>,
                 static_cast<unsigned>(cuda::ceil_div(rope_size, 256)), 256, 0, s, rope_parts, dk_rope);
  }
}

}  // namespace mtpx
