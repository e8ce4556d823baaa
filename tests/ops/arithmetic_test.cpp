#include <mtpx/ops/arithmetic.hpp>

#include "support/primitives.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/arithmetic.hpp");

namespace {

/// y = x + row, x [N, D], for the gradient of a weight in bf16, which is in float.
template <typename T>
auto bias_card(Shape shape) {
  return Card(
      {"x", "b"}, [](const auto& x, const auto& b) { return bias(x, b); },
      activation(random_tensor<T>(shape, 1)), weight(random_tensor<T>({shape.width()}, 2)));
}

}  // namespace

TEST_CASE("ops of two operands: the card") {
  for (const auto& op : two_operand_ops<double, Device>()) {
    CAPTURE(op.name);
    CAPTURE(op.a.str());
    CAPTURE(op.b.str());
    const auto card = op.card();
    card.check_frozen();
    card.check_accumulation();
    if (op.a.size() + op.b.size() < 2000) card.check_gradients();
    card.check_threads();
    if (op.name == "scatter") continue;  // which wants dense rows
    card.template check_strided<0>();
    card.template check_strided<1>();
  }
}

TEST_CASE("ops of two operands: float and bf16") {
  const auto in_double = two_operand_ops<double, Device>();
  const auto in_float = two_operand_ops<float, Device>();
  const auto in_bf16 = two_operand_ops<bf16, Device>();
  for (std::size_t i = 0; i < in_double.size(); ++i) {
    CAPTURE(in_double[i].name);
    CAPTURE(in_double[i].a.str());
    CAPTURE(in_double[i].b.str());
    check_same(in_float[i].card(), in_double[i].card(), float_bound);
    check_same(in_bf16[i].card(), in_float[i].card(), bf16_bound);
  }
}

TEST_CASE("arithmetic: rows, columns and numbers repeat") {
  Tape tape(Mode::inference);
  const auto c = [&](Shape shape, const std::vector<double>& x) {
    return tape.constant(tensor<double>(shape, x));
  };
  const auto x = c({2, 3}, {1, 2, 3, 4, 5, 6});
  const auto row = c({3}, {10, 20, 30});
  const auto column = c({2, 1}, {2, 4});
  const auto one = c({1}, {5});
  CHECK(host((x + row).value()) == Numbers{11, 22, 33, 14, 25, 36});
  CHECK(host((row - x).value()) == Numbers{9, 18, 27, 6, 15, 24});
  CHECK(host((x * column).value()) == Numbers{2, 4, 6, 16, 20, 24});
  CHECK(host((x / column).value()) == Numbers{0.5, 1, 1.5, 1, 1.25, 1.5});
  CHECK(host((one - x).value()) == Numbers{4, 3, 2, 1, 0, -1});
  const auto table = row * column;
  CHECK(table.shape() == Shape{2, 3});
  CHECK(host(table.value()) == Numbers{20, 40, 60, 40, 80, 120});
  CHECK(host((2 * x - 1).value()) == Numbers{1, 3, 5, 7, 9, 11});
  CHECK(host((-x + 7).value()) == Numbers{6, 5, 4, 3, 2, 1});
  CHECK(host((12 / x).value()) == Numbers{12, 6, 4, 3, 2.4, 2});
  CHECK(host((x / 2).value()) == Numbers{0.5, 1, 1.5, 2, 2.5, 3});
  CHECK(host((7 - x).value()) == Numbers{6, 5, 4, 3, 2, 1});
  const auto mask = tensor<std::int32_t>({3}, {1, 0, 7});
  CHECK(host(where(mask, x, row).value()) == Numbers{1, 20, 3, 4, 20, 6});
  CHECK(host(where(mask, x, -1).value()) == Numbers{1, -1, 3, 4, -1, 6});
  CHECK((c({1, 1, 1}, {1}) + c({1}, {1})).shape() == Shape{1, 1, 1});
}

TEST_CASE("where: what is not chosen does not count, NaN included") {
  const auto mask = tensor<std::int32_t>({2}, {1, 0});
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const Card card(
      {"a", "b"}, [mask](const auto& a, const auto& b) { return where(mask, a, b); },
      activation(tensor<double>({2}, {1, nan})), activation(tensor<double>({2}, {nan, 2})));
  const Result result = card.run();
  CHECK(result.value == Numbers{1, 2});
  const Numbers dy = host(random_tensor<double>({2}, 1000));
  CHECK(result.grads[0] == Numbers{dy[0], 0});
  CHECK(result.grads[1] == Numbers{0, dy[1]});
}

TEST_CASE("bias: a weight's gradient is in the accumulation type") {
  bias_card<double>({2, 3, 5}).check();
  check_same(bias_card<float>({70, 33}), bias_card<double>({70, 33}), float_bound);
  check_same(bias_card<bf16>({70, 33}), bias_card<float>({70, 33}), bf16_bound);
  // sums of many bf16 gradients keep a float's digits
  check_close(bias_card<bf16>({700, 3}).run().grads[1], bias_card<double>({700, 3}).run().grads[1],
              float_bound);
  Parameter<double, Device> b(random_tensor<double>({5}, 1));
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 5}, 2));
  const auto y = x * b + b;
  CHECK(y.shape() == x.shape());
  CHECK_THROWS_WITH_AS(bias(x, Weight<double, Device>(random_tensor<double>({4}, 1))),
                       "[bias] b needs one number per column of x\n  x: [2, 5]\n  b: [4]", ShapeError);
}

TEST_CASE("add: the last operand to read a gradient takes it over") {
  Tape tape;
  const auto a = tape.constant(random_tensor<double>({4, 4096}, 1));
  const auto b = tape.input(random_tensor<double>({4, 4096}, 2));
  const auto y = add(a, b);
  const auto dy = random_tensor<double>({4, 4096}, 3);
  tape.seed(y, dy);
  const auto before = device().pool().bytes_in_use();
  tape.run();
  CHECK(device().pool().bytes_in_use() <= before);
  CHECK(host(b.grad()) == host(dy));
}

TEST_CASE("arithmetic: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  const std::string rule =
      "a and b need the same shape, or one is a row [D], a column [..., 1] or one number";
  for (const Shape& shape : {Shape{2, 4}, Shape{3, 3}, Shape{2}, Shape{3, 1}, Shape{1, 1, 2}}) {
    const auto other = tape.input(random_tensor<double>(shape, 1));
    const std::string shapes = "\n  a: [2, 3]\n  b: " + shape.str();
    CHECK_THROWS_WITH_AS(add(x, other), ("[add] " + rule + shapes).c_str(), ShapeError);
    CHECK_THROWS_WITH_AS(x / other, ("[div] " + rule + shapes).c_str(), ShapeError);
  }
  const Tape::Scope outer(tape, "model");
  const Tape::Scope scope(tape, "layers.1");
  CHECK_THROWS_WITH_AS(sub(x, tape.input(random_tensor<double>({4}, 1))),
                       ("[sub] " + rule + "\n  a: [2, 3]\n  b: [4]\n  in model.layers.1").c_str(),
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      where(tensor<std::int32_t>({2}, {1, 0}), x, x),
      "[where] the mask is dense and has the last axes of the result\n  mask: [2]\n  y: [2, 3]\n"
      "  in model.layers.1",
      ShapeError);
  CHECK_THROWS_WITH_AS(
      add(narrow(x, 1, 2), tape.input(random_tensor<double>({3, 2}, 1))),
      ("[add] " + rule + "\n  a: [2, 2], rows 3 apart\n  b: [3, 2]\n  in model.layers.1").c_str(),
      ShapeError);
  const Var<double, Device> leaf(x.value());
  CHECK_THROWS_WITH_AS(add(leaf, leaf),
                       "[add] no operand is on a tape; start with embedding(tape, ...) or tape.input(...)",
                       Error);
  Tape other;
  CHECK_THROWS_WITH_AS(add(x, other.input(x.value())), "[add] the operands are on two different tapes",
                       Error);
}

TEST_CASE("arithmetic: part of a row needs no copy, and contiguous() makes one") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3, 6}, 1));
  const auto part = narrow(x, 2, 3);
  const auto y = tape.input(random_tensor<double>({2, 3, 3}, 2));
  const auto dense = contiguous(part);
  CHECK(dense.value().contiguous());
  CHECK(contiguous(y).data() == y.data());
  const auto of_part = add(part, y);
  const auto of_dense = add(dense, y);
  check_bits(host(of_part.value()), host(of_dense.value()));
  CHECK(reshape(dense, {18}).shape() == Shape{18});
}

TEST_CASE("weighted_sum: the card") {
  const auto loss = [](std::uint64_t stream) { return activation(random_tensor<double>({1}, stream)); };
  const Card card(
      {"x", "y", "z"},
      [](const auto& x, const auto& y, const auto& z) {
        return weighted_sum<double, Device>({x, y, z, x}, {0.5, -2.0, 3.0, 0.25});
      },
      loss(1), loss(2), loss(3));
  const double x = card.numbers<0>()[0], y = card.numbers<1>()[0], z = card.numbers<2>()[0];
  check_close(card.run().value, {0.75 * x - 2 * y + 3 * z}, 1e-12);
  card.check();
}

TEST_CASE("weighted_sum: errors") {
  Tape tape;
  const auto one = tape.input(random_tensor<double>({1}, 1));
  const auto two = tape.input(random_tensor<double>({2}, 1));
  CHECK_THROWS_WITH_AS((weighted_sum<double, Device>({}, {})),
                       "[weighted_sum] as many weights as losses, at least one\n  x: [0]\n  weights: [0]",
                       ShapeError);
  CHECK_THROWS_WITH_AS((weighted_sum<double, Device>({one, one}, {1.0})),
                       "[weighted_sum] as many weights as losses, at least one\n  x: [2]\n  weights: [1]",
                       ShapeError);
  CHECK_THROWS_WITH_AS((weighted_sum<double, Device>({one, two}, {1.0, 1.0})),
                       "[weighted_sum] every loss is one number\n  x: [2]", ShapeError);
}

TEST_SUITE_END();
