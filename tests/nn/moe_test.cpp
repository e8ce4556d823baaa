#include <mtpx/nn/moe.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/nn/moe.hpp");

namespace {

MoeOptions options(Index shared, double alpha) { return {5, 3, shared, {6, 2, 3, 2, true, 2.5}, alpha}; }

Moe<double, Device> random_moe(Index shared, double alpha) {
  Moe<double, Device> moe(device(), options(shared, alpha));
  std::uint64_t stream = 90;
  for_each_parameter(moe, [&](const std::string&, auto& parameter) {
    parameter.value().assign(random_tensor<double>(parameter.shape(), ++stream).to_host());
  });
  moe.gate.e_score_correction_bias->value.assign(Numbers{-1.5, -1.25, -2.0, -1.0, -1.75, -1.5});
  return moe;
}

Numbers sum(Numbers a, const Numbers& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

}  // namespace

TEST_CASE("Moe: chosen experts weighted by unbiased scores, plus the shared ones") {
  for (const Index shared : {0, 2}) {
    const auto moe = random_moe(shared, 0);
    const auto x = random_tensor<double>({2, 4, 5}, 1);
    const auto w = [](const auto& module) { return host(module.weight.value()); };
    const Numbers scores = reference::sigmoid(reference::linear(host(x), w(moe.gate.linear), 5, 6));
    const reference::Route route(scores, host(moe.gate.e_score_correction_bias->value), moe.options.routing);
    Numbers want =
        reference::experts({8, 5, 3, 6, 2}, host(x), route.weights, route.ids, w(moe.experts.gate_proj),
                           w(moe.experts.up_proj), w(moe.experts.down_proj));
    if (shared > 0) {
      const auto& s = *moe.shared_experts;
      CHECK(s.gate_proj.weight.shape() == Shape{6, 5});  // two of width 3, run as one
      const Numbers gate = reference::linear(host(x), w(s.gate_proj), 5, 6);
      const Numbers up = reference::linear(host(x), w(s.up_proj), 5, 6);
      want = sum(want, reference::linear(reference::swiglu(gate, up), w(s.down_proj), 6, 5));
    }
    Tape tape;
    const auto out = moe(tape.constant(x));
    check_close(host(out.y.value()), want, 1e-13);
    CHECK(!out.balance.defined());
  }
}

TEST_CASE("Moe: published names, experts one by one, the bias without .weight") {
  const auto moe = random_moe(1, 0);
  std::vector<std::string> names;
  for_each_tensor(moe, [&](const std::string& name, const auto&) { names.push_back(name); });
  CHECK(names.size() == 2 + 6 * 3 + 3);
  CHECK(names[0] == "gate.weight");
  CHECK(names[1] == "gate.e_score_correction_bias");
  CHECK(names[2] == "experts.0.gate_proj.weight");
  CHECK(names[13] == "experts.5.up_proj.weight");
  CHECK(names[14] == "experts.0.down_proj.weight");
  CHECK(names.back() == "shared_experts.down_proj.weight");
}

TEST_CASE("Moe: the balance loss is recorded when asked for, in training only") {
  const auto moe = random_moe(1, 0.25);
  const auto x = random_tensor<double>({2, 4, 5}, 1);
  const Numbers scores =
      reference::sigmoid(reference::linear(host(x), host(moe.gate.linear.weight.value()), 5, 6));
  Tape training;
  const auto balance = moe(training.constant(x)).balance;
  check_close(host(balance.value()), {reference::balance_loss(scores, 2, 4, 6, 2, 0.25)}, 1e-13);
  Tape inference(Mode::inference);
  CHECK(!moe(inference.constant(x)).balance.defined());
}

TEST_CASE("Moe: load counts the slots of training passes, over micro-batches, until the bias moves") {
  auto moe = random_moe(1, 0);
  CHECK(host(moe.last_load) == Numbers(6, 0.0));
  const auto x = random_tensor<double>({2, 4, 5}, 1);
  const Numbers bias = host(moe.gate.e_score_correction_bias->value);
  const auto total = [&] {
    double slots = 0;
    for (const double load : host(moe.load)) slots += load;
    return slots;
  };
  Tape inference(Mode::inference);
  moe(inference.constant(x));
  CHECK(total() == 0);
  for (int micro = 1; micro <= 2; ++micro) {
    Tape tape;
    moe(tape.constant(x));
    CHECK(total() == micro * 2 * 4 * 2);
  }
  const Numbers load = host(moe.load);
  moe.update_bias(0.125);
  CHECK(total() == 0);
  CHECK(host(moe.last_load) == load);
  const double mean = 2.0 * 16 / 6;
  for (std::size_t e = 0; e < 6; ++e) {
    const double step = load[e] < mean ? 0.125 : -0.125;
    CHECK(host(moe.gate.e_score_correction_bias->value)[e] == bias[e] + step);
  }
}

TEST_CASE("Moe: every parameter against finite differences, with the balance loss") {
  auto moe = random_moe(1, 0.25);
  const auto x = activation(random_tensor<double>({2, 4, 5}, 1));
  std::vector<GradcheckTarget<Device>> targets{{"x", x}};
  for_each_parameter(moe, [&](const std::string& name, auto& parameter) {
    targets.push_back({name, parameter});
  });
  const auto report = gradcheck<Device>(
      targets,
      [&](Tape& outer) {
        Tape inner_tape;  // the balance loss is computed in training only
        Tape& tape = outer.recording() ? outer : inner_tape;
        const auto out = moe(tape.adopt(x));
        const auto loss = weighted_sum<double, Device>(
            {inner(out.y, random_tensor<double>(out.y.shape(), 1000)), out.balance}, {1.0, 3.0});
        return outer.recording() ? loss : outer.constant(loss.value());
      },
      1e-4);
  INFO(report.where);
  CHECK(report.within(1e-7));
}

TEST_CASE("Moe: in bf16 router, bias and load are float") {
  const Moe<bf16, Device> moe(device(), options(1, 0));
  CHECK(std::is_same_v<decltype(moe.gate.linear.weight), Parameter<float, Device>>);
  CHECK(std::is_same_v<decltype(moe.load), Tensor<float, Device>>);
  CHECK(std::is_same_v<decltype(moe.experts.up_proj.weight), Parameter<bf16, Device>>);
}

TEST_SUITE_END();
