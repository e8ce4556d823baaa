#include <mtpx/ops/add.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/add.hpp");

namespace {

template <typename T>
auto add_card(Shape shape) {
  return Card(
      {"a", "b"}, [](const auto& a, const auto& b) { return add(a, b); },
      activation(random_tensor<T>(shape, 1)), activation(random_tensor<T>(shape, 2)));
}

Numbers sum(const Numbers& a, const Numbers& b) {
  Numbers y = a;
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += b[i];
  return y;
}

}  // namespace

TEST_CASE("add: the card") {
  for (const Shape& shape : {Shape{1}, Shape{1, 1}, Shape{2, 3, 5}, Shape{19}}) {
    CAPTURE(shape.str());
    const auto card = add_card<double>(shape);
    check_bits(card.run().value, sum(card.numbers<0>(), card.numbers<1>()));
    card.check();
  }
  add_card<double>({37, 2000}).check_threads();
}

TEST_CASE("add: float and bf16") {
  check_same(add_card<float>({7, 33}), add_card<double>({7, 33}), float_bound);
  check_same(add_card<bf16>({7, 33}), add_card<float>({7, 33}), bf16_bound);
}

TEST_CASE("add: an operand may stand on both sides") {
  const auto x = activation(random_tensor<double>({3, 7}, 1));
  const Card card(
      {"x"}, [](const auto& v) { return add(v, v); }, x);
  check_bits(card.run().value, sum(host(x.value()), host(x.value())));
  card.check();
}

TEST_CASE("add: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  const auto longer = tape.input(random_tensor<double>({2, 4}, 1));
  const auto gaps = tape.input(with_gaps(x.value()));
  CHECK_THROWS_WITH_AS(add(x, longer),
                       "[add] a and b need the same shape and dense rows\n  a: [2, 3]\n  b: [2, 4]",
                       ShapeError);
  const Tape::Scope outer(tape, "model");
  const Tape::Scope scope(tape, "layers.1");
  CHECK_THROWS_WITH_AS(
      add(x, gaps),
      "[add] a and b need the same shape and dense rows\n  a: [2, 3]\n  b: [2, 3]\n  in model.layers.1",
      ShapeError);
  const Var<double, Device> leaf(x.value());
  CHECK_THROWS_WITH_AS(add(leaf, leaf),
                       "[add] no operand is on a tape; start with embedding(tape, ...) or tape.input(...)",
                       Error);
  Tape other;
  CHECK_THROWS_WITH_AS(add(x, other.input(x.value())), "[add] the operands are on two different tapes",
                       Error);
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
