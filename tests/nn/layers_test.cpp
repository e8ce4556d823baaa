// Linear, RmsNorm and SwiGlu: the modules that are one op or three.

#include <mtpx/nn/initialize.hpp>
#include <mtpx/nn/rms_norm.hpp>
#include <mtpx/nn/swiglu.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/nn: linear.hpp, rms_norm.hpp, swiglu.hpp");

namespace {

template <typename Module>
void randomize(Module& module) {
  std::uint64_t stream = 50;
  for_each_parameter(module, [&](const std::string&, auto& parameter) {
    parameter.value().assign(random_tensor<double>(parameter.shape(), ++stream).to_host());
  });
}

/// Names and shapes of a module's parameters.
template <typename Module>
std::string parameters(Module& module) {
  std::string all;
  for_each_parameter(module, [&](const std::string& name, auto& parameter) {
    all += cat(all.empty() ? "" : ", ", name, ' ', parameter.shape().str());
  });
  return all;
}

/// Every parameter of a module against finite differences of sum_i c_i y_i.
template <typename Module>
void check_parameters(Module& module, const Tensor<double, Device>& x) {
  std::vector<GradcheckTarget<Device>> targets;
  for_each_parameter(module, [&](const std::string& name, auto& parameter) {
    targets.push_back({name, parameter});
  });
  const auto report = gradcheck<Device>(
      targets,
      [&](Tape& tape) {
        const auto y = module(tape.constant(x));
        return inner(y, random_tensor<double>(y.shape(), 1000));
      },
      1e-3);
  INFO(report.where);
  CHECK(report.within(1e-7));
}

}  // namespace

TEST_CASE("Linear: y = x W^T, weight [out, in], no bias") {
  Linear<double, Device> module(device(), 5, 3);
  randomize(module);
  CHECK(parameters(module) == "weight [3, 5]");
  const auto x = random_tensor<double>({2, 4, 5}, 1);
  Tape tape;
  const auto y = module(tape.constant(x));
  CHECK(y.shape() == Shape{2, 4, 3});
  check_close(host(y.value()), reference::linear(host(x), host(module.weight.value()), 5, 3), 1e-14);
  check_parameters(module, x);
}

TEST_CASE("Linear: y = x W^T + b, made with_bias; initialize() begins with b = 0") {
  Linear<double, Device> module(device(), 5, 3, with_bias);
  CHECK(parameters(module) == "weight [3, 5], bias [3]");
  initialize(module, 1, 0.5);
  CHECK(host(module.bias->value()) == Numbers{0, 0, 0});
  randomize(module);
  const auto x = random_tensor<double>({2, 4, 5}, 1);
  const Numbers b = host(module.bias->value());
  Numbers want = reference::linear(host(x), host(module.weight.value()), 5, 3);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] += b[i % 3];
  Tape tape;
  check_close(host(module(tape.constant(x)).value()), want, 1e-14);
  check_parameters(module, x);
}

TEST_CASE("RmsNorm: a gain per column, its own epsilon, fused with the residual") {
  RmsNorm<double, Device> module(device(), 6, 0.5);
  randomize(module);
  CHECK(parameters(module) == "weight [6]");
  const auto x = random_tensor<double>({2, 3, 6}, 1);
  const auto f = random_tensor<double>({2, 3, 6}, 2);
  const Numbers gain = host(module.weight.value());
  Tape tape;
  check_close(host(module(tape.constant(x)).value()), reference::rms_norm(host(x), gain, 0.5), 1e-14);

  Numbers sum = host(x);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += host(f)[i];
  const auto [h, normed] = module.add(tape.constant(x), tape.constant(f));
  check_close(host(h.value()), sum, 1e-15);
  check_close(host(normed.value()), reference::rms_norm(sum, gain, 0.5), 1e-14);
  check_parameters(module, x);
}

TEST_CASE("RmsNorm: in bf16 the gain is float") {
  const RmsNorm<bf16, Device> module(device(), 6, 1e-6);
  CHECK(std::is_same_v<decltype(module.weight), Parameter<float, Device>>);
}

TEST_CASE("SwiGlu: W_down (silu(W_gate x) * (W_up x))") {
  SwiGlu<double, Device> module(device(), 4, 6);
  randomize(module);
  CHECK(parameters(module) == "gate_proj.weight [6, 4], up_proj.weight [6, 4], down_proj.weight [4, 6]");
  const auto x = random_tensor<double>({2, 3, 4}, 1);
  const Numbers gate = reference::linear(host(x), host(module.gate_proj.weight.value()), 4, 6);
  const Numbers up = reference::linear(host(x), host(module.up_proj.weight.value()), 4, 6);
  Tape tape;
  check_close(host(module(tape.constant(x)).value()),
              reference::linear(reference::swiglu(gate, up), host(module.down_proj.weight.value()), 6, 4),
              1e-14);
  check_parameters(module, x);
}

TEST_SUITE_END();
