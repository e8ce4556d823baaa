// What times are compared with: the rates at which the processors compute, and read.

#include "roofs.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu/core/simd.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace program {

double fma_peak(const mtpx::Cpu& cpu, int repeats) {
  using Clock = std::chrono::steady_clock;
  using V = mtpx::cpu::Vec<float>;
  constexpr mtpx::Index rounds = 1 << 22;
  constexpr int chains = 10;
  double best = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    std::vector<float> sums(static_cast<std::size_t>(cpu.threads()) * 16);
    const auto start = Clock::now();
    mtpx::cpu::parallel_for(cpu, cpu.threads(), [&](mtpx::Index t) {
      V acc[chains] = {};
      V a = mtpx::cpu::broadcast(0.999F), b = mtpx::cpu::broadcast(1e-3F);
      for (mtpx::Index i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
        for (int c = 0; c < chains; ++c) acc[c] = mtpx::cpu::fma(acc[c], a, b);
      }
      V all{};
      for (const V& one : acc) all += one;
      sums[static_cast<std::size_t>(t) * 16] = all[0];
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double work = 2.0 * static_cast<double>(rounds) * chains *
                        static_cast<double>(mtpx::cpu::lanes<float>) * cpu.threads();
    best = std::max(best, sums[0] > 0 ? work / seconds : 0.0);
  }
  return best;
}

double read_rate(const mtpx::Cpu& cpu, double bytes) {
  constexpr mtpx::Index tasks = 16;
  constexpr mtpx::Index step = 4 * mtpx::cpu::lanes<float>;
  const mtpx::Index count =
      std::max<mtpx::Index>(step, static_cast<mtpx::Index>(bytes / sizeof(float)) / (tasks * step) * step);
  const std::vector<float> memory(static_cast<std::size_t>(tasks * count), 1.0f);
  std::vector<float> sums(tasks);
  double best = 0;
  for (int round = 0; round < 30; ++round) {
    const auto start = std::chrono::steady_clock::now();
    mtpx::cpu::parallel_for(cpu, tasks, [&](mtpx::Index task) {
      const float* from = memory.data() + task * count;
      mtpx::cpu::Vec<float> total[4] = {};
      for (mtpx::Index i = 0; i < count; i += step) {
        for (mtpx::Index v = 0; v < 4; ++v)
          total[v] += mtpx::cpu::load(from + i + v * mtpx::cpu::lanes<float>);
      }
      sums[static_cast<std::size_t>(task)] = (total[0] + total[1] + total[2] + total[3])[0];
    });
    best =
        std::max(best, static_cast<double>(tasks * count) * sizeof(float) /
                           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return sums[0] > 0 ? best : 0;
}

#ifdef MTPX_CUDA
namespace {

/// Calls a second of `work`, which queues something: the best of several rounds.
template <typename Work>
double best_rate(const mtpx::Cuda& gpu, const Work& work) {
  constexpr int calls = 20;
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    gpu.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) work();
    gpu.synchronize();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, calls / time.count());
  }
  return best;
}

}  // namespace

template <typename T>
double known_peak(const mtpx::Cuda& gpu) {
  struct Known {
    std::string_view name;
    double bf16, fp32;  // 10^12 a second; the data sheets' figures for bf16 are twice these, with sparsity
  };
  // The first that the name contains. fp32: multiply-adds, not tensor cores, which round to TF32.
  constexpr Known all[] = {{"H100 PCIe", 756, 51}, {"H100 NVL", 835, 60}, {"H200 NVL", 835, 60},
                           {"H100", 989, 67},      {"H200", 989, 67},     {"GH200", 989, 67},
                           {"A100", 312, 19.5}};
  const std::string_view name = gpu.properties().name;
  for (const Known& known : all) {
    if (name.find(known.name) != name.npos)
      return 1e12 * (std::is_same_v<T, mtpx::bf16> ? known.bf16 : known.fp32);
  }
  return 0;
}
template double known_peak<float>(const mtpx::Cuda&);
template double known_peak<mtpx::bf16>(const mtpx::Cuda&);

template <typename T>
double matrix_peak(const mtpx::Cuda& gpu) {
  constexpr mtpx::Index n = std::is_same_v<T, mtpx::bf16> ? 8192 : 4096;
  try {
    std::vector<T> numbers;
    std::uint32_t state = 1;  // zeros would need less power than numbers do
    for (mtpx::Index i = 0; i < n * n; ++i) {
      state = state * 1664525U + 1013904223U;
      numbers.push_back(T(static_cast<float>(state >> 8) * 0x1p-24F - 0.5F));
    }
    const auto x = mtpx::Tensor<T, mtpx::Cuda>::from(gpu, {n, n}, numbers);
    const auto w = mtpx::Tensor<T, mtpx::Cuda>::from(gpu, {n, n}, numbers);
    const mtpx::Tensor<T, mtpx::Cuda> y(gpu, {n, n});
    return 2 * static_cast<double>(n * n) * static_cast<double>(n) *
           best_rate(gpu, [&] { linear_forward(gpu, x.rows(), x.data(), n, w.data(), y.data()); });
  } catch (const mtpx::OutOfMemory&) {
    return 0;
  }
}
template double matrix_peak<float>(const mtpx::Cuda&);
template double matrix_peak<mtpx::bf16>(const mtpx::Cuda&);

double read_rate(const mtpx::Cuda& gpu, double bytes) {
  const auto count = std::max<mtpx::Index>(1024, static_cast<mtpx::Index>(bytes / sizeof(float)));
  const auto from = mtpx::Tensor<float, mtpx::Cuda>::zeros(gpu, {count});
  const mtpx::Tensor<double, mtpx::Cuda> sum(gpu, {1});
  const std::span<const float> all(from.data(), static_cast<std::size_t>(count));
  const double read = best_rate(gpu, [&] { sums_of_squares(gpu, std::span(&all, 1), sum.data()); });
  // A copy of one half to the other reads and writes as many bytes.
  const std::size_t half = from.bytes() / 2;
  const double copy =
      best_rate(gpu, [&] { copy_on_device(gpu, from.data() + count / 2, from.data(), half); });
  return static_cast<double>(from.bytes()) * std::max(read, copy);
}
#endif

}  // namespace program
