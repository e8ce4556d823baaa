// A Tensor is a stack of rows. Views share its storage; nothing is ever copied behind your back.

#include "claim.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/tensor.hpp>

#include <iostream>
#include <numeric>
#include <string>
#include <vector>

namespace {

using Matrix = mtpx::Tensor<float, mtpx::Cpu>;

void show(const std::string& name, const Matrix& x) {
  const mtpx::Rows rows = x.rows();
  std::cout << name << ' ' << x.shape().str() << ": " << rows.count << " rows of " << rows.width << ", "
            << rows.stride << " apart\n";
  for (mtpx::Index r = 0; r < rows.count; ++r) {
    std::cout << "   ";
    for (mtpx::Index c = 0; c < rows.width; ++c) std::cout << ' ' << x.data()[r * rows.stride + c];
    std::cout << '\n';
  }
}

}  // namespace

int main() {
  const mtpx::Cpu cpu(1);  // a device: a pool of memory and a number of threads
  std::vector<float> numbers(12);
  std::iota(numbers.begin(), numbers.end(), 0.0F);
  const Matrix x = Matrix::from(cpu, {2, 6}, numbers);
  show("x", x);

  // Part of every row: the rows stay 6 apart. Latent attention cuts its products this way.
  const Matrix part = x.narrow_last(2, 3);
  show("x.narrow_last(2, 3)", part);
  claim("a view copies nothing", part.data() == x.data() + 2);
  claim("its rows no longer touch each other", !part.contiguous());

  // The same numbers under another shape, and some entries of the first axis.
  const Matrix heads = x.reshape({2, 3, 2});
  show("x.reshape({2, 3, 2})", heads);
  show("x.slice_front(1, 2)", x.slice_front(1, 2));

  x.data()[2] = -1;
  claim("a change of x shows in both views", part.data()[0] == -1 && heads.data()[2] == -1);

  // What would need a copy is refused, with every operand and its shape.
  std::string text;
  try {
    part.reshape({3, 2});
  } catch (const mtpx::ShapeError& error) {
    text = error.what();
  }
  std::cout << text << '\n';
  claim("a reshape that needs a copy throws", text.rfind("[reshape]", 0) == 0);

  // Memory comes from the device's pool and goes back to it.
  const std::size_t before = cpu.pool().allocations();
  for (int i = 0; i < 100; ++i) Matrix::zeros(cpu, {5, 7});
  claim("a hundred tensors of one size cost one allocation", cpu.pool().allocations() == before + 1);
  return all_hold ? 0 : 1;
}
