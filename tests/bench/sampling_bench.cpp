// A token of a large vocabulary: raced for, and drawn by cumulated probabilities, in turn.
//
//   race, draw   time of a token, in microseconds: the shortest
//   of_draw      one by the other

#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace mtpx;

void token(benchmark::State& state, const SamplingOptions& sampling) {
  constexpr Index vocab = 131072;
  const Cpu cpu(1);
  std::vector<float> logits(static_cast<std::size_t>(vocab));
  draw_normals(cpu, vocab, 1, 2, static_cast<double>(state.range(0)), logits.data());
  const Rows rows{1, vocab, vocab};
  double race = std::numeric_limits<double>::infinity(), draw = race;
  std::uint64_t place = 0;
  std::int32_t id = 0;
  const auto timed = [](double& shortest, const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    shortest =
        std::min(shortest,
                 std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  };
  for (auto _ : state) {
    const Draw how{sampling, Philox::uniform(1, 2, place), {1, place}};
    timed(race, [&] { race_rows(cpu, rows, logits.data(), &how, 1, &id); });
    timed(draw, [&] { draw_rows(cpu, rows, logits.data(), &how, &id, {}); });
    benchmark::DoNotOptimize(id);
    ++place;
  }
  state.counters["race"] = race;
  state.counters["draw"] = draw;
  state.counters["of_draw"] = race / draw;
}

// The argument: the standard deviation of the logits.
BENCHMARK_CAPTURE(token, whole, SamplingOptions{0.8})->Arg(2)->Arg(4);
BENCHMARK_CAPTURE(token, top_k, SamplingOptions{0.8, 40})->Arg(2)->Arg(4);
BENCHMARK_CAPTURE(token, top_p, SamplingOptions{0.8, 0, 0.9})->Arg(2)->Arg(4);

}  // namespace
