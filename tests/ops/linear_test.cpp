#include <mtpx/ops/linear.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/linear.hpp");

namespace {

/// X: the activations' type   W: the weights' and the output's
template <typename X, typename W>
auto linear_card(Shape x, Index out) {
  return Card(
      {"x", "w"}, [](const auto& v, const auto& w) { return linear(v, w); },
      activation(random_tensor<X>(x, 1)), weight(random_tensor<W>({out, x.width()}, 2)));
}

/// Up to so many rows, a GPU's products promise what the test below asks for; the host's always do.
constexpr Index many = on_gpu ? 64 : 131;

/// Row r of a product with N rows must have the bits of a product with that row alone.
template <typename T>
void check_rows_stand_alone(Index rows, Index in, Index out) {
  CAPTURE(rows);
  CAPTURE(in);
  CAPTURE(out);
  const auto w = random_tensor<T>({out, in}, 2);
  const auto x = random_tensor<T>({rows, in}, 1);
  const auto product = [&w](const Tensor<T, Device>& some) {
    Tape tape(Mode::inference);
    return host(linear(tape.constant(some), Weight<T, Device>(w)).value());
  };
  Numbers alone;
  for (Index r = 0; r < rows; ++r) {
    const Numbers row = product(x.slice_front(r, r + 1));
    alone.insert(alone.end(), row.begin(), row.end());
  }
  check_bits(product(x), alone);
}

}  // namespace

TEST_CASE("linear: the card") {
  struct Sizes {
    Shape x;
    Index out;
  };
  // Around the tiles of gemm.hpp: 1, a part, exactly, one more; rows 64 are one task.
  for (const Sizes& sizes : {Sizes{{1, 1}, 1}, Sizes{{1, 3}, 2}, Sizes{{2, 3, 5}, 17}, Sizes{{8, 16}, 8},
                             Sizes{{13, 7}, 9}, Sizes{{66, 4}, 3}}) {
    CAPTURE(sizes.x.str());
    CAPTURE(sizes.out);
    const auto card = linear_card<double, double>(sizes.x, sizes.out);
    check_close(card.run().value,
                reference::linear(card.numbers<0>(), card.numbers<1>(), sizes.x.width(), sizes.out), 1e-12);
    card.check();
    card.check_strided<0>();
  }
  linear_card<double, double>({150, 70}, 90).check_threads();
  linear_card<double, double>({3, 70}, 150).check_threads();  // few rows: the columns are split
}

TEST_CASE("linear: float, bf16, and float weights on bf16 activations") {
  check_same(linear_card<float, float>({37, 100}, 50), linear_card<double, double>({37, 100}, 50),
             float_bound);
  check_same(linear_card<bf16, bf16>({37, 100}, 50), linear_card<float, float>({37, 100}, 50), bf16_bound);
  const auto router = linear_card<bf16, float>({37, 100}, 50);
  check_same(router, linear_card<float, float>({37, 100}, 50), bf16_bound);
  const Numbers in_float = linear_card<float, float>({37, 100}, 50).run().value;  // nothing is rounded
  if (on_gpu) {  // where the two types have other orders of summation
    check_close(router.run().value, in_float, float_bound);
  } else {
    check_bits(router.run().value, in_float);
  }
  router.check_accumulation(bf16_bound);
}

TEST_CASE("linear: a row's bits do not depend on the rows beside it") {
  for (Index rows = 1; rows <= 17; ++rows) {
    for (const Index in : {1, 7, 33}) {
      for (const Index out : {1, 5, 19, 70}) {
        check_rows_stand_alone<float>(rows, in, out);
        check_rows_stand_alone<double>(rows, in, out);
        check_rows_stand_alone<bf16>(rows, in, out);
      }
    }
  }
  check_rows_stand_alone<float>(many, 300, 65);
  check_rows_stand_alone<double>(many, 300, 65);
  check_rows_stand_alone<bf16>(many, 300, 65);
}

// On a GPU the lanes of a warp share a sum.
TEST_CASE("linear: every output is one sum in the order of k" * doctest::skip(on_gpu)) {
  // Large terms cancel before the small one comes: any split of k would lose it.
  const auto x = tensor<float>({1, 4}, {1e8F, -1e8F, 1.0F, 0.5F});
  const auto w = tensor<float>({1, 4}, {1, 1, 1, 1});
  Tape tape(Mode::inference);
  CHECK(host(linear(tape.constant(x), Weight<float, Device>(w)).value()) == Numbers{1.5});
  const auto late = tensor<float>({1, 4}, {1.0F, 1e8F, 0.5F, -1e8F});
  CHECK(host(linear(tape.constant(late), Weight<float, Device>(w)).value()) == Numbers{0});
}

TEST_CASE("linear: no rows give no output and a gradient of zeros") {
  const Card card(
      {"x", "w"}, [](const auto& x, const auto& w) { return linear(x, w); },
      activation(Tensor<double, Device>(device(), {2, 0, 3})), weight(random_tensor<double>({4, 3}, 2)));
  const Result result = card.run();
  CHECK(result.value.empty());
  check_bits(result.grads[1], Numbers(12, 0.0));
}

TEST_CASE("linear: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  CHECK_THROWS_WITH_AS(linear(x, weight(random_tensor<double>({5, 4}, 1))),
                       "[linear] w needs one column per column of x\n  x: [2, 3]\n  w: [5, 4]", ShapeError);
  const Tape::Scope scope(tape, "lm_head");
  CHECK_THROWS_WITH_AS(linear(x, weight(random_tensor<double>({3}, 1))),
                       "[linear] w needs one column per column of x\n  x: [2, 3]\n  w: [3]\n  in lm_head",
                       ShapeError);
}

TEST_SUITE_END();
