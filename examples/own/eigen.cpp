// Eigen and tensors: a tensor's rows as a matrix, a matrix as a tensor, neither with a copy; and a copy of a
// matrix of any layout.

#include <mtpx/core/eigen.hpp>
#include <mtpx/mtpx.hpp>

#include <iostream>
#include <memory>

using namespace mtpx;

int main() {
  const Cpu cpu;

  // A tensor as Eigen sees it: what is written there stands in the tensor.
  const auto x = Tensor<float, Cpu>::zeros(cpu, {2, 3});
  as_matrix(x).row(1) = Eigen::RowVector3f(1, 2, 3);
  as_matrix(x.narrow_last(1, 2)) *= 2;  // rows may be apart

  // A matrix of the caller's as a tensor. Tensors are row-major, so the matrix must be.
  RowMatrix<float> m = RowMatrix<float>::Identity(3, 3);
  const Tensor<float, Cpu> over = borrow(cpu, m);
  over.at(0, 2) = 5;

  // The same of a matrix that lives as long as a tensor needs it.
  auto owned = std::make_shared<RowMatrix<float>>(RowMatrix<float>::Constant(3, 3, 0.5F));
  const Tensor<float, Cpu> kept = borrow(cpu, owned);
  owned.reset();

  // Eigen's default, column by column, or an expression: copied.
  const Eigen::Matrix3f columns{{1, 2, 3}, {4, 5, 6}, {7, 8, 9}};
  const Tensor<float, Cpu> copy = from(cpu, columns.transpose() * 2);

  Tape tape;
  const auto y = matmul(tape.constant(x), tape.constant(over)) + tape.constant(copy.slice_front(0, 2));
  std::cout << y << '\n' << kept << '\n';
  const bool right = m(0, 2) == 5 && kept.at(2, 2) == 0.5F && copy.at(0, 1) == 8 &&
                     as_const_matrix(y.value()).row(1) == Eigen::RowVector3f(5, 14, 27);
  return right ? 0 : 1;
}
