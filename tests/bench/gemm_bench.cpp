// Matrix products: ours, Eigen's, and what the processor could do at best, measured in turn.
//
// Every iteration runs the three one after the other, so that whatever else slows the machine down hits all
// of them. The reported time is ours; the counters are rates of the fastest iteration, in 1e9 operations a
// second:
//
//   ours, eigen, peak     2 m n k / time; peak: multiply-adds on registers only, on as many threads
//   ours_share, eigen_share     of peak
//
// Names: layout/m x n x k/threads. NN: dx = dy W, NT: y = x W^T, TN: dW = dy^T x.

#include <mtpx/kernels/cpu.hpp>

#include <benchmark/benchmark.h>

#include <Eigen/Core>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace mtpx;

enum class Layout { nn, nt, tn };

struct Sizes {
  Index m, n, k;

  double operations() const { return 2.0 * static_cast<double>(m * n * k); }
};

template <typename Body>
double seconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Twelve independent chains of multiply-adds, which fill both units of current processors, in many small
/// tasks. Returns the number of operations.
double spin(const Cpu& cpu) {
  constexpr Index chains = 12;
  constexpr Index rounds = 8192;
  const Index tasks = 4 * cpu.threads();
  cpu::parallel_for(cpu, tasks, [](Index) {
    cpu::Vec<float> sums[chains] = {};
    cpu::Vec<float> x = cpu::broadcast(0.5f);
    cpu::Vec<float> y = cpu::broadcast(1.0f);
    benchmark::DoNotOptimize(x);
    benchmark::DoNotOptimize(y);
    for (Index round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
      for (Index i = 0; i < chains; ++i) sums[i] = cpu::fma(sums[i], x, y);
    }
    for (auto& sum : sums) benchmark::DoNotOptimize(sum);
  });
  return 2.0 * static_cast<double>(tasks * rounds * chains * cpu::lanes<float>);
}

using Dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void compare(benchmark::State& state, Layout layout, Sizes sizes, int threads) {
  const auto [m, n, k] = sizes;
  const Cpu cpu(threads);
  Eigen::setNbThreads(threads);
  const Dense a = layout == Layout::tn ? Dense::Random(k, m) : Dense::Random(m, k);
  const Dense b = layout == Layout::nt ? Dense::Random(n, k) : Dense::Random(k, n);
  Dense ours(m, n);
  Dense eigen(m, n);
  const cpu::Product<float, float, float> product{
      m,
      n,
      k,
      layout == Layout::tn ? cpu::transposed(a.data(), m) : cpu::row_major(a.data(), k),
      layout == Layout::nt ? cpu::transposed(b.data(), k) : cpu::row_major(b.data(), n),
      ours.data(),
      n};

  constexpr double never = std::numeric_limits<double>::infinity();
  double ours_time = never, eigen_time = never, peak = 0;
  for (auto _ : state) {
    double operations = 0;
    const double spun = seconds([&] { operations = spin(cpu); });
    peak = std::max(peak, operations / spun);
    const double time = seconds([&] { cpu::multiply(cpu, product); });
    ours_time = std::min(ours_time, time);
    eigen_time = std::min(eigen_time, seconds([&] {
                            if (layout == Layout::nn) eigen.noalias() = a * b;
                            if (layout == Layout::nt) eigen.noalias() = a * b.transpose();
                            if (layout == Layout::tn) eigen.noalias() = a.transpose() * b;
                          }));
    state.SetIterationTime(time);
  }
  if ((ours - eigen).cwiseAbs().maxCoeff() > 1e-4f * static_cast<float>(k))
    state.SkipWithError("the products differ");

  const double work = sizes.operations();
  state.counters["ours"] = work / ours_time * 1e-9;
  state.counters["eigen"] = work / eigen_time * 1e-9;
  state.counters["peak"] = peak * 1e-9;
  state.counters["ours_share"] = work / ours_time / peak;
  state.counters["eigen_share"] = work / eigen_time / peak;
}

void add(const std::string& name, Layout layout, Sizes sizes) {
  for (int threads : {1, 2}) {
    const std::string full = cat(name, '/', sizes.m, 'x', sizes.n, 'x', sizes.k, "/threads:", threads);
    benchmark::RegisterBenchmark(full.c_str(), compare, layout, sizes, threads)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

[[maybe_unused]] const bool registered = [] {
  for (const Sizes& sizes : {Sizes{2048, 768, 256}, Sizes{2048, 256, 768}, Sizes{2048, 96, 256},
                             Sizes{512, 128, 256}, Sizes{1024, 1024, 1024}}) {
    add("NN", Layout::nn, sizes);
    add("NT", Layout::nt, sizes);
    add("TN", Layout::tn, sizes);
  }
  // Decoding: few rows past a large matrix.
  for (Index rows : {1, 2, 4, 8, 16}) add("NT", Layout::nt, {rows, 2048, 2048});
  return true;
}();

}  // namespace
