// The primitives that neither functions_test.cpp nor arithmetic_test.cpp has: reductions, products, rows by
// number, dropout, losses. Their cards stand in those two.

#include "support/primitives.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops: primitives");

namespace {

template <typename Op>
Numbers inferred(const Op& op, const Tensor<double, Device>& x) {
  Tape tape(Mode::inference);
  return host(op(tape.constant(x)).value());
}

}  // namespace

TEST_CASE("sum, mean: along rows and over all") {
  const auto x = tensor<double>({2, 3}, {1, 2, 3, 4, 5, 9});
  CHECK(inferred([](const auto& v) { return sum(v); }, x) == Numbers{24});
  CHECK(inferred([](const auto& v) { return mean(v); }, x) == Numbers{4});
  CHECK(inferred([](const auto& v) { return sum_last(v); }, x) == Numbers{6, 18});
  CHECK(inferred([](const auto& v) { return mean_last(v); }, x) == Numbers{2, 6});
  Tape tape;
  CHECK(sum_last(tape.constant(random_tensor<double>({2, 3, 5}, 1))).shape() == Shape{2, 3, 1});
  CHECK(sum(tape.constant(random_tensor<double>({2, 3, 5}, 1))).shape() == Shape{1});
  CHECK(inferred([](const auto& v) { return sum(v); }, Tensor<double, Device>(device(), {0, 3})) ==
        Numbers{0});
}

TEST_CASE("sum: over all, in the order that docs/numerics.md states") {
  const Index width = 2 * sum_columns + 5, rows = 3;
  std::vector<float> x;
  for (Index i = 0; i < rows * width; ++i) x.push_back(static_cast<float>(uniform(1, i)));
  const auto row_sum = [](const float* from, Index count) {
    float sums[32] = {};
    for (Index c = 0; c < count; ++c) sums[c % 32] += from[c];
    for (int apart = 16; apart > 0; apart /= 2) {
      for (int i = 0; i < apart; ++i) sums[i] += sums[i + apart];
    }
    return sums[0];
  };
  std::vector<float> pieces;
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < width; c += sum_columns)
      pieces.push_back(row_sum(x.data() + r * width + c, std::min(sum_columns, width - c)));
  }
  const float want = row_sum(pieces.data(), static_cast<Index>(pieces.size()));
  Tape tape(Mode::inference);
  const auto on_tape = tape.constant(tensor<float>({rows, width}, x));
  const auto got = sum(on_tape);
  CHECK(got.value().to_host()[0] == want);
  other_ways([&] { CHECK(sum(on_tape).value().to_host()[0] == want); });
}

TEST_CASE("softmax: large numbers, -inf, rows of one") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto soft = [](const auto& v) { return softmax(v); };
  const auto log_soft = [](const auto& v) { return log_softmax(v); };
  check_close(inferred(soft, tensor<double>({3}, {1000, 1000, -1000})), {0.5, 0.5, 0}, 1e-15);
  CHECK(inferred(soft, tensor<double>({3}, {-infinity, 3, -infinity})) == Numbers{0, 1, 0});
  CHECK(inferred(soft, tensor<double>({2, 1}, {7, -7})) == Numbers{1, 1});
  check_close(inferred(log_soft, tensor<double>({2}, {0, -800})), {0, -800}, 1e-15);
}

TEST_CASE("matmul, transpose: shapes and numbers") {
  Tape tape(Mode::inference);
  const auto c = [&](Shape shape, const std::vector<double>& x) {
    return tape.constant(tensor<double>(shape, x));
  };
  const auto a = c({2, 3}, {1, 2, 3, 4, 5, 6});
  const auto b = c({3, 2}, {1, 0, 0, 1, 2, 2});
  CHECK(host(matmul(a, b).value()) == Numbers{7, 8, 16, 17});
  CHECK(host(matmul(a, a, {.b = true}).value()) == Numbers{14, 32, 32, 77});
  CHECK(host(transpose(a).value()) == Numbers{1, 4, 2, 5, 3, 6});
  CHECK(matmul(c({1, 2, 1, 3}, {1, 2, 3, 4, 5, 6}), c({3, 1}, {1, 1, 1})).shape() == Shape{1, 2, 1, 1});
  const auto stack = c({2, 1, 2}, {1, 2, 3, 4});
  CHECK_THROWS_WITH_AS(matmul(a, a),
                       "[matmul] a times b needs equal inner axes and equal leading axes (or one b)\n"
                       "  a: [2, 3]\n  b: [2, 3]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(matmul(stack, c({3, 2, 1}, {1, 2, 3, 4, 5, 6})),
                       "[matmul] a times b needs equal inner axes and equal leading axes (or one b)\n"
                       "  a: [2, 1, 2]\n  b: [3, 2, 1]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      matmul(stack, b, {.a = true}),
      "[matmul] a transposed times b needs equal inner axes and equal leading axes (or one b)\n"
      "  a: [2, 1, 2]\n  b: [3, 2]",
      ShapeError);
  CHECK_THROWS_WITH_AS(matmul(a, c({3}, {1, 2, 3})),
                       "[matmul] a and b are matrices, or stacks of them\n  a: [2, 3]\n  b: [3]", ShapeError);
  CHECK_THROWS_WITH_AS(transpose(c({3}, {1, 2, 3})), "[transpose] x has two axes or more\n  x: [3]",
                       ShapeError);
}

TEST_CASE("matmul: a weight in bf16 has a gradient in float") {
  const auto card = [](auto of) {
    using T = decltype(of);
    return Card(
        {"x", "w"}, [](const auto& x, const auto& w) { return matmul(x, w); },
        activation(random_tensor<T>({2, 30, 9}, 1)), weight(random_tensor<T>({9, 5}, 2)));
  };
  check_close(card(bf16()).run().grads[1], card(0.0F).run().grads[1], float_bound);
  check_same(card(0.0F), card(0.0), float_bound);
}

TEST_CASE("gather, scatter: rows come and go, and errors") {
  Tape tape(Mode::inference);
  const auto x = tape.constant(tensor<double>({3, 2}, {1, 2, 3, 4, 5, 6}));
  const auto ids = tensor<std::int32_t>({2, 2}, {2, 0, 2, 1});
  const auto y = gather(x, ids);
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(host(y.value()) == Numbers{5, 6, 1, 2, 5, 6, 3, 4});
  CHECK(host(scatter(y, ids, 4).value()) == Numbers{1, 2, 3, 4, 10, 12, 0, 0});
  CHECK_THROWS_WITH_AS(gather(y, ids), "[gather] x is [V, D], ids are dense\n  x: [2, 2, 2]\n  ids: [2, 2]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(scatter(x, ids, 4),
                       "[scatter] x has dense rows, one id each\n  x: [3, 2]\n  ids: [2, 2]", ShapeError);
  if constexpr (on_gpu) return;
  CHECK_THROWS_WITH_AS(gather(x, tensor<std::int32_t>({2}, {0, 3})),
                       "[gather] token id 3 at row 0, column 1 is outside the vocabulary of 3", NumericError);
  CHECK_THROWS_WITH_AS(scatter(y, ids, 2),
                       "[scatter] token id 2 at row 0, column 0 is outside the vocabulary of 2",
                       NumericError);
}

TEST_CASE("dropout: its share, its scale, and whose numbers they are") {
  const auto x = tensor<double>({64, 100}, std::vector<double>(6400, 3.0));
  const auto dropped = [&](std::uint64_t seed, std::uint64_t step) {
    return inferred([=](const auto& v) { return dropout(v, 0.25, seed, step); }, x);
  };
  const Numbers y = dropped(1, 2);
  const auto zeros = std::count(y.begin(), y.end(), 0.0);
  CHECK(zeros + std::count(y.begin(), y.end(), 4.0) == 6400);
  CHECK(std::abs(static_cast<double>(zeros) - 1600) < 4 * std::sqrt(6400 * 0.25 * 0.75));
  CHECK(dropped(1, 2) == y);
  CHECK(dropped(1, 3) != y);
  CHECK(dropped(2, 2) != y);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto words = Philox::block(1, 2, i / 4);
    REQUIRE((y[i] > 0) == (words[i % 4] >= 1U << 30));
  }
  Tape tape;
  const auto on_tape = tape.input(x);
  CHECK(dropout(on_tape, 0, 1, 2).data() == x.data());
  CHECK_THROWS_WITH_AS(dropout(on_tape, 1, 1, 2), "[dropout] the rate is at least 0 and below 1, not 1",
                       Error);
}

TEST_CASE("losses: the card, float and bf16") {
  const auto in_double = losses<double, Device>({3, 7, 9});
  const auto in_float = losses<float, Device>({3, 7, 9});
  const auto in_bf16 = losses<bf16, Device>({3, 7, 9});
  for (std::size_t i = 0; i < in_double.size(); ++i) {
    CAPTURE(in_double[i].name);
    in_double[i].card({3, 7, 9}).check();
    check_same(in_float[i].card({3, 7, 9}), in_double[i].card({3, 7, 9}), float_bound);
    check_same(in_bf16[i].card({3, 7, 9}), in_float[i].card({3, 7, 9}),
               1e-2);  // log_softmax and add round, too
  }
  for (const auto& loss : losses<double, Device>({70, 90})) loss.card({70, 90}).check_threads();
}

TEST_CASE("losses: numbers, ignored labels, errors") {
  Tape tape;
  const auto c = [&](Shape shape, const std::vector<double>& x) {
    return tape.constant(tensor<double>(shape, x));
  };
  check_close(host(mse(c({2}, {1, 2}), c({2}, {4, 2})).value()), {4.5}, 1e-15);
  const auto half = c({1, 2}, {std::log(0.5), std::log(0.5)});
  const auto tenth = c({1, 2}, {std::log(0.1), std::log(0.9)});
  check_close(host(kl(half, tenth).value()), {0.5 * std::log(5.0) + 0.5 * std::log(0.5 / 0.9)}, 1e-14);
  check_close(host(kl(half, half).value()), {0}, 0);
  const auto logits = tape.input(tensor<double>({3, 2}, {0, 0, 0, std::log(3.0), 7, 9}));
  const auto loss = cross_entropy(logits, tensor<std::int32_t>({3}, {0, 1, -1}));
  check_close(host(loss.value()), {(std::log(2.0) + std::log(4.0 / 3)) / 2}, 1e-14);
  tape.backward(loss);
  check_close(host(logits.grad()), {-0.25, 0.25, 0.125, -0.125, 0, 0}, 1e-14);
  Tape other;
  const auto x = other.input(random_tensor<double>({3, 2}, 1));
  const auto none = cross_entropy(x, tensor<std::int32_t>({3}, {-1, -1, -1}));
  CHECK(host(none.value()) == Numbers{0});
  other.backward(none);
  CHECK(host(x.grad()) == Numbers(6, 0.0));
  Tape third;
  const auto z = third.input(random_tensor<double>({3, 2}, 1));
  CHECK_THROWS_WITH_AS(cross_entropy(z, tensor<std::int32_t>({2}, {0, 1})),
                       "[cross_entropy] every row of logits needs one label\n  logits: [3, 2]\n  labels: [2]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(kl(z, third.input(random_tensor<double>({2}, 1))),
                       "[kl] log_p and log_q need the same shape\n  log_p: [3, 2]\n  log_q: [2]", ShapeError);
  if constexpr (on_gpu) return;
  CHECK_THROWS_WITH_AS(cross_entropy(z, tensor<std::int32_t>({3}, {0, 1, 2})),
                       "[cross_entropy] token id 2 at row 0, column 2 is outside the vocabulary of 2",
                       NumericError);
}

TEST_CASE("cast: bf16 to float and back") {
  const auto x = activation(random_tensor<bf16>({3, 5}, 1));
  const Card wide(
      {"x"}, [](const auto& v) { return cast<float>(v); }, x);
  check_bits(wide.run().value, host(x.value()));
  const Card w(
      {"w"}, [](const auto& v) { return cast<float>(v); }, weight(random_tensor<bf16>({3, 5}, 1)));
  check_bits(w.run().grads[0], host(random_tensor<float>({3, 5}, 1000)));
  const Card back(
      {"x"}, [](const auto& v) { return cast<bf16>(v); }, activation(random_tensor<float>({3, 5}, 1)));
  check_bits(back.run().value, host(x.value()));
  Tape tape;
  const auto on_tape = tape.input(x.value());
  CHECK(cast<bf16>(on_tape).data() == on_tape.data());
}

TEST_SUITE_END();
