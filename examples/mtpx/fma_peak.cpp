// The floor that mtpx bench compares with: what the processors can do when memory plays no part.

#include "fma_peak.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/kernels.hpp>

#include <algorithm>
#include <chrono>
#include <vector>

namespace program {

double fma_peak(const mtpx::Cpu& cpu) {
  using Clock = std::chrono::steady_clock;
  using V = mtpx::cpu::Vec<float>;
  constexpr mtpx::Index rounds = 1 << 22;
  constexpr int chains = 10;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
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
      sums[static_cast<std::size_t>(t) * 16] = mtpx::cpu::sum<float>(all);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double work = 2.0 * static_cast<double>(rounds) * chains *
                        static_cast<double>(mtpx::cpu::lanes<float>) * cpu.threads();
    best = std::max(best, sums[0] > 0 ? work / seconds : 0.0);
  }
  return best;
}

}  // namespace program
