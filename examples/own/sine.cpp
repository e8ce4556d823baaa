// Fits a sine with a layer of 32 units, made of primitive ops.

#include <mtpx/mtpx.hpp>

#include <cmath>
#include <iostream>
#include <vector>

using namespace mtpx;

struct Net {
  Linear<float, Cpu> in, out;
  Parameter<float, Cpu> b;
  explicit Net(const Cpu& cpu) : in(cpu, 1, 32), out(cpu, 32, 1), b(cpu, {32}) {}
  const Cpu& device() const { return b.device(); }
  Var<float, Cpu> operator()(const Var<float, Cpu>& x) const { return out(tanh(in(x) + b)); }
  static void members(auto& self, auto&& visit) {
    visit("in", self.in), visit("out", self.out), visit("b", self.b);
  }
};

int main() {
  Net net{Cpu()};
  initialize(net, 1, 0.5);
  AdamW<float, Cpu> adamw({.weight_decay = 0});
  std::vector<float> x, y;
  for (float at = -3; at <= 3; at += 0.05F) x.push_back(at), y.push_back(std::sin(at));
  const auto column = [&](const auto& numbers) {
    return Tensor<float, Cpu>::from(net.device(), {121, 1}, numbers);
  };
  float error = 1;
  for (int step = 0; step < 1000; ++step) {
    Tape tape;
    const auto loss = mse(net(tape.constant(column(x))), tape.constant(column(y)));
    tape.backward(loss);
    adamw.step(net, clip_norm(net, 1.0), 1e-2 * (1 - step / 1000.0));
    error = loss.item();
  }
  std::cout << "mean squared error " << error << '\n';
  return error < 1e-4F ? 0 : 1;
}
