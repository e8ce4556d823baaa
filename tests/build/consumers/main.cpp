// A forward and a backward through two ops, on numbers that come out exactly.

#include <mtpx/mtpx.hpp>

#include <iostream>
#include <vector>

namespace {

using Numbers = std::vector<float>;

bool same(const char* name, const mtpx::Tensor<float, mtpx::Cpu>& x, const Numbers& expected) {
  const Numbers found = x.to_host();
  std::cout << name << ' ' << x.shape().str() << ':';
  for (const float number : found) std::cout << ' ' << number;
  std::cout << '\n';
  return found == expected;
}

}  // namespace

int main() {
  const mtpx::Cpu cpu(2);
  const auto tensor = [&cpu](mtpx::Shape shape, const Numbers& numbers) {
    return mtpx::Tensor<float, mtpx::Cpu>::from(cpu, shape, numbers);
  };
  const mtpx::Parameter<float, mtpx::Cpu> gain(tensor({4}, {1, 1, 1, 1}));
  const mtpx::Parameter<float, mtpx::Cpu> w(tensor({1, 4}, {1, 2, 3, 4}));

  mtpx::Tape tape;
  const auto x = tape.input(tensor({1, 4}, {1, -1, 1, -1}));  // its mean square is 1: the norm of x is x
  const auto y = linear(rms_norm(x, gain, 0.0F), w);          // found through the arguments' namespace
  tape.backward(y);

  const bool value = same("y", y.value(), {-2});
  const bool dx = same("dx", x.grad(), {1.5F, 1.5F, 3.5F, 3.5F});  // w - x * mean(w * x)
  const bool dgain = same("dgain", gain.grad(), {1, -2, 3, -4});   // w * x
  const bool dw = same("dw", w.grad(), {1, -1, 1, -1});
  return value && dx && dgain && dw ? 0 : 1;
}
