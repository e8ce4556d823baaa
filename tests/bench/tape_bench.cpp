// What an op costs beside its work: eight numbers, scaled, with the backward.
//
//   ns_an_op     of the fastest of the tapes

#include <mtpx/autograd/tape.hpp>
#include <mtpx/ops/arithmetic.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <limits>

namespace {

using namespace mtpx;

void op_of_eight_numbers(benchmark::State& state) {
  const Cpu cpu(1);
  const auto x = Tensor<float, Cpu>::zeros(cpu, {8});
  constexpr int ops = 50;
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  for (auto _ : state) {
    const std::int64_t start = nanoseconds_now();
    Tape tape;
    Var<float, Cpu> y = tape.input(x);
    for (int i = 0; i < ops; ++i) y = scale(y, 2.0);
    tape.backward(y, x);
    best = std::min(best, nanoseconds_now() - start);
  }
  state.counters["ns_an_op"] = static_cast<double>(best) / ops;
}
BENCHMARK(op_of_eight_numbers);

}  // namespace
