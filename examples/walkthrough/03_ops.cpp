// An op is one function: check, compute, record. gradcheck() says whether its backward is right.

#include "claim.hpp"

#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/ops/rms_norm.hpp>

#include <cmath>
#include <iostream>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;
using Matrix = mtpx::Tensor<double, Cpu>;
using Numbers = std::vector<double>;
using Value = mtpx::Var<double, Cpu>;

/// loss = 1/2 sum_i x_i^2, so that dloss/dx_i = x_i. `factor` is 1 where the backward is right.
Value half_squares(const Value& x, double factor = 1) {
  mtpx::Tape& tape = mtpx::tape_of("half_squares", x);
  mtpx::require(x.value().contiguous(), "half_squares", "x needs dense rows", {{"x", x}});
  double total = 0;
  for (mtpx::Index i = 0; i < x.shape().size(); ++i) total += x.data()[i] * x.data()[i] / 2;
  const Matrix loss = Matrix::from(x.device(), {1}, Numbers{total});
  // What the lambda captures is what the op saves for backward.
  return tape.record("half_squares", loss, [x, factor](const Matrix& dloss) {
    const mtpx::Sink<double> dx = x.sink();  // says where to write, and whether to overwrite or to add
    if (!dx) return;                         // nobody wants this gradient
    for (mtpx::Index i = 0; i < x.shape().size(); ++i) {
      const double d = factor * dloss.data()[0] * x.data()[i];
      dx.data[i] = dx.accumulate ? dx.data[i] + d : d;
    }
  });
}

}  // namespace

int main() {
  const Cpu cpu(1);
  const mtpx::Parameter<double, Cpu> x(Matrix::from(cpu, {2, 3}, Numbers{0.5, -1.5, 2, 0.25, 1, -0.75}));
  const mtpx::Parameter<double, Cpu> gain(Matrix::from(cpu, {3}, Numbers{1, 0.5, -2}));

  // Every entry of every gradient, against differences of the loss, in double.
  const auto check = [](const std::vector<mtpx::GradcheckTarget<Cpu>>& targets, const auto& loss) {
    const mtpx::GradcheckReport report = mtpx::gradcheck<Cpu>(targets, loss);
    std::cout << report.checked << " entries, worst error " << report.worst << ", at " << report.where
              << '\n';
    return report;
  };

  const auto right = check({{"x", x}}, [&](mtpx::Tape& tape) { return half_squares(tape.adopt(x)); });
  claim("our own op's backward is right", right.within(1e-9));

  const auto wrong = check({{"x", x}}, [&](mtpx::Tape& tape) { return half_squares(tape.adopt(x), 1.001); });
  claim("an error of one in a thousand is found", !wrong.within(1e-7));

  // An op of the library, followed by ours: the tape chains them.
  const auto chained = check({{"x", x}, {"gain", gain}}, [&](mtpx::Tape& tape) {
    return half_squares(rms_norm(tape.adopt(x), gain, 1e-6));
  });
  claim("rms_norm's backward is right, for both operands", chained.within(1e-7));

  // A norm does not change when x is scaled, so moving x along itself changes nothing: x . dx = 0.
  mtpx::Tape tape;
  const auto input = tape.input(x.value());
  tape.backward(half_squares(rms_norm(input, gain, 0.0)));
  const Numbers dx = input.grad().to_host();
  double along = 0;
  for (std::size_t i = 0; i < 3; ++i) along += x.data()[i] * dx[i];
  claim("x . dx = 0 for each row of a norm", std::abs(along) < 1e-12);
  return all_hold ? 0 : 1;
}
