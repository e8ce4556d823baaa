#pragma once
// The core of Hopper's matrix products here: C [128, 256] += A [128, 64] B [64, 256], bf16 with float sums.
//
// One block per multiprocessor, walking tiles. A producer thread keeps the copy engine busy filling a ring of
// four stages; two warpgroups of 64 rows each multiply and release stages. What a tile leaves to be written
// is packed to bf16 at its end and written while the next tile's first products run. What is multiplied and
// where it goes is a job:
//
//   struct Job {
//     static constexpr int a_transposed;  // 0: rows in shared memory are m; 1: they are k
//     static constexpr int b_transposed;  // 0: rows in shared memory are n; 1: they are k
//     static constexpr bool ragged_k;     // the last step may hold fewer than 64 k: last_k()
//     static constexpr int parts;         // that write() comes in: 4, or 0 if finish() writes
//     struct Tile;
//
//     // All threads, before the first tile.
//     void prepare(int* table) const;
//     // False: no more tiles. The ids that a block asks for rise.
//     bool find(int id, const int* table, Tile&) const;
//     // How many times 64 k, and how many are in the last of them.
//     int steps(const Tile&) const;
//     int last_k(const Tile&) const;
//     // One thread: starts the copies of a step.
//     void load(const Tile&, int step, unsigned char* a, unsigned char* b, Barrier&) const;
//     // A warpgroup: what becomes of its 64 rows. For where a thread's sums stand see group_row().
//     void finish(const Tile&, float (&sums)[128], Packed&) const;
//     template <int part> void write(const Tile&, const Packed&) const;
//   };
//
// A stage as the copy engine leaves it: a k-major A is one box of 128 rows, an mn-major one two slabs of 64
// m; a k-major B holds 256 rows (of one matrix or of two), an mn-major one four slabs of 64 n.

#include "wgmma.cuh"

namespace mtpx::cuda::sm90 {

inline constexpr int tile_m = 128;
inline constexpr int tile_n = 256;
inline constexpr int step_k = 64;
inline constexpr int gemm_stages = 4;
inline constexpr int gemm_threads = 384;
inline constexpr int gemm_warps = 8;             // that multiply
inline constexpr int slab_bytes = step_k * 128;  // 64 columns of 64 rows

struct GemmStage {
  unsigned char a[tile_m * step_k * sizeof(bf16)];
  unsigned char b[tile_n * step_k * sizeof(bf16)];
};
/// Dynamic shared memory of a block; the job's table follows.
struct alignas(1024) GemmMemory {
  GemmStage stage[gemm_stages];
  Barrier full[gemm_stages], empty[gemm_stages];
};

/// A thread's 128 sums as pairs of bf16.
using Packed = std::uint32_t[tile_n / 4];

/// Zeros rows `from` .. 63 of slabs, by the 128 threads of a warpgroup: what stands behind an expert's last
/// row belongs to the next expert.
__device__ __forceinline__ void zero_rows(unsigned char* slabs, int count, int from) {
  const int per_slab = (step_k - from) * 8;  // 16 bytes each; swizzled within a row, so whole rows stay whole
  for (int i = static_cast<int>(threadIdx.x) % 128; i < count * per_slab; i += 128) {
    *reinterpret_cast<uint4*>(slabs + i / per_slab * slab_bytes + from * 128 + i % per_slab * 16) = uint4{};
  }
}

/// Writes a part, numbered at run time, of a tile.
template <typename Job>
__device__ __forceinline__ void write_part(const Job& job, int part, const typename Job::Tile& tile,
                                           const Packed& packed) {
  static_assert(Job::parts == 0 || Job::parts == 4);
  if constexpr (Job::parts > 0) {
    switch (part) {
      case 0:
        job.template write<0>(tile, packed);
        break;
      case 1:
        job.template write<1>(tile, packed);
        break;
      case 2:
        job.template write<2>(tile, packed);
        break;
      default:
        job.template write<3>(tile, packed);
        break;
    }
  }
}

template <typename Job>
__global__ void __launch_bounds__(gemm_threads, 1) gemm(const __grid_constant__ Job job) {
  extern __shared__ __align__(1024) unsigned char shared[];
  GemmMemory& memory = *reinterpret_cast<GemmMemory*>(shared);
  int* const table = reinterpret_cast<int*>(shared + sizeof(GemmMemory));
  if (threadIdx.x == 0) {
    for (int s = 0; s < gemm_stages; ++s) {
      init(memory.full[s], 1);
      init(memory.empty[s], gemm_warps);
    }
    fence_barriers();
  }
  job.prepare(table);
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / 128;
  Ring<gemm_stages> ring;
  typename Job::Tile tile;
  if (group == 2) {
    fewer_registers<24>();
    if (threadIdx.x != 256) return;
    for (int id = static_cast<int>(blockIdx.x); job.find(id, table, tile);
         id += static_cast<int>(gridDim.x)) {
      const int steps = job.steps(tile);
      for (int step = 0; step < steps; ++step, ring.next()) {
        wait(memory.empty[ring.slot], ring.parity ^ 1);
        arrive_expecting(memory.full[ring.slot], sizeof(GemmStage));
        GemmStage& stage = memory.stage[ring.slot];
        job.load(tile, step, stage.a, stage.b, memory.full[ring.slot]);
      }
    }
  } else {
    more_registers<240>();
    constexpr int ta = Job::a_transposed, tb = Job::b_transposed;
    const bool signals = threadIdx.x % 32 == 0;
    unsigned char* const first_a = memory.stage[0].a + group * slab_bytes;
    const std::uint64_t a = ta ? mn_major(first_a, step_k) : k_major(first_a);
    const std::uint64_t b = tb ? mn_major(memory.stage[0].b, step_k) : k_major(memory.stage[0].b);
    typename Job::Tile done;
    Packed packed;
    bool pending = false;  // whether `packed` waits to be written
    for (int id = static_cast<int>(blockIdx.x); job.find(id, table, tile);
         id += static_cast<int>(gridDim.x)) {
      const int steps = job.steps(tile);
      float sums[tile_n / 2];
      if (steps == 0) {
#pragma unroll
        for (float& sum : sums) sum = 0.0F;
      }
      int before = 0;  // the slot of the step before
      for (int step = 0; step < steps; ++step) {
        wait(memory.full[ring.slot], ring.parity);
        if constexpr (Job::ragged_k) {
          if (step == steps - 1 && job.last_k(tile) < step_k) {
            GemmStage& stage = memory.stage[ring.slot];
            zero_rows(stage.a + group * slab_bytes, 1, job.last_k(tile));
            zero_rows(stage.b, tile_n / 64, job.last_k(tile));  // both warpgroups write the same zeros
            fence_shared();
            named_barrier(1 + group, 128);
          }
        }
        const std::uint64_t at = static_cast<std::uint64_t>(ring.slot) * (sizeof(GemmStage) / 16);
        products_begin();
        keep(sums);
#pragma unroll
        for (int k = 0; k < step_k / 16; ++k) {
          product<tile_n, ta, tb>(sums, a + at + (ta ? mn_step(k) : k_step(k)),
                                  b + at + (tb ? mn_step(k) : k_step(k)), step > 0 || k > 0);
        }
        products_end();
        if (Job::parts > step && pending) write_part(job, step, done, packed);
        products_wait<1>();
        if (step > 0 && signals) arrive(memory.empty[before]);
        before = ring.slot;
        ring.next();
      }
      products_wait<0>();
      keep(sums);
      if (steps > 0 && signals) arrive(memory.empty[before]);
      for (int part = steps; part < Job::parts && pending; ++part) write_part(job, part, done, packed);
      job.finish(tile, sums, packed);
      if constexpr (Job::parts > 0) {
        done = tile;
        pending = true;
      }
    }
    for (int part = 0; part < Job::parts && pending; ++part) write_part(job, part, done, packed);
  }
}

/// Runs a job of at most `tiles` tiles; `table`: how many numbers prepare() writes.
template <typename Job>
void run(const Cuda& device, const char* name, const Job& job, Index tiles, Index table) {
  const Index blocks = std::min(tiles, Index{device.processors()});
  launch(device, name, gemm<Job>, dim3(static_cast<unsigned>(blocks)), dim3(gemm_threads),
         sizeof(GemmMemory) + static_cast<std::size_t>(table) * sizeof(int), job);
}

// --- From sums to memory ----------------------------------------------------------------------------------

/// The row of a tile at which this thread's sums stand; the others are 8 below.
__device__ __forceinline__ int group_row() {
  const int t = static_cast<int>(threadIdx.x);
  return t / 32 * 16 + t % 32 / 4;
}
/// The same for columns: the first of its pair in each eight.
__device__ __forceinline__ int group_column() { return static_cast<int>(threadIdx.x) % 4 * 2; }

/// Four registers of each of four neighbouring lanes, transposed: lane q gets the q-th of each.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&r)[4]) {
  const bool odd = threadIdx.x % 2 != 0, high = threadIdx.x % 4 >= 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const std::uint32_t got = __shfl_xor_sync(whole_warp, odd ? r[i] : r[i + 1], 1);
    (odd ? r[i] : r[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t got = __shfl_xor_sync(whole_warp, high ? r[i] : r[i + 2], 2);
    (high ? r[i] : r[i + 2]) = got;
  }
}

__device__ __forceinline__ void pack(const float (&sums)[tile_n / 2], Packed& packed) {
#pragma unroll
  for (int i = 0; i < tile_n / 4; ++i) packed[i] = pack_pair(sums[2 * i], sums[2 * i + 1]);
}
/// Of columns 32 g .. 32 g + 31 and row group_row() + 8 i, lane q of four gets eight neighbours, from column
/// 32 g + 8 q on.
__device__ __forceinline__ void take_eight(const Packed& packed, int g, int i, std::uint32_t (&r)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) r[j] = packed[8 * g + 2 * j + i];
  transpose_quad(r);
}
__device__ __forceinline__ void store_eight(bf16* to, const std::uint32_t (&r)[4]) {
  *reinterpret_cast<uint4*>(to) = uint4{r[0], r[1], r[2], r[3]};
}

/// A quarter (64 columns) of a tile [rows, columns] (what is left of the matrix) at `to`; columns and stride
/// in multiples of 8.
template <int part>
__device__ __forceinline__ void store_part(const Packed& packed, int rows, int columns, bf16* to,
                                           Index stride) {
  const int row = group_row(), column = 4 * group_column();
#pragma unroll
  for (int g = 2 * part; g < 2 * part + 2; ++g) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t r[4];
      take_eight(packed, g, i, r);
      if (row + 8 * i < rows && 32 * g + column < columns)
        store_eight(to + (row + 8 * i) * stride + 32 * g + column, r);
    }
  }
}
/// Two pairs of each of two neighbouring lanes, transposed: four neighbours, for the even lane the first
/// pairs.
__device__ __forceinline__ float4 transpose_pair(float a0, float a1, float b0, float b1) {
  const bool odd = threadIdx.x % 2 != 0;
  const float got0 = __shfl_xor_sync(whole_warp, odd ? a0 : b0, 1);
  const float got1 = __shfl_xor_sync(whole_warp, odd ? a1 : b1, 1);
  return odd ? float4{got0, got1, b0, b1} : float4{a0, a1, got0, got1};
}

/// A tile in float, added to what is there or not; columns and stride in multiples of 8.
template <int n>
__device__ __forceinline__ void store_tile(const float (&sums)[n], int rows, int columns, float* to,
                                           Index stride, bool accumulate) {
  constexpr int batch = 8;  // loads under way
  static_assert(n / 8 % batch == 0);
  const int odd = static_cast<int>(threadIdx.x) % 2;
  const int row = group_row(), column = 8 * odd + static_cast<int>(threadIdx.x) % 4 / 2 * 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* const at = to + (row + 8 * i) * stride + column;
    const bool inside = row + 8 * i < rows;
#pragma unroll
    for (int first = 0; first < n / 8; first += batch) {
      float4 old[batch] = {};
      if (accumulate) {
#pragma unroll
        for (int j = 0; j < batch; ++j) {
          const int c = 16 * (first + j);
          if (inside && c + column < columns) old[j] = *reinterpret_cast<const float4*>(at + c);
        }
      }
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        const int c = 16 * (first + j), s = 8 * (first + j) + 2 * i;
        float4 sum = transpose_pair(sums[s], sums[s + 1], sums[s + 4], sums[s + 5]);
        if (accumulate) {
          sum.x += old[j].x;
          sum.y += old[j].y;
          sum.z += old[j].z;
          sum.w += old[j].w;
        }
        if (inside && c + column < columns) *reinterpret_cast<float4*>(at + c) = sum;
      }
    }
  }
}

}  // namespace mtpx::cuda::sm90
