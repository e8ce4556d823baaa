// Fits a sine with a layer of 32 units, made of primitive ops.

#include <mtpx/mtpx.hpp>

#include <cmath>
#include <iostream>

using namespace mtpx;

struct Net {
  Linear<float, Cpu> in, out;
  auto operator()(const Var<float, Cpu>& x) const { return out(tanh(in(x))); }
  static void members(auto& self, auto&& visit) { visit("in", self.in), visit("out", self.out); }
};

int main() {
  const Cpu cpu;
  Net net{{cpu, 1, 32, with_bias}, {cpu, 32, 1, with_bias}};
  initialize(net, 1, 0.5);
  const Tensor<float, Cpu> x(cpu, {121, 1}), y(cpu, {121, 1});
  for (int i = 0; i < 121; ++i) x.at(i, 0) = 0.05F * static_cast<float>(i - 60);
  for (int i = 0; i < 121; ++i) y.at(i, 0) = std::sin(x.at(i, 0));
  AdamW<float, Cpu> adamw({.weight_decay = 0});
  float error = 0;
  for (int step = 0; step < 1000; ++step) {
    Tape tape;
    const auto loss = mse(net(tape.constant(x)), tape.constant(y));
    tape.backward(loss);
    adamw.step(net, 1e-2 * (1 - step / 1000.0), 1.0);
    error = loss.item();
  }
  std::cout << "mean squared error " << error << '\n';
  return error < 1e-4F ? 0 : 1;
}
