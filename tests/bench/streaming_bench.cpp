// Products of few rows whose weights come from memory, as decoding makes them, beside a loop that only reads.
//
// Every iteration reads the weights once with all threads, and then multiplies 1, 2, 4 and 8 rows with them,
// in turn, so that whatever else slows the machine down hits all of them. The reported time is of one row;
// the counters are of the fastest iteration:
//
//   read_gbs     bytes of the weights / time of the loop
//   share_1 .. share_8     time of the loop / time of the product
//   ratio_2 .. ratio_8     time of the product / time of one row
//
// Names: type of the weights, of the activations, whether packed/threads. All types have as many bytes; whole
// numbers have scales beside them.

#include <mtpx/kernels/cpu.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using namespace mtpx;

constexpr Index stream_bytes = Index{384} << 20;
constexpr Index stream_width = 2048;
constexpr std::array<Index, 4> stream_rows{1, 2, 4, 8};

template <typename Body>
double stream_seconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Reads `count` floats with all threads.
void read_all(const Cpu& cpu, const float* from, Index count) {
  constexpr Index tasks = 64, registers = 4, step = registers * cpu::lanes<float>;
  cpu::parallel_for(cpu, tasks, [&](Index task) {
    cpu::Vec<float> sums[registers] = {};
    const Index end = count / tasks * (task + 1);
    for (Index i = count / tasks * task; i + step <= end; i += step) {
      for (Index v = 0; v < registers; ++v) sums[v] += cpu::load(from + i + v * cpu::lanes<float>);
    }
    benchmark::DoNotOptimize(sums);
  });
}

/// W: type of the weights   X: of activations   packed: as pack_for_decoding() lays them
template <typename W, typename X = W, bool packed = false>
void stream(benchmark::State& state) {
  const Cpu cpu(static_cast<int>(state.range(0)));
  constexpr bool in_8_bits = std::is_same_v<W, std::int8_t>;
  const Index out = stream_bytes / static_cast<Index>(sizeof(W)) / stream_width;
  const std::vector<W> weights(static_cast<std::size_t>(out * stream_width), W(1.0f));
  Int8Weights kept{out, stream_width, 128};
  const std::vector<float> scales(in_8_bits ? static_cast<std::size_t>(kept.scale_count()) : 0, 0.01f);
  if constexpr (in_8_bits) kept.q = weights.data();
  kept.scales = scales.data();
  const std::vector<X> x(static_cast<std::size_t>(8 * stream_width), X(0.5f));
  std::vector<X> y(static_cast<std::size_t>(8 * out));
  constexpr double never = std::numeric_limits<double>::infinity();
  double read = never;
  std::array<double, stream_rows.size()> times;
  times.fill(never);
  for (auto _ : state) {
    read = std::min(read, stream_seconds([&] {
                      read_all(cpu, reinterpret_cast<const float*>(weights.data()), stream_bytes / 4);
                    }));
    for (std::size_t i = 0; i < times.size(); ++i) {
      const Rows rows{stream_rows[i], stream_width, stream_width};
      const double time = stream_seconds([&] {
        if constexpr (in_8_bits) {
          linear_int8_forward(cpu, rows, x.data(), kept, y.data());
        } else if constexpr (packed) {
          linear_packed_forward(cpu, rows, x.data(), PackedWeights<W>{out, stream_width, weights.data()},
                                y.data());
        } else {
          linear_forward(cpu, rows, x.data(), out, weights.data(), y.data());
        }
      });
      times[i] = std::min(times[i], time);
      if (i == 0) state.SetIterationTime(time);
    }
  }
  state.counters["read_gbs"] = static_cast<double>(stream_bytes) / read * 1e-9;
  for (std::size_t i = 0; i < times.size(); ++i) {
    const std::string rows = std::to_string(stream_rows[i]);
    state.counters["share_" + rows] = read / times[i];
    if (i > 0) state.counters["ratio_" + rows] = times[i] / times[0];
  }
}

void stream_threads(benchmark::internal::Benchmark* bench) {
  bench->Arg(1)->Arg(2)->ArgName("threads")->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_TEMPLATE(stream, float)->Apply(stream_threads);
BENCHMARK_TEMPLATE(stream, float, float, true)->Apply(stream_threads);
BENCHMARK_TEMPLATE(stream, bf16)->Apply(stream_threads);
BENCHMARK_TEMPLATE(stream, bf16, bf16, true)->Apply(stream_threads);
BENCHMARK_TEMPLATE(stream, std::int8_t, float)->Apply(stream_threads);

}  // namespace
