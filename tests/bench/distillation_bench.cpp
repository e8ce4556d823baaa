// linear_distillation beside the products that it consists of, in turn.
//
//   forward, backward              milliseconds: the shortest
//   forward_share, backward_share  of the time that as many products alone take: two logits of [N, V]
//   forward, and
//                                  again for the total variation, which goes through the vocabulary twice;
//                                  backward both logits, dx and dW
//
// Argument: threads.

#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

namespace {

using namespace mtpx;

void distillation(benchmark::State& state, Divergence divergence) {
  constexpr Index rows = 512, hidden = 384, vocab = 8192;
  const Cpu cpu(static_cast<int>(state.range(0)));
  std::uint64_t stream = 0;
  const auto normals = [&](Index count, double deviation) {
    std::vector<float> all(static_cast<std::size_t>(count));
    draw_normals(cpu, count, 1, ++stream, deviation, all.data());
    return all;
  };
  const auto x = normals(rows * hidden, 1), y = normals(rows * hidden, 1);
  const auto w = normals(vocab * hidden, 0.05), v = normals(vocab * hidden, 0.05);
  std::vector<float> logits(static_cast<std::size_t>(rows * vocab)), dx(x.size()), dw(w.size());
  std::vector<float> saved(3 * rows), losses(rows);
  std::vector<std::int32_t> labels(rows, 1), best(rows);
  const float factor = 1.0F / rows, one = 1;
  const Rows r{rows, hidden, hidden};
  const Teaching<float> teaching{divergence, 1, r, y.data(), v.data()};
  constexpr double never = std::numeric_limits<double>::infinity();
  double product = never, of_x = never, of_w = never, forward = never, backward = never;
  const auto timed = [](double& shortest, const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    shortest = std::min(shortest, took.count());
  };
  for (auto _ : state) {
    timed(product, [&] { linear_forward(cpu, r, x.data(), vocab, w.data(), logits.data()); });
    timed(forward, [&] {
      linear_distillation_forward(cpu, teaching, r, x.data(), vocab, w.data(), labels.data(), saved.data(),
                                  losses.data(), best.data());
    });
    timed(of_x, [&] {
      linear_backward_input(cpu, r, vocab, w.data(), logits.data(), Sink<float>{dx.data(), false});
    });
    timed(of_w, [&] {
      linear_backward_weight(cpu, r, x.data(), vocab, logits.data(), Sink<float>{dw.data(), false});
    });
    timed(backward, [&] {
      linear_distillation_backward(cpu, teaching, r, x.data(), vocab, w.data(), labels.data(), saved.data(),
                                   &factor, &one, Sink<float>{dx.data(), false},
                                   Sink<float>{dw.data(), false});
    });
    benchmark::DoNotOptimize(dw.data());
  }
  state.counters["forward"] = forward;
  state.counters["forward_share"] = (teaching.twice() ? 4 : 2) * product / forward;
  state.counters["backward"] = backward;
  state.counters["backward_share"] = (2 * product + of_x + of_w) / backward;
}

BENCHMARK_CAPTURE(distillation, kl, Divergence::kl)->Arg(1)->Arg(2);
BENCHMARK_CAPTURE(distillation, total_variation, Divergence::total_variation)->Arg(1)->Arg(2);

}  // namespace
