// A mixture of experts: who is chosen, with what weight, and how a bias evens out the load without a loss.

#include "claim.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/nn/moe.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;
using Matrix = mtpx::Tensor<double, Cpu>;

void show(const std::string& name, const auto& numbers) {
  std::cout << name << ':';
  for (const auto number : numbers) std::cout << ' ' << number;
  std::cout << '\n';
}

}  // namespace

int main() {
  const Cpu cpu(1);
  // 1. One token, eight experts in four groups. Two groups stay: those whose two best experts add up to most.
  const std::vector<double> scores{0.9, 0.1, 0.6, 0.6, 0.2, 0.3, 0.8, 0.6};
  const mtpx::Routing groups{
      .n_experts = 8, .top_k = 2, .n_group = 4, .topk_group = 2, .scaling_factor = 2.5};
  const auto choose = [&](const std::vector<double>& bias) {
    mtpx::Tape tape;
    auto chosen = route(tape.input(Matrix::from(cpu, {1, 8}, scores)), Matrix::from(cpu, {8}, bias), groups);
    show("experts", chosen.ids.to_host());
    return std::pair(chosen.ids.to_host(), chosen.weights.value().to_host());
  };
  const auto [ids, weights] = choose(std::vector<double>(8, 0.0));
  // Sums by group: 1.0, 1.2, 0.5, 1.4. Expert 0 has the best score of all, but not its group.
  claim("groups come first, and ties go to the lowest index", ids == std::vector<std::int32_t>{6, 2});
  claim("the weights add up to scaling_factor", std::abs(weights[0] + weights[1] - 2.5) < 1e-12);

  const auto [moved, same] = choose({0, 0, 0, 0.3, 0, 0, 0, 0});
  claim("a bias moves the choice", moved == std::vector<std::int32_t>{3, 6});
  claim("but not the weights, which come from the scores", std::abs(same[0] - 2.5 * 0.6 / 1.4) < 1e-12);

  // 2. A router that prefers some experts. Every step moves their biases towards an even load; no loss does.
  mtpx::MoeOptions options{.hidden = 8, .inner = 4, .shared = 1, .routing = {.n_experts = 8, .top_k = 2}};
  mtpx::Moe<double, Cpu> moe(cpu, options);
  std::uint64_t drawn = 0;
  const auto random = [&](mtpx::Index count) {
    std::vector<double> values(static_cast<std::size_t>(count));
    draw_normals(cpu, count, 1, drawn++, 1.0, values.data());
    return values;
  };
  mtpx::for_each_parameter(moe, [&](const std::string&, auto& parameter) {
    parameter.value().assign(random(parameter.shape().size()));
  });
  std::vector<double> tokens = random(256 * options.hidden);
  for (double& number : tokens) number += 0.7;  // not centred, so some experts are met more
  const Matrix x = Matrix::from(cpu, {1, 256, options.hidden}, tokens);

  std::vector<double> first, last;
  for (int step = 0; step < 200; ++step) {
    mtpx::Tape tape;
    moe(tape.input(x));
    last = moe.load.to_host();
    if (step == 0) first = last;
    moe.update_bias(0.005);
  }
  show("slots per expert at first", first);
  show("slots per expert after 200 updates", last);
  const auto most = [](const std::vector<double>& load) {
    return *std::max_element(load.begin(), load.end());
  };
  claim("no token is dropped: 256 take 2 experts each",
        std::accumulate(last.begin(), last.end(), 0.0) == 512);
  claim("the busiest expert was far above the mean of 64", most(first) > 1.5 * 64);
  claim("and is now near it", most(last) < 1.3 * 64);
  return all_hold ? 0 : 1;
}
