// A module is a struct with parameters and one line per member: no base class, no registration.

#include "claim.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/nn/linear.hpp>
#include <mtpx/nn/rms_norm.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/train/adamw.hpp>

#include <iostream>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;

/// Tells two classes of points apart: y = norm(W x), then the output head inside the loss.
struct Classifier {
  mtpx::Linear<float, Cpu> up;
  mtpx::RmsNorm<float, Cpu> norm;
  mtpx::Linear<float, Cpu> head;

  explicit Classifier(const Cpu& cpu) : up(cpu, 2, 4), norm(cpu, 4, 1e-6), head(cpu, 4, 2) {}

  mtpx::Var<float, Cpu> operator()(const mtpx::Var<float, Cpu>& x) const { return norm(up(x)); }

  /// The optimiser, initialisation and model files find the parameters through this, under these names.
  static void members(auto& self, auto&& visit) {
    visit("up", self.up);
    visit("norm", self.norm);
    visit("head", self.head);
  }
};

}  // namespace

int main() {
  static_assert(!std::is_copy_constructible_v<Classifier>, "a copy would train half a model by mistake");
  const Cpu cpu(1);
  Classifier model(cpu);

  mtpx::Index numbers = 0;
  std::string names;
  mtpx::for_each_parameter(model, [&](const std::string& name, auto& parameter) {
    const mtpx::Index count = parameter.shape().size();
    if (parameter.shape().rank() > 1) {
      draw_normals(cpu, count, 1, static_cast<std::uint64_t>(numbers), 1.0, parameter.data());
    } else {
      fill_value(cpu, count, 1.0F, parameter.data());  // a norm's gain
    }
    numbers += count;
    std::cout << name << ' ' << parameter.shape().str() << '\n';
    names += name + ' ';
  });
  claim("names are made of members", names == "up.weight norm.weight head.weight ");
  claim("it has 2 * 4 + 4 + 4 * 2 numbers", numbers == 20);

  // Points above and below the line x_0 + x_1 = 0.
  const auto points = mtpx::Tensor<float, Cpu>::from(
      cpu, {6, 2}, std::vector<float>{1, 2, 2, -1, 3, 1, -1, -2, -2, 1, -3, 0.5F});
  const auto labels =
      mtpx::Tensor<std::int32_t, Cpu>::from(cpu, {6}, std::vector<std::int32_t>{1, 1, 1, 0, 0, 0});

  mtpx::AdamW<float, Cpu> optimizer;
  float first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    mtpx::Tape tape;
    const auto result = linear_cross_entropy(model(tape.input(points)), model.head.weight, labels);
    tape.backward(result.loss);
    optimizer.step(model, 0.05, 1.0);  // of a norm cut to 1; forgets the gradients
    last = result.loss.value().to_host()[0];
    if (step == 0) first = last;
    if (step % 20 == 0) std::cout << "step " << step << ": loss " << last << " nats\n";
  }
  std::cout << "at the end: " << last << '\n';
  claim("the loss fell below a tenth", last < first / 10);
  return all_hold ? 0 : 1;
}
