// A Tape is a list of what was computed. Backward walks it from the end and frees memory on the way.

#include "claim.hpp"

#include <mtpx/autograd/tape.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/linear.hpp>

#include <iostream>
#include <string>
#include <vector>

namespace {

using Matrix = mtpx::Tensor<float, mtpx::Cpu>;
using Numbers = std::vector<float>;

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const mtpx::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

int main() {
  const mtpx::Cpu cpu(1);
  // A parameter outlives tapes. Its gradient is gathered beside its value.
  mtpx::Parameter<float, mtpx::Cpu> w(Matrix::from(cpu, {1, 3}, Numbers{1, 2, 3}));
  const Matrix numbers = Matrix::from(cpu, {1, 3}, Numbers{5, 7, 11});

  // y = w . x + w . x, so that dy/dw = 2 x and dy/dx = 2 w.
  const auto forward = [&w](const mtpx::Var<float, mtpx::Cpu>& x) {
    const auto first = linear(x, w);
    const auto second = linear(x, w);
    return add(first, second);
  };

  mtpx::Tape tape;
  const auto x = tape.input(numbers);  // the start: whatever is computed from x is on the tape, too
  const auto y = forward(x);
  std::cout << "y = " << y.value().to_host()[0] << "; the tape:\n";
  tape.print(std::cout);
  tape.backward(y);
  claim("dy/dw = 2 x", w.grad().to_host() == Numbers{10, 14, 22});
  claim("dy/dx = 2 w", x.grad().to_host() == Numbers{2, 4, 6});
  claim("the tape is empty now", tape.size() == 0);

  // A tape serves one forward and one backward.
  const std::string again = error_of([&] { tape.backward(y); });
  std::cout << again << '\n';
  claim("a second backward is refused", !again.empty());

  // Gradients of a parameter add up until somebody forgets them: accumulation over micro-batches is free.
  mtpx::Tape second;
  second.backward(forward(second.input(numbers)));
  claim("a second tape adds to dy/dw", w.grad().to_host() == Numbers{20, 28, 44});
  w.zero_grad();
  claim("zero_grad() forgets", !w.grad().defined());

  // The same code without recording: nothing is kept.
  mtpx::Tape inference(mtpx::Mode::inference);
  const auto value = forward(inference.input(numbers));
  claim("inference computes the same value", value.value().to_host() == y.value().to_host());
  claim("inference records nothing", inference.size() == 0);

  // A frozen parameter is a constant: it gets no gradient and costs nothing in backward.
  w.freeze();
  mtpx::Tape third;
  const auto input = third.input(numbers);
  third.backward(forward(input));
  claim("a frozen w has no gradient, x still has", !w.grad().defined() && input.grad().defined());
  return all_hold ? 0 : 1;
}
