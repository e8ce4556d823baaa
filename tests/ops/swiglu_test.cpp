#include <mtpx/ops/swiglu.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/swiglu.hpp");

namespace {

template <typename T>
auto swiglu_card(Shape shape) {
  return Card(
      {"gate", "up"}, [](const auto& gate, const auto& up) { return swiglu(gate, up); },
      activation(random_tensor<T>(shape, 1, 3)), activation(random_tensor<T>(shape, 2)));
}

}  // namespace

TEST_CASE("swiglu: the card") {
  for (const Shape& shape : {Shape{1}, Shape{1, 1, 1}, Shape{2, 3, 5}, Shape{19}}) {
    CAPTURE(shape.str());
    const auto card = swiglu_card<double>(shape);
    check_close(card.run().value, reference::swiglu(card.numbers<0>(), card.numbers<1>()), 1e-12);
    card.check();
  }
  swiglu_card<double>({7, 5003}).check_threads();
}

TEST_CASE("swiglu: float and bf16") {
  check_same(swiglu_card<float>({7, 33}), swiglu_card<double>({7, 33}), float_bound);
  check_same(swiglu_card<bf16>({7, 33}), swiglu_card<float>({7, 33}), bf16_bound);
}

TEST_CASE("swiglu: an operand may be both gate and up") {
  const auto x = activation(random_tensor<double>({3, 7}, 1));
  const Card card(
      {"x"}, [](const auto& v) { return swiglu(v, v); }, x);
  check_close(card.run().value, reference::swiglu(host(x.value()), host(x.value())), 1e-12);
  card.check();
}

TEST_CASE("swiglu: huge gates stay finite") {
  const auto gate = activation(tensor<double>({4}, {-1e4, -800, 800, 1e4}));
  const auto up = activation(tensor<double>({4}, {1, 1, 1, 1}));
  const Card card(
      {"gate", "up"}, [](const auto& g, const auto& u) { return swiglu(g, u); }, gate, up);
  const Result result = card.run();
  check_close(result.value, {0, 0, 800, 1e4}, 1e-12);
  const Numbers dy = host(random_tensor<double>({4}, 1000));
  check_close(result.grads[0], {0, 0, dy[2], dy[3]}, 1e-12, "gradient of gate");
}

TEST_CASE("swiglu: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  CHECK_THROWS_WITH_AS(
      swiglu(x, tape.input(random_tensor<double>({2, 4}, 1))),
      "[swiglu] gate and up need the same shape and dense rows\n  gate: [2, 3]\n  up: [2, 4]", ShapeError);
  CHECK_THROWS_WITH_AS(
      swiglu(tape.input(with_gaps(x.value())), x),
      "[swiglu] gate and up need the same shape and dense rows\n  gate: [2, 3], rows 8 apart\n  up: [2, 3]",
      ShapeError);
}

TEST_SUITE_END();
