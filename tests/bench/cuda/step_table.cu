// What one dependent step of a decoding pass costs, by the way its blocks wait for each other: the table of
// docs/performance.md. A step with an exchange: every block reads all 512 numbers that the step before it
// left, takes their maximum over its threads, and writes four of the next ones; a run is checked by the
// number that comes out, which counts the steps. Then reads of 16 MB, a step each, of new memory every time.
//
//   cmake --build build/cuda --target mtpx_step_table && build/cuda/bin/mtpx_step_table

#include <mtpx/core/cuda.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

namespace {

using mtpx::detail::cuda_check;

constexpr int threads = 256;
constexpr int numbers = 512;  // that a step exchanges
constexpr int steps = 1000;

void check(cudaError_t status) { cuda_check(status, "step_table"); }

__device__ __forceinline__ unsigned load_acquire(const unsigned* p) {
  unsigned x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ void store_release(unsigned* p, unsigned x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
__device__ __forceinline__ void add_release(unsigned* p, unsigned x) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}

/// The largest of a block's numbers, in every thread.
__device__ __forceinline__ unsigned block_max(unsigned x) {
  __shared__ unsigned of_warps[threads / 32];
  x = __reduce_max_sync(0xffffffffU, x);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  unsigned most = of_warps[0];
  for (int w = 1; w < threads / 32; ++w) most = max(most, of_warps[w]);
  return most;
}

__device__ __forceinline__ void exchange(const unsigned* from, unsigned* to) {
  const uint2 x = __ldcg(reinterpret_cast<const uint2*>(from) + threadIdx.x);
  const unsigned most = block_max(max(x.x, x.y)) + 1;
  const unsigned at = 4 * blockIdx.x + threadIdx.x;
  if (threadIdx.x < 4 && at < numbers) to[at] = most;
}

__global__ void __launch_bounds__(threads) node(const unsigned* from, unsigned* to, bool early, bool empty) {
  if (early) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (early) asm volatile("griddepcontrol.wait;" ::: "memory");
  if (!empty) exchange(from, to);
}

enum class Wait { counter, flags, data };

/// All steps in one launch. memory: two times `numbers`, a counter or a flag a block behind them.
template <Wait wait>
__global__ void __launch_bounds__(threads) resident(unsigned* memory, unsigned* arrived, bool empty) {
#pragma unroll 1
  for (unsigned i = 0; i < steps; ++i) {
    if constexpr (wait == Wait::data) {  // numbers and the step that wrote them, side by side
      uint4* const pairs = reinterpret_cast<uint4*>(memory);
      uint4 x;
      do {
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "l"(pairs + i % 2 * (numbers / 2) + threadIdx.x)
                     : "memory");
      } while (x.y != i || x.w != i);
      const unsigned most = block_max(max(x.x, x.z)) + 1;
      const unsigned at = 2 * blockIdx.x + threadIdx.x;
      if (threadIdx.x < 2 && at < numbers / 2) {
        asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %1, %2};" ::"l"(
                         pairs + (i + 1) % 2 * (numbers / 2) + at),
                     "r"(most), "r"(i + 1)
                     : "memory");
      }
      __syncthreads();
    } else {
      if (!empty) exchange(memory + i % 2 * numbers, memory + (i + 1) % 2 * numbers);
      __syncthreads();
      if constexpr (wait == Wait::counter) {
        if (threadIdx.x == 0) {
          add_release(arrived, 1);
          while (load_acquire(arrived) < (i + 1) * gridDim.x) {
          }
        }
      } else {
        if (threadIdx.x == 0) store_release(arrived + blockIdx.x, i + 1);
        for (unsigned b = threadIdx.x; b < gridDim.x; b += threads) {
          while (load_acquire(arrived + b) <= i) {
          }
        }
      }
      __syncthreads();
    }
  }
}

/// The same in one cluster: numbers go to every block's shared memory.
__global__ void __launch_bounds__(threads) clustered(unsigned* memory, bool empty) {
  __shared__ unsigned of_step[2][numbers];
  const unsigned each = numbers / gridDim.x;
  for (unsigned i = threadIdx.x; i < 2 * numbers; i += threads) of_step[i / numbers][i % numbers] = 0;
  const auto sync = [] {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
  };
  sync();
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    if (!empty) {
      const unsigned most =
          block_max(max(of_step[i % 2][2 * threadIdx.x], of_step[i % 2][2 * threadIdx.x + 1])) + 1;
      for (unsigned n = threadIdx.x; n < numbers; n += threads) {  // number n % each to block n / each
        const unsigned to = static_cast<unsigned>(
            __cvta_generic_to_shared(&of_step[(i + 1) % 2][blockIdx.x * each + n % each]));
        asm volatile(
            "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
            "st.shared::cluster.u32 [there], %2;\n}" ::"r"(to),
            "r"(n / each), "r"(most)
            : "memory");
      }
    }
    sync();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) memory[0] = of_step[steps % 2][0];
}

/// Two blocks that answer each other.
__global__ void ping_pong(unsigned* flags) {
  for (unsigned i = 1; i <= steps; ++i) {
    if (blockIdx.x == 0) {
      store_release(flags, i);
      while (load_acquire(flags + 32) < i) {
      }
    } else {
      while (load_acquire(flags) < i) {
      }
      store_release(flags + 32, i);
    }
  }
}

/// `phases` reads of `bytes` each, all blocks of the grid together, waiting for each other after each one.
/// kept: the first loads of a phase are under way before the wait   ahead: the next phase is asked for first
template <bool kept>
__global__ void __launch_bounds__(threads)
    reads(const uint4* memory, long long packs, int phases, long long apart, bool ahead, bool waits,
          unsigned* arrived, unsigned* out) {
  constexpr int at_once = 8;
  const long long each = packs / gridDim.x;
  unsigned sum = 0;
#pragma unroll 1
  for (int p = 0; p < phases; ++p) {
    const uint4* const mine = memory + p * apart + blockIdx.x * each;
    uint4 x[at_once];
    const auto load = [&](long long first) {
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const long long at = first + i * threads + threadIdx.x;
        x[i] = uint4{};
        if (at < each) {
          asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(x[i].x), "=r"(x[i].y), "=r"(x[i].z), "=r"(x[i].w)
                       : "l"(mine + at));
        }
      }
    };
    if (kept) load(0);
    if (waits && p > 0) {
      if (threadIdx.x == 0) {
        while (load_acquire(arrived) < p * gridDim.x) {
        }
      }
      __syncthreads();
    }
    if (ahead && p + 1 < phases && threadIdx.x == 0) {
      for (long long at = 0; at < each * 16; at += 16384) {
        const unsigned size = static_cast<unsigned>(min(16384LL, each * 16 - at));
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                         reinterpret_cast<const char*>(mine + apart) + at),
                     "r"(size));
      }
    }
#pragma unroll 1
    for (long long first = 0; first < each; first += at_once * threads) {
      if (!kept || first > 0) load(first);
#pragma unroll
      for (int i = 0; i < at_once; ++i) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
    }
    if (waits) {
      __syncthreads();
      if (threadIdx.x == 0) add_release(arrived, 1 + (sum == 12345));
    }
  }
  if (sum == 12345) *out = sum;
}

struct Bench {
  cudaStream_t stream;
  unsigned* memory;  // numbers, then counters
  unsigned* counters;
  cudaEvent_t begin, end;

  /// The median of seven runs, in microseconds.
  double time(const std::function<void()>& work) {
    std::vector<float> times;
    for (int i = 0; i < 9; ++i) {
      check(cudaMemsetAsync(memory, 0, 1 << 16, stream));
      check(cudaEventRecord(begin, stream));
      work();
      check(cudaEventRecord(end, stream));
      check(cudaStreamSynchronize(stream));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end));
      if (i > 1) times.push_back(1000 * ms);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  void row(const char* name, double us, bool exchanges) {
    unsigned most = 0;
    check(cudaMemcpy(&most, memory, sizeof most, cudaMemcpyDeviceToHost));
    std::printf("%-58s %7.3f us%s\n", name, us / steps, exchanges && most != steps ? "   WRONG" : "");
  }

  void nodes(const char* name, int blocks, bool early, bool empty) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < steps; ++i) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(blocks));
      config.blockDim = dim3(threads);
      config.stream = stream;
      config.attrs = &attribute;
      config.numAttrs = early ? 1 : 0;
      check(cudaLaunchKernelEx(&config, node, static_cast<const unsigned*>(memory + i % 2 * numbers),
                               memory + (i + 1) % 2 * numbers, early, empty));
    }
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&exec, graph, 0));
    row(name, time([&] { check(cudaGraphLaunch(exec, stream)); }), !empty);
    check(cudaGraphExecDestroy(exec));
    check(cudaGraphDestroy(graph));
  }
  template <Wait wait>
  void together(const char* name, int blocks, bool empty) {
    void* arguments[] = {&memory, &counters, &empty};
    row(name, time([&] {
          check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(resident<wait>),
                                            dim3(static_cast<unsigned>(blocks)), dim3(threads), arguments, 0,
                                            stream));
        }),
        !empty);
  }
  void cluster(const char* name, unsigned blocks, bool empty) {
    check(cudaFuncSetAttribute(clustered, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {blocks, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    row(name, time([&] { check(cudaLaunchKernelEx(&config, clustered, memory, empty)); }), !empty);
  }
  template <bool kept>
  void read(const char* name, int blocks, const uint4* from, long long bytes, int phases, bool moves,
            bool ahead, bool waits) {
    long long packs = bytes / 16, apart = moves ? packs : 0;
    unsigned* out = memory;
    void* arguments[] = {&from, &packs, &phases, &apart, &ahead, &waits, &counters, &out};
    const double us = time([&] {
      check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(reads<kept>),
                                        dim3(static_cast<unsigned>(blocks)), dim3(threads), arguments, 0,
                                        stream));
    });
    std::printf("%-58s %7.3f us a phase, %6.0f GB/s\n", name, us / phases,
                static_cast<double>(bytes) * phases / us / 1000);
  }
};

}  // namespace

int main() {
  const mtpx::Cuda device;
  const mtpx::Cuda::Current current(device);
  const int all = device.processors();
  Bench b{device.stream(), nullptr, nullptr, nullptr, nullptr};
  check(cudaMalloc(&b.memory, 1 << 16));
  b.counters = b.memory + 8192;
  check(cudaEventCreate(&b.begin));
  check(cudaEventCreate(&b.end));
  std::printf("%s, %d multiprocessors\n", device.properties().name, all);
  b.nodes("graph, empty kernels of a block a multiprocessor", all, false, true);
  b.nodes("graph, with the exchange", all, false, false);
  b.nodes("graph, started early, empty", all, true, true);
  b.nodes("graph, started early, with the exchange", all, true, false);
  b.nodes("graph, started early, two blocks a multiprocessor", 2 * all, true, false);
  b.together<Wait::counter>("one launch, a counter, empty", all, true);
  b.together<Wait::counter>("one launch, a counter, with the exchange", all, false);
  b.together<Wait::counter>("one launch, a counter, two blocks a multiprocessor", 2 * all, false);
  b.together<Wait::flags>("one launch, a flag a block, empty", all, true);
  b.together<Wait::flags>("one launch, a flag a block, with the exchange", all, false);
  b.together<Wait::data>("one launch, numbers that carry their step", all, false);
  b.cluster("one cluster of 8, empty", 8, true);
  b.cluster("one cluster of 8, exchange in shared memory", 8, false);
  b.cluster("one cluster of 16, empty", 16, true);
  b.cluster("one cluster of 16, exchange in shared memory", 16, false);
  b.row("release and acquire, there and back", b.time([&] { ping_pong<<<2, 1, 0, b.stream>>>(b.counters); }),
        false);
  constexpr long long phase = 16LL << 20;
  constexpr int phases = 64;
  uint4* from = nullptr;
  check(cudaMalloc(&from, static_cast<std::size_t>(phase * phases)));
  check(cudaMemset(from, 1, static_cast<std::size_t>(phase * phases)));
  for (const int each : {1, 2, 4}) {
    std::printf("%d blocks of %d threads a multiprocessor\n", each, threads);
    b.read<false>("  1 GB, nobody waits", each * all, from, phase, phases, true, false, false);
    b.read<false>("  16 MB a step", each * all, from, phase, phases, true, false, true);
    b.read<true>("  16 MB a step, first loads before the wait", each * all, from, phase, phases, true, false,
                 true);
    b.read<true>("  16 MB a step, and the next step's into L2", each * all, from, phase, phases, true, true,
                 true);
    b.read<true>("  4 MB a step, first loads before the wait", each * all, from, phase / 4, phases, true,
                 false, true);
    b.read<true>("  4 MB a step, and the next step's into L2", each * all, from, phase / 4, phases, true,
                 true, true);
    b.read<true>("  16 MB a step, the same again and again: L2", each * all, from, phase, phases, false,
                 false, true);
  }
  check(cudaFree(from));
  check(cudaFree(b.memory));
  return 0;
}
