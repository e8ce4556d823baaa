#pragma once
// Twins of cpu/latent_attention.hpp: attention to the latent cache, for decoding. A sequence is cut into
// parts where the row's own position says, a block a part; all heads of a row share the entries that a block
// loads. Blocks beyond a row's position end at once: positions stay on the device. A row's bits depend on
// that row, its sequence and its position alone.

#include "latent_parts.cuh"

namespace mtpx {

namespace cuda {

// --- Any types and widths --------------------------------------------------------------------------------

/// Part blockIdx.x of row blockIdx.y, head blockIdx.z. Dynamic shared memory: q and o, [latent + rope] each.
template <typename T>
__global__ void __launch_bounds__(latent_threads)
    latent_part_any(LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,
                    const TreePaths paths, const acc_t<T>* q, const T* cache, acc_t<T> scale,
                    LatentPartials<acc_t<T>> to) {
  using A = acc_t<T>;
  extern __shared__ float4 memory[];
  __shared__ A p[latent_tile];
  const int latent = static_cast<int>(s.latent), width = latent + static_cast<int>(s.rope);
  A* const query = reinterpret_cast<A*>(memory);  // [width]
  A* const o = query + width;                     // [latent]
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Index row = blockIdx.y, head = blockIdx.z;
  const int length = positions[row] + 1;
  const int begin = static_cast<int>(blockIdx.x) * latent_part(length);
  if (begin >= length) return;
  const int end = min(length, begin + latent_part(length));
  const T* const all = cache + sequences[row] * s.capacity * width;  // [capacity, width]
  const std::int32_t* const path = paths.of(row);
  for (int c = thread; c < width; c += latent_threads) query[c] = q[(row * s.heads + head) * width + c];
  for (int c = thread; c < latent; c += latent_threads) o[c] = A(0);
  A top = -INFINITY, total = 0;
  for (int at = begin; at < end; at += latent_tile) {
    __syncthreads();
    for (int j = warp; j < latent_tile; j += latent_threads / 32) {
      A score = -INFINITY;
      if (at + j < end) {
        const T* const entry = all + TreePaths::at(path, at + j) * width;  // [width]
        A dot = 0;
        for (int c = lane; c < width; c += 32) dot = fma(query[c], A(widen(entry[c])), dot);
        score = warp_sum(dot) * scale;
      }
      if (lane == 0) p[j] = score;
    }
    __syncthreads();
    A highest = top;
#pragma unroll 8
    for (int j = 0; j < latent_tile; ++j) highest = p[j] > highest || p[j] != p[j] ? p[j] : highest;
    const A less = exact::exp(top - highest);
    __syncthreads();
    if (thread < latent_tile) p[thread] = exact::exp(p[thread] - highest);
    __syncthreads();
    A more = 0;
#pragma unroll 8
    for (int j = 0; j < latent_tile; ++j) more += p[j];
    total = total * less + more;
    top = highest;
    for (int c = thread; c < latent; c += latent_threads) {
      A sum = o[c] * less;
      for (int j = 0; j < min(latent_tile, end - at); ++j)
        sum = fma(p[j], A(widen(all[TreePaths::at(path, at + j) * width + c])), sum);
      o[c] = sum;
    }
  }
  const Index block = (row * to.parts + blockIdx.x) * s.heads + head;
  for (int c = thread; c < latent; c += latent_threads) to.o[block * latent + c] = o[c];
  if (thread == 0) {
    to.top_total[2 * block] = top;
    to.top_total[2 * block + 1] = total;
  }
}

/// out [rows, heads, latent]: the parts of row blockIdx.x, head blockIdx.y, in their order.
template <typename A>
__global__ void __launch_bounds__(latent_threads)
    latent_join(LatentShape s, const std::int32_t* positions, LatentPartials<A> from, A* out) {
  __shared__ A tops[latent_most_parts], totals[latent_most_parts], shares[latent_most_parts];
  const Index row = blockIdx.x, head = blockIdx.y;
  const int parts = latent_parts(positions[row] + 1), thread = static_cast<int>(threadIdx.x);
  const auto block = [&](int i) { return (row * from.parts + i) * s.heads + head; };
  if (thread < parts) {
    tops[thread] = from.top_total[2 * block(thread)];
    totals[thread] = from.top_total[2 * block(thread) + 1];
  }
  __syncthreads();
  A highest = -INFINITY;
  for (int i = 0; i < parts; ++i) highest = tops[i] > highest || tops[i] != tops[i] ? tops[i] : highest;
  if (thread < parts) shares[thread] = exact::exp(tops[thread] - highest);
  __syncthreads();
  A total = 0;
  for (int i = 0; i < parts; ++i) total = fma(shares[i], totals[i], total);
  for (Index c = thread; c < s.latent; c += latent_threads) {
    A sum = 0;
#pragma unroll 8
    for (int i = 0; i < parts; ++i) sum = fma(shares[i], from.o[block(i) * s.latent + c], sum);
    out[(row * s.heads + head) * s.latent + c] = sum / total;
  }
}

/// Queues the parts of all rows.   early: see latent_parts_bf16
template <typename T>
void queue_latent_parts(const Cuda& device, const LatentShape& s, const std::int32_t* sequences,
                        const std::int32_t* positions, const TreePaths& paths, const acc_t<T>* q,
                        const T* cache, acc_t<T> scale, const LatentPartials<acc_t<T>>& to, bool early) {
  const auto parts = static_cast<unsigned>(to.parts), rows = static_cast<unsigned>(s.rows);
  if constexpr (std::is_same_v<T, bf16>) {
    if (latent_fits(s.latent, s.rope) && can_be_wide<T>(s.latent + s.rope, 0, cache)) {
      const dim3 grid(parts, rows, static_cast<unsigned>(ceil_div(s.heads, latent_heads)));
      const std::size_t shared = latent_shared(s.latent + s.rope);
      if (early) {
        launch_early(device, "latent_attention", latent_parts_bf16<T>, grid, dim3(latent_threads), shared, s,
                     sequences, positions, paths, q, cache, scale, to, true);
      } else {
        launch(device, "latent_attention", latent_parts_bf16<T>, grid, dim3(latent_threads), shared, s,
               sequences, positions, paths, q, cache, scale, to, false);
      }
      return;
    }
  }
  launch(device, "latent_attention", latent_part_any<T>, dim3(parts, rows, static_cast<unsigned>(s.heads)),
         dim3(latent_threads), static_cast<std::size_t>(2 * s.latent + s.rope) * sizeof(acc_t<T>), s,
         sequences, positions, paths, q, cache, scale, to);
}

template <typename T>
__global__ void append_entries(LatentShape s, const std::int32_t* sequences, const std::int32_t* positions,
                               const T* latent, const T* k_rope, T* cache) {
  const Index row = blockIdx.x;
  T* const entry =
      cache + (sequences[row] * s.capacity + positions[row]) * (s.latent + s.rope);  // [latent | rope]
  for (Index c = threadIdx.x; c < s.latent + s.rope; c += blockDim.x)
    entry[c] = c < s.latent ? latent[row * s.latent + c] : k_rope[row * s.rope + c - s.latent];
}

/// absorbed [rows, heads, latent + rope]: a thread a column, `dot_rows` rows at a time.
template <typename T>
__global__ void absorb_columns(AttentionShape s, Index latent, Index rows, const T* q, const T* w,
                               acc_t<T>* absorbed) {
  using A = acc_t<T>;
  const Index head = blockIdx.y, c = blockIdx.x * static_cast<Index>(blockDim.x) + threadIdx.x;
  const Index first = blockIdx.z * static_cast<Index>(dot_rows);
  if (c >= latent + s.rope) return;
  const int count = static_cast<int>(rows - first < dot_rows ? rows - first : dot_rows);
  const Index q_width = s.nope + s.rope, stride = s.heads * q_width;
  const T* const qh = q + first * stride + head * q_width;                    // [rows][nope + rope]
  A* const to = absorbed + (first * s.heads + head) * (latent + s.rope) + c;  // [rows]
  A sum[dot_rows] = {};
  if (c < latent) {
    const T* const column = w + head * (s.nope + s.v) * latent + c;  // [nope]
#pragma unroll 4
    for (Index n = 0; n < s.nope; ++n) {
      const A wn = widen(column[n * latent]);
#pragma unroll
      for (int r = 0; r < dot_rows; ++r) {
        if (r < count) sum[r] = fma(A(widen(qh[r * stride + n])), wn, sum[r]);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < dot_rows; ++r) {
      if (r < count) sum[r] = widen(qh[r * stride + s.nope + c - latent]);
    }
  }
#pragma unroll
  for (int r = 0; r < dot_rows; ++r) {
    if (r < count) to[r * s.heads * (latent + s.rope)] = sum[r];
  }
}

/// o [rows, heads * v]: `outputs` of a head a warp, `dot_rows` rows at a time, read once for them all.
///   attended: [rows, heads, latent]   w: [heads, nope + v, latent]
template <int N, int outputs, typename T>
__global__ void __launch_bounds__(stream_threads)
    expand_outputs(AttentionShape s, Index latent, Index rows, const acc_t<T>* attended, const T* w, T* o) {
  using A = acc_t<T>;
  const Index output = (blockIdx.x * static_cast<Index>(stream_warps) + threadIdx.x / 32) * outputs;
  if (output >= s.heads * s.v) return;
  const Index head = output / s.v, first = blockIdx.y * static_cast<Index>(dot_rows);
  const int count = static_cast<int>(rows - first < dot_rows ? rows - first : dot_rows);
  const A* const x = attended + (first * s.heads + head) * latent;  // [rows], heads * latent apart
  const T* const wv = w + (head * (s.nope + s.v) + s.nope + output % s.v) * latent;  // [outputs, latent]
  A sum[outputs][dot_rows] = {};
#pragma unroll 1
  for (Index k = threadIdx.x % 32 * N; k < latent; k += 32 * N) {
    Pack<T, N> wk[outputs];
#pragma unroll
    for (int i = 0; i < outputs; ++i) wk[i] = *reinterpret_cast<const Pack<T, N>*>(wv + i * latent + k);
#pragma unroll
    for (int r = 0; r < dot_rows; ++r) {
      if (r >= count) break;
      const Pack<A, N> xk = *reinterpret_cast<const Pack<A, N>*>(x + r * s.heads * latent + k);
#pragma unroll
      for (int i = 0; i < outputs; ++i) {
#pragma unroll
        for (int n = 0; n < N; ++n) sum[i][r] = fma(xk.value[n], A(widen(wk[i].value[n])), sum[i][r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < dot_rows; ++r) {
    if (r >= count) break;
#pragma unroll
    for (int i = 0; i < outputs; ++i) {
      const A total = warp_sum(sum[i][r]);
      if (threadIdx.x % 32 == 0) o[(first + r) * s.heads * s.v + output + i] = narrow<T>(total);
    }
  }
}

}  // namespace cuda

/// q [rows, heads * (nope + rope)] -> absorbed [rows, heads * (latent + rope)] = [q_nope W_UK | q_rope] per
/// head. w: kv_b_proj [heads * (nope + v), latent].
template <typename T>
void absorb_query(const Cuda& device, AttentionShape s, Index latent, Index rows, const T* q, const T* w,
                  acc_t<T>* absorbed) {
  constexpr Index threads = 128;
  cuda::launch(
      device, "absorb_query", cuda::absorb_columns<T>,
      dim3(static_cast<unsigned>(cuda::ceil_div(latent + s.rope, threads)), static_cast<unsigned>(s.heads),
           static_cast<unsigned>(cuda::ceil_div(rows, cuda::dot_rows))),
      dim3(threads), 0, s, latent, rows, q, w, absorbed);
}

/// Writes row r's latent and rotated key into entry positions[r] of sequence sequences[r].
///   latent: [rows, latent] dense   k_rope: [rows, rope] dense   cache: [sequences, capacity, latent + rope]
template <typename T>
void append_latent(const Cuda& device, LatentShape s, const std::int32_t* sequences,
                   const std::int32_t* positions, const T* latent, const T* k_rope, T* cache) {
  cuda::launch(device, "append_latent", cuda::append_entries<T>, dim3(static_cast<unsigned>(s.rows)),
               dim3(128), 0, s, sequences, positions, latent, k_rope, cache);
}

/// One query row against entries 0 .. positions[row] of its sequence, in a tree those of its branch.
///   q: [rows, heads * (latent + rope)]   cache: [sequences, capacity, latent + rope]
///   out: [rows, heads * latent] = sum_j p_j c_j
template <typename T>
void latent_attention(const Cuda& device, LatentShape s, const std::int32_t* sequences,
                      const std::int32_t* positions, const TreePaths& paths, const acc_t<T>* q,
                      const T* cache, acc_t<T> scale, acc_t<T>* out) {
  using A = acc_t<T>;
  using Partials = cuda::LatentPartials<A>;
  const int parts = cuda::latent_most(s.capacity);
  // Rows at a time, so that what the parts leave behind stays small beside the cache.
  constexpr Index most_numbers = Index{1} << 25;
  const Index of_one = Partials::numbers(1, s.heads, s.latent, parts);
  const Index at_once = std::clamp<Index>(most_numbers / of_one, 1, std::max<Index>(1, s.rows));
  const cuda::Workspace<A> memory(device, at_once * of_one);
  const Index rows = s.rows;
  for (Index first = 0; first < rows; first += at_once) {
    s.rows = std::min(at_once, rows - first);
    const Partials partials(memory.data(), s.rows, s.heads, s.latent, parts);
    cuda::queue_latent_parts<T>(device, s, sequences + first, positions + first, paths.from(first),
                                q + first * s.heads * (s.latent + s.rope), cache, scale, partials, false);
    cuda::launch(device, "latent_attention", cuda::latent_join<A>,
                 dim3(static_cast<unsigned>(s.rows), static_cast<unsigned>(s.heads)),
                 dim3(cuda::latent_threads), 0, s, positions + first, partials,
                 out + first * s.heads * s.latent);
  }
}

/// o [rows, heads * v] = W_UV,h (attended latent of head h).   attended: [rows, heads * latent]
template <typename T>
void expand_value(const Cuda& device, AttentionShape s, Index latent, Index rows, const acc_t<T>* attended,
                  const T* w, T* o) {
  constexpr int most = std::min(cuda::wide<acc_t<T>>, cuda::wide<T>);
  const auto run = [&](auto n) {
    const auto with = [&](auto outputs) {
      cuda::launch(device, "expand_value", cuda::expand_outputs<n(), outputs(), T>,
                   dim3(static_cast<unsigned>(cuda::ceil_div(s.heads * s.v, outputs() * cuda::stream_warps)),
                        static_cast<unsigned>(cuda::ceil_div(rows, cuda::dot_rows))),
                   dim3(cuda::stream_threads), 0, s, latent, rows, attended, w, o);
    };
    if (s.v % 4 == 0) {
      with(std::integral_constant<int, 4>{});
    } else {
      with(std::integral_constant<int, 1>{});
    }
  };
  if (latent % most == 0) {
    run(std::integral_constant<int, most>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace mtpx
