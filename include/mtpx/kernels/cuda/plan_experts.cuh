#pragma once
// The first of the kernels of cpu/experts.hpp: which slots go to which expert.

#include "core/launch.cuh"

namespace mtpx {

namespace cuda {

inline constexpr int plan_threads = 256;
inline constexpr int plan_warps = plan_threads / 32;
inline constexpr Index plan_chunk = 1024;  // slots of one block

/// counts[e][chunk] = slots of the chunk that chose e.   counts: [E, chunks]
template <int threads>
__global__ void count_slots(Index slots, int experts, Index chunks, const std::int32_t* ids,
                            std::int32_t* counts) {
  extern __shared__ std::int32_t count[];  // [experts]
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) count[e] = 0;
  __syncthreads();
  const Index end = min(slots, (blockIdx.x + 1) * plan_chunk);
  for (Index i = blockIdx.x * plan_chunk + threadIdx.x; i < end; i += threads) {
    atomicAdd(&count[ids[i]], 1);  // whole numbers: the order does not matter
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads)
    counts[e * chunks + blockIdx.x] = count[e];
}

/// The sum of the lanes below this one's and its own.
__device__ __forceinline__ std::int32_t warp_prefix(std::int32_t x) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const std::int32_t below = __shfl_up_sync(whole_warp, x, offset);
    if (lane >= offset) x += below;
  }
  return x;
}

/// counts[e][chunk] becomes the slots of e in the chunks before; totals[e] = all of them. A warp per expert.
template <int threads>
__global__ void scan_chunks(int experts, Index chunks, std::int32_t* counts, std::int32_t* totals) {
  const int e = static_cast<int>(blockIdx.x * plan_warps + threadIdx.x / 32);
  if (e >= experts) return;
  std::int32_t* row = counts + e * chunks;  // [chunks]
  std::int32_t before = 0;
  for (Index first = 0; first < chunks; first += 32) {
    const Index c = first + threadIdx.x % 32;
    const std::int32_t own = c < chunks ? row[c] : 0;
    const std::int32_t sum = warp_prefix(own);
    if (c < chunks) row[c] = before + sum - own;
    before += __shfl_sync(whole_warp, sum, 31);
  }
  if (threadIdx.x % 32 == 0) totals[e] = before;
}

/// Puts the slots of one chunk into their places; block 0 writes offsets and load. A warp walks its eighth of
/// the chunk in rounds of 32 neighbours, twice: counting, then placing. One chunk only: counts and totals are
/// not needed.
template <int threads, typename A>
__global__ void place_slots(Index slots, int experts, Index chunks, const std::int32_t* ids,
                            const std::int32_t* counts, const std::int32_t* totals, std::int32_t* offsets,
                            std::int32_t* slot, std::int32_t* place, A* load) {
  extern __shared__ std::int32_t next[];  // [plan_warps, experts], then [experts]
  std::int32_t* const total = next + plan_warps * experts;
  constexpr int rounds = static_cast<int>(plan_chunk) / plan_threads;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Index first = blockIdx.x * plan_chunk + warp * (rounds * 32) + lane;
  for (int i = static_cast<int>(threadIdx.x); i < plan_warps * experts; i += threads) next[i] = 0;
  __syncthreads();
  std::int32_t id[rounds];
  unsigned same[rounds];  // lanes with the same expert
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    const Index i = first + r * 32;
    id[r] = i < slots ? ids[i] : -1;
    same[r] = __match_any_sync(whole_warp, id[r]);
    if (id[r] >= 0 && lane == __ffs(static_cast<int>(same[r])) - 1)
      next[warp * experts + id[r]] += __popc(same[r]);
    __syncwarp();
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) {
    std::int32_t before = chunks > 1 ? counts[e * chunks + blockIdx.x] : 0;
    for (int w = 0; w < plan_warps; ++w) {
      const std::int32_t own = next[w * experts + e];
      next[w * experts + e] = before;
      before += own;
    }
    total[e] = chunks > 1 ? totals[e] : before;
  }
  __syncthreads();
  if (warp == 0) {  // total becomes the offset
    std::int32_t before = 0;
    for (int begin = 0; begin < experts; begin += 32) {
      const int e = begin + lane;
      const std::int32_t own = e < experts ? total[e] : 0;
      const std::int32_t sum = warp_prefix(own);
      if (e < experts) {
        total[e] = before + sum - own;
        if (blockIdx.x == 0) {
          offsets[e] = total[e];
          if (load != nullptr) load[e] += static_cast<A>(own);
        }
      }
      before += __shfl_sync(whole_warp, sum, 31);
    }
    if (blockIdx.x == 0 && lane == 0) offsets[experts] = before;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    const Index i = first + r * 32;
    std::int32_t* const counter = next + warp * experts + id[r];
    const int rank = __popc(same[r] & ((1U << lane) - 1U));
    std::int32_t at = 0;
    if (id[r] >= 0) at = total[id[r]] + *counter + rank;
    __syncwarp();
    if (id[r] >= 0 && rank == 0) *counter += __popc(same[r]);
    __syncwarp();
    if (id[r] >= 0) {
      slot[at] = static_cast<std::int32_t>(i);
      place[i] = at;
    }
  }
}

}  // namespace cuda

/// A stable sort of slots (token n, choice k -> n * K + k) by expert. Expert e owns the sorted places
/// offsets[e] .. offsets[e + 1); slot[place] and place[slot] are each other's inverse. Adds every expert's
/// share of the slots to load [E] unless that is null.
template <typename A>
void plan_experts(const Cuda& device, Index slots, Index experts, const std::int32_t* ids,
                  std::int32_t* offsets, std::int32_t* slot, std::int32_t* place, A* load) {
  const Index chunks = std::max(Index{1}, cuda::ceil_div(slots, cuda::plan_chunk));
  const int e = static_cast<int>(experts);
  const cuda::Workspace<std::int32_t> counts(device, experts * (chunks + 1));
  std::int32_t* const totals = counts.data() + experts * chunks;
  const dim3 grid(static_cast<unsigned>(chunks)), block(cuda::plan_threads);
  const auto row = static_cast<std::size_t>(experts) * sizeof(std::int32_t);
  if (chunks > 1) {
    cuda::launch(device, "plan_experts", cuda::count_slots<cuda::plan_threads>, grid, block, row, slots, e,
                 chunks, ids, counts.data());
    cuda::launch(device, "plan_experts", cuda::scan_chunks<cuda::plan_threads>,
                 dim3(static_cast<unsigned>(cuda::ceil_div(experts, cuda::plan_warps))), block, 0, e, chunks,
                 counts.data(), totals);
  }
  cuda::launch(device, "plan_experts", cuda::place_slots<cuda::plan_threads, A>, grid, block,
               row * (cuda::plan_warps + 1), slots, e, chunks, ids, counts.data(), totals, offsets, slot,
               place, load);
}

}  // namespace mtpx
