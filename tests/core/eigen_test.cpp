#include <mtpx/core/cpu.hpp>
#include <mtpx/core/eigen.hpp>
#include <mtpx/core/reference.hpp>
#include <mtpx/nn/linear.hpp>
#include <mtpx/ops/rope.hpp>
#include <mtpx/train/adamw.hpp>

#include <doctest/doctest.h>

#include <memory>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/core/eigen.hpp");

namespace {

using Matrix = Tensor<double, Cpu>;
using Numbers = std::vector<double>;

/// 0, 1, 2, ...
Numbers counting(std::size_t count) {
  Numbers x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<double>(i);
  return x;
}

struct Layer {
  Linear<double, Cpu> linear;

  static void members(auto& self, auto&& visit) { visit("", self.linear); }
  const Cpu& device() const { return linear.weight.device(); }
};

}  // namespace

TEST_CASE("as_matrix: all rows, without a copy, written both ways") {
  const Cpu cpu(1);
  const Matrix x = Matrix::from(cpu, {2, 3, 4}, counting(24));
  auto m = as_matrix(x);
  CHECK(m.data() == x.data());
  CHECK(m.rows() == 6);
  CHECK(m.cols() == 4);
  CHECK(m(4, 1) == 17);
  m(4, 1) = -1;
  CHECK(x.to_host()[17] == -1);
  x.data()[0] = 9;
  CHECK(m(0, 0) == 9);
  CHECK(as_const_matrix(x)(4, 1) == -1);
  CHECK(std::is_const_v<std::remove_pointer_t<decltype(as_const_matrix(x).data())>>);
}

TEST_CASE("as_matrix: rows that are apart; other devices of the host's memory") {
  const Tensor<float, Reference> x =
      Tensor<float, Reference>::from(Reference(), {2, 4}, std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7});
  auto right = as_matrix(x.narrow_last(2, 2));
  CHECK(right.sum() == 2 + 3 + 6 + 7);
  right.setZero();
  CHECK(x.to_host() == std::vector<float>{0, 1, 0, 0, 4, 5, 0, 0});
}

TEST_CASE("as_matrix: takes what Eigen computes, whatever its layout") {
  const Cpu cpu(1);
  Eigen::MatrixXd by_columns(2, 3);
  by_columns << 0, 1, 2, 3, 4, 5;
  const Matrix x(cpu, {2, 3}), product(cpu, {2, 2});
  as_matrix(x) = by_columns;
  CHECK(x.to_host() == counting(6));
  as_matrix(product) = as_matrix(x) * by_columns.transpose();
  CHECK(product.to_host() == Numbers{5, 14, 14, 50});
}

TEST_CASE("as_matrix: an undefined tensor has no rows") {
  CHECK_THROWS_WITH_AS(as_matrix(Matrix()), "[as_matrix] the tensor is undefined", ShapeError);
  CHECK_THROWS_WITH_AS(as_const_matrix(Matrix()), "[as_const_matrix] the tensor is undefined", ShapeError);
}

TEST_CASE("borrow: the caller's memory, without a copy, in no pool, nobody's own") {
  const Cpu cpu(1);
  Numbers memory = counting(6);
  {
    const Matrix x = Matrix::borrow(cpu, {2, 3}, memory);
    CHECK(x.data() == memory.data());
    CHECK(x.contiguous());
    CHECK(!x.unique());
    memory[4] = -1;
    CHECK(x.to_host() == Numbers{0, 1, 2, 3, -1, 5});
    x.assign(Numbers(6, 7.0));
    CHECK(x.reshape({3, 2}).slice_front(1, 2).data() == memory.data() + 2);
  }
  CHECK(memory == Numbers(6, 7.0));
  CHECK(cpu.pool().peak_bytes() == 0);
  CHECK(cpu.pool().allocations() == 0);
}

TEST_CASE("borrow: rows apart; memory that is too small, overlaps or is misaligned") {
  const Cpu cpu(1);
  Numbers memory = counting(11);
  const Matrix x = Matrix::borrow(cpu, {3, 3}, memory, 4);  // the last row needs no gap
  CHECK(x.to_host() == Numbers{0, 1, 2, 4, 5, 6, 8, 9, 10});
  CHECK(!x.contiguous());
  CHECK(x.narrow_last(1, 2).to_host() == Numbers{1, 2, 5, 6, 9, 10});
  CHECK_THROWS_WITH_AS(
      Matrix::borrow(cpu, {3, 4}, memory),
      "[borrow] the memory must hold all rows, 4 numbers apart\n  shape: [3, 4]\n  memory: [11]", ShapeError);
  CHECK_THROWS_WITH_AS(
      Matrix::borrow(cpu, {2, 3}, memory, 2),
      "[borrow] the memory must hold all rows, 2 numbers apart\n  shape: [2, 3]\n  memory: [11]", ShapeError);
  // An address of bytes: nobody reads through the pointer before it is checked.
  auto* const odd = reinterpret_cast<double*>(reinterpret_cast<std::uintptr_t>(memory.data()) + 4);
  CHECK_THROWS_WITH_AS(Matrix::borrow(cpu, {2}, std::span(odd, 2)),
                       "[borrow] memory of 8-byte numbers must start at a multiple of 8", Error);
  CHECK(Matrix::borrow(cpu, {0, 3}, std::span<double>()).defined());
}

TEST_CASE("borrow: matrices, maps, blocks and vectors of Eigen's") {
  const Cpu cpu(1);
  RowMatrix<double> m(3, 4);
  m << 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11;
  const Matrix whole = borrow(cpu, m);
  CHECK(whole.data() == m.data());
  CHECK(whole.shape() == Shape{3, 4});
  m(1, 1) = -1;
  CHECK(whole.to_host()[5] == -1);
  as_matrix(whole)(2, 3) = 20;
  CHECK(m(2, 3) == 20);

  const Matrix part = borrow(cpu, m.block(1, 1, 2, 2));
  CHECK(part.to_host() == Numbers{-1, 6, 9, 10});
  CHECK(part.row_stride() == 4);
  const Matrix map = borrow(cpu, RowMap<double>(m.data(), 2, 3, Eigen::OuterStride<>(4)));
  CHECK(map.to_host() == Numbers{0, 1, 2, 4, -1, 6});
  const Matrix row = borrow(cpu, m.row(2));
  CHECK(row.shape() == Shape{4});
  CHECK(row.to_host() == Numbers{8, 9, 10, 20});
  Eigen::VectorXf v = Eigen::VectorXf::Ones(5);
  const Tensor<float, Cpu> vector = borrow(cpu, v);
  CHECK(vector.shape() == Shape{5});
  CHECK(vector.data() == v.data());
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE("borrow: with an owner, which lives as long as somebody needs the memory") {
  const Cpu cpu(1);
  auto memory = std::make_shared<Numbers>(counting(11));
  const std::weak_ptr<Numbers> alive = memory;
  const double* const numbers = memory->data();
  Matrix x = Matrix::borrow(cpu, {3, 3}, *memory, 4, memory);
  memory.reset();
  CHECK(!alive.expired());
  CHECK(!x.unique());  // nobody may take the memory over
  {
    const Matrix view = x.slice_front(1, 2).narrow_last(1, 2);
    x = Matrix();
    CHECK(view.data() == numbers + 5);
    CHECK(view.to_host() == Numbers{5, 6});
    CHECK(!alive.expired());
  }
  CHECK(alive.expired());
  CHECK(cpu.pool().allocations() == 0);

  auto none = std::make_shared<Numbers>();
  CHECK(Matrix::borrow(cpu, {0, 3}, *none, none).defined());
  CHECK_THROWS_WITH_AS(
      Matrix::borrow(cpu, {1, 3}, *none, none),
      "[borrow] the memory must hold all rows, 3 numbers apart\n  shape: [1, 3]\n  memory: [0]", ShapeError);
  CHECK(none.use_count() == 1);
}

TEST_CASE("borrow: a matrix of Eigen's that the tensor owns, too") {
  const Cpu cpu(1);
  Matrix x;
  {
    auto m = std::make_shared<RowMatrix<double>>(2, 2);
    *m << 1, 2, 3, 4;
    x = borrow(cpu, m);
  }
  CHECK(x.to_host() == Numbers{1, 2, 3, 4});  // a checker of memory sees to the rest
  const auto vector = std::make_shared<Eigen::VectorXd>(Eigen::VectorXd::Ones(3));
  CHECK(borrow(cpu, vector).shape() == Shape{3});
}

TEST_CASE("from: a matrix, expression or vector of Eigen's, whatever its layout") {
  const Cpu cpu(1);
  Eigen::MatrixXd by_columns(2, 3);
  by_columns << 0, 1, 2, 3, 4, 5;
  const RowMatrix<double> by_rows = by_columns;
  CHECK(from(cpu, by_columns).to_host() == counting(6));
  CHECK(from(cpu, by_columns).shape() == Shape{2, 3});
  CHECK(from(cpu, by_rows).to_host() == counting(6));
  CHECK(from(cpu, by_columns.transpose()).to_host() == Numbers{0, 3, 1, 4, 2, 5});
  CHECK(from(cpu, by_columns.block(0, 1, 2, 2).array() + 1).to_host() == Numbers{2, 3, 5, 6});
  const Eigen::VectorXf column = Eigen::VectorXf::LinSpaced(3, 1, 3);
  const Tensor<float, Reference> x = from(Reference(), column);
  CHECK(x.shape() == Shape{3});
  CHECK(x.to_host() == std::vector<float>{1, 2, 3});
  CHECK(from(cpu, column.transpose()).shape() == Shape{3});
  // Handed to Tensor::from, a matrix does not compile: its numbers may stand column by column.
  static_assert(!std::is_convertible_v<Eigen::MatrixXd&, std::span<const double>>);
}

TEST_CASE("borrow: data and weights of the caller, one step of training") {
  const Cpu cpu(1);
  const auto memory =
      std::make_unique<RowMatrix<double>>(2, 3);  // freed last: a checker of memory sees to it
  RowMatrix<double> weights = RowMatrix<double>::Ones(1, 3);
  *memory << 1, 2, 3, -1, 0, 1;
  {
    Layer model;
    model.linear.weight = Parameter<double, Cpu>(borrow(cpu, weights));
    Tape tape;
    const auto x = tape.input(borrow(cpu, *memory));
    const auto y = model.linear(x);
    CHECK(y.value().to_host() == Numbers{6, 0});
    tape.backward(y, Matrix::from(cpu, {2, 1}, Numbers{1, 1}));
    CHECK(model.linear.weight.grad().to_host() == Numbers{0, 2, 4});
    CHECK(x.grad().to_host() == Numbers(6, 1.0));
    AdamW<double, Cpu> optimizer({.weight_decay = 0});
    optimizer.step(model, clip_norm(model, 0), 0.5);
  }
  CHECK(weights(0, 0) == 1);  // its gradient is 0; the first step of the others is lr sign(g)
  CHECK(weights(0, 1) == doctest::Approx(0.5));
  CHECK(weights(0, 2) == doctest::Approx(0.5));
  CHECK((*memory)(0, 2) == 3);
}

TEST_CASE("borrow: an op that may work in place leaves the caller's memory alone") {
  const Cpu cpu(1);
  Numbers memory = counting(4);
  const RopeTable<double, Cpu> table{Matrix::zeros(cpu, {1, 2}), Matrix::zeros(cpu, {1, 2})};
  Tape tape(Mode::inference);
  const auto y = rope(tape.constant(Matrix::borrow(cpu, {1, 1, 4}, memory)), 1,
                      Tensor<std::int32_t, Cpu>::zeros(cpu, {1, 1}), table);
  CHECK(y.value().to_host() == Numbers(4, 0.0));
  CHECK(memory == counting(4));
}

TEST_SUITE_END();
