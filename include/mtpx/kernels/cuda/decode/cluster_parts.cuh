#pragma once
// What the blocks of one cluster do for each other: they store into each other's shared memory, and a counter
// of bytes there (an mbarrier) says when all is there. And the products of rows and weights that both stand
// in shared memory.

#include "../core/silu.cuh"
#include "../latent_parts.cuh"
#include "products.cuh"

#include <cstdio>

namespace mtpx::cuda {

// --- What comes from other blocks -----------------------------------------------------------------------

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
/// The same place in block `rank` of the cluster.
__device__ __forceinline__ std::uint32_t in_cluster(std::uint32_t here, int rank) {
  std::uint32_t there = 0;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
#endif
  return there;
}

/// 2^x.
__device__ __forceinline__ float power_of_two(float x) {
  float y = 0;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Both rounded, the first in the lower half.
__device__ __forceinline__ std::uint32_t round_pair(float first, float second) {
  std::uint32_t pair = 0;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

inline constexpr unsigned long long arrival_limit = 5'000'000'000ULL;  // nanoseconds

/// Bytes that come, turn by turn: from blocks of the cluster or from global memory.
struct Arrival {
  std::uint32_t at = 0;  // of the mbarrier

  __device__ __forceinline__ explicit Arrival(std::uint32_t barrier) : at(barrier) {}
  /// count: of those that come() or expect() a turn
  __device__ __forceinline__ void begin(int count = 1) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
  }
  __device__ __forceinline__ void come() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
#endif
  }
  /// How many come next: by one thread, once; some may have come before.
  __device__ __forceinline__ void expect(int bytes) const {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
#endif
  }
  /// Whether those of turn `turn`, from 0, are there; asks for some time.   near: from global memory alone
  template <bool near>
  __device__ __forceinline__ bool there(int turn) const {
    std::uint32_t done = 1;
#if __CUDA_ARCH__ >= 900
    if constexpr (near) {
      asm volatile(
          "{\n"
          ".reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n"
          "}"
          : "=r"(done)
          : "r"(at), "r"(turn % 2)
          : "memory");
      return done != 0;
    }
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(at), "r"(turn % 2)
        : "memory");
#endif
    return done != 0;
  }
  /// Until they are. Traps after some seconds.
  template <bool near = false>
  __device__ __forceinline__ void wait(int turn, const char* what) const {
    if (!there<near>(turn)) wait_long(*this, turn, what);
  }

 private:
  static __device__ __noinline__ void wait_long(Arrival arrival, int turn, const char* what) {
    const auto now = [] {
      unsigned long long t = 0;
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
      return t;
    };
    unsigned long long since = 0;
    for (unsigned tries = 1; !arrival.there<false>(turn); ++tries) {
      if (tries % 4096 != 0) continue;
      if (since == 0) since = now();
      if (now() - since <= arrival_limit) continue;
      if (threadIdx.x % 32 == 0)
        printf("[decode_blocks] block %u waited 5 s for %s, turn %d, which did not come\n", blockIdx.x, what,
               turn);
      __trap();
    }
  }
};

/// Stores 16 or 8 bytes into a block of the cluster and counts them there. Addresses: of in_cluster().
__device__ __forceinline__ void send(std::uint32_t to, const uint4& x, std::uint32_t arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          to),
      "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(arrival)
      : "memory");
#endif
}

// --- What comes from global memory ----------------------------------------------------------------------

/// Queues a copy into this block's shared memory, which `arrival` counts. Whole 16 bytes.
__device__ __forceinline__ void fetch_bytes(std::uint32_t to, const void* from, std::uint32_t bytes,
                                            std::uint32_t arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(arrival)
      : "memory");
#endif
}
/// What this thread stored in shared memory is there before copies that are queued behind a barrier.
__device__ __forceinline__ void order_before_copies() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- Products -------------------------------------------------------------------------------------------

/// Whether rows of w are whole lines of memory banks.
__host__ __device__ constexpr bool meets_banks(int width) { return width % 64 == 0; }
/// Numbers between the beginnings of rows of x in shared memory, so that two neighbours and four lanes each
/// meet no bank twice.
__host__ __device__ constexpr int row_stride(int width) { return (width + 31) / 64 * 64 + 32; }

inline constexpr int cluster_rows = 8;  // of a launch

extern __shared__ float4 cluster_memory[];

/// sum[i] += a w_i^T of eight rows and some tiles of 8 outputs, by a warp: steps `step` .. `end` of 32
/// numbers.
///   a, w: where this lane's numbers of step 0 begin. A sum's two halves are added by total().
/// Rows of w are dense. Where they are whole lines of memory banks, `swaps` is true for every other row,
/// whose lanes load two steps in the other order: so no two rows meet in a bank. Then `step` and `end` are
/// even.
template <int tiles>
struct TileSums {
  float sum[tiles][2][4] = {};

  __device__ __forceinline__ void add(const bf16* a, const bf16* const (&w)[tiles], int step, int end,
                                      bool swaps) {
    const int other = swaps ? stream_step : 0;
    int k = step * stream_step;
    const int stop = end * stream_step;
#pragma unroll 3
    for (; k + stream_step < stop; k += 2 * stream_step) {
      const uint4 x[2] = {at(a + k), at(a + k + stream_step)};
      uint4 v[tiles][2];
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        v[t][0] = at(w[t] + k + other);
        v[t][1] = at(w[t] + k + (stream_step - other));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int t = 0; t < tiles; ++t) {
          const uint4 one = v[t][i], two = v[t][1 - i];
          add(t, x[i],
              {swaps ? two.x : one.x, swaps ? two.y : one.y, swaps ? two.z : one.z, swaps ? two.w : one.w});
        }
      }
    }
    if (k >= stop) return;
#pragma unroll
    for (int t = 0; t < tiles; ++t) add(t, at(a + k), at(w[t] + k));
  }
  /// Of row lane / 4, output 2 (lane % 4) + i of tile t.
  __device__ __forceinline__ float total(int t, int i) const { return sum[t][0][i] + sum[t][1][i]; }

 private:
  static __device__ __forceinline__ uint4 at(const bf16* p) { return *reinterpret_cast<const uint4*>(p); }
  __device__ __forceinline__ void add(int t, const uint4& x, const uint4& y) {
    mma(sum[t][0], x.x, 0, x.y, 0, y.x, y.y);
    mma(sum[t][1], x.z, 0, x.w, 0, y.z, y.w);
  }
};

/// A pair as bf16s and what those leave out.
struct PairHalves {
  std::uint32_t high, low;

  __device__ __forceinline__ PairHalves(float first, float second) {
    high = round_pair(first, second);
    low = round_pair(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000U));
  }
};

__device__ __forceinline__ std::uint32_t both(bf16 low, bf16 high) {
  return low.bits | static_cast<std::uint32_t>(high.bits) << 16;
}

/// Of eight neighbouring numbers of a row, two a lane, all in each of these four lanes.
__device__ __forceinline__ uint4 gather_pairs(std::uint32_t mine) {
  const int first = static_cast<int>(threadIdx.x % 32 / 4 * 4);
  uint4 x;
  x.x = __shfl_sync(whole_warp, mine, first);
  x.y = __shfl_sync(whole_warp, mine, first + 1);
  x.z = __shfl_sync(whole_warp, mine, first + 2);
  x.w = __shfl_sync(whole_warp, mine, first + 3);
  return x;
}

/// y = x / sqrt(mean(x^2) + eps) * gain, rounded: a row a warp, N neighbours a lane, all in shared memory.
///   width: multiple of N   share: 1 / width
template <int N>
__device__ __forceinline__ void norm_row(int width, float share, const bf16* x, const float* gain, float eps,
                                         bf16* y) {
  using P = Pack<bf16, N>;
  using G = Pack<float, N>;
  const int first = static_cast<int>(threadIdx.x % 32) * N;
  const bool mine = first < width;
  const P kept = mine ? *reinterpret_cast<const P*>(x + first) : P{};
  const G gains = mine ? *reinterpret_cast<const G*>(gain + first) : G{};
  float squares[2] = {};
  const auto add = [&](const P& p) {
#pragma unroll
    for (int j = 0; j < N; ++j) squares[j % 2] = fmaf(widen(p.value[j]), widen(p.value[j]), squares[j % 2]);
  };
  add(kept);
#pragma unroll 1
  for (int c = first + 32 * N; c < width; c += 32 * N) add(*reinterpret_cast<const P*>(x + c));
  const float rstd = rsqrtf(fmaf(warp_sum(squares[0] + squares[1]), share, eps));
  const auto write = [&](const P& p, const G& g, int c) {
    P out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.value[j] = narrow<bf16>(widen(p.value[j]) * rstd * g.value[j]);
    *reinterpret_cast<P*>(y + c) = out;
  };
  if (mine) write(kept, gains, first);
#pragma unroll 1
  for (int c = first + 32 * N; c < width; c += 32 * N)
    write(*reinterpret_cast<const P*>(x + c), *reinterpret_cast<const G*>(gain + c), c);
}

}  // namespace mtpx::cuda
