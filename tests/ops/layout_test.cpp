#include <mtpx/ops/layout.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/layout.hpp");

namespace {

/// Columns [begin, begin + width) of rows of `of` numbers.
Numbers columns(const Numbers& x, std::size_t of, std::size_t begin, std::size_t width) {
  Numbers y;
  for (std::size_t r = 0; r < x.size() / of; ++r) {
    for (std::size_t c = 0; c < width; ++c) y.push_back(x[r * of + begin + c]);
  }
  return y;
}

template <typename T>
auto narrow_card(Shape shape, Index begin, Index width) {
  return Card(
      {"x"}, [=](const auto& x) { return narrow(x, begin, width); }, activation(random_tensor<T>(shape, 1)));
}

template <typename T>
auto concat_card(Shape a, Shape b) {
  return Card(
      {"a", "b"}, [](const auto& x, const auto& y) { return concat(x, y); },
      activation(random_tensor<T>(a, 1)), activation(random_tensor<T>(b, 2)));
}

template <typename T>
auto front_card(Shape shape, Index count) {
  return Card(
      {"x"}, [=](const auto& x) { return take_front(x, count); }, activation(random_tensor<T>(shape, 1)));
}

/// Accumulation in bf16: the sum of two equal gradients is exact.
template <typename CardType>
void check_bf16(const CardType& card) {
  card.check_accumulation(0);
}

}  // namespace

TEST_CASE("contiguous copies rows that are apart") {
  const auto x = random_tensor<bf16>({2, 3, 5}, 1);
  const auto dense = contiguous(with_gaps(x));
  CHECK(dense.contiguous());
  CHECK(dense.shape() == x.shape());
  check_bits(host(dense), host(x));
  const Numbers before = host(x);
  poison(dense);  // a copy, not a view
  check_bits(host(x), before);
}

TEST_CASE("narrow: the card") {
  for (const Index begin : {0, 2, 4}) {
    const auto card = narrow_card<double>({2, 3, 7}, begin, 3);
    check_bits(card.run().value, columns(card.numbers<0>(), 7, static_cast<std::size_t>(begin), 3));
    card.check();
    card.check_same_bits(card.strided<0>().run(), card.run());
  }
  narrow_card<double>({1, 1}, 0, 1).check();
  narrow_card<double>({50, 2000}, 500, 1001).check_threads();
  check_bf16(narrow_card<bf16>({3, 7}, 1, 4));
}

TEST_CASE("narrow is a view, and two of them share one gradient") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({3, 5}, 1));
  CHECK(narrow(x, 2, 3).data() == x.data() + 2);
  const Card card(
      {"x"},
      [](const auto& v) {
        const auto end = narrow(v, 3, 2);
        const auto begin = narrow(v, 0, 4);
        return concat(end, begin);
      },
      activation(random_tensor<double>({3, 5}, 1)));
  card.check();
}

TEST_CASE("concat: the card") {
  for (const Shape& b : {Shape{2, 3, 1}, Shape{2, 3, 6}}) {
    const auto card = concat_card<double>({2, 3, 4}, b);
    const Result result = card.run();
    const auto width = static_cast<std::size_t>(4 + b.width());
    check_bits(columns(result.value, width, 0, 4), card.numbers<0>(), "left");
    check_bits(columns(result.value, width, 4, width - 4), card.numbers<1>(), "right");
    card.check();
    card.check_same_bits(card.strided<0>().run(), card.run());
    card.check_same_bits(card.strided<1>().run(), card.run());
  }
  concat_card<double>({1, 1}, {1, 1}).check();
  concat_card<double>({50, 1000}, {50, 900}).check_threads();
  check_bf16(concat_card<bf16>({3, 7}, {3, 2}));
  Card(
      {"x"}, [](const auto& v) { return concat(v, v); }, activation(random_tensor<double>({3, 5}, 1)))
      .check();
}

TEST_CASE("reshape: the card") {
  const Card card(
      {"x"},
      [](const auto& x) {
        return reshape(x, Shape{3, 4});
      },
      activation(random_tensor<double>({2, 3, 2}, 1)));
  check_bits(card.run().value, card.numbers<0>());
  card.check();
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 6}, 1));
  CHECK(reshape(x, {12}).data() == x.data());
  CHECK(reshape(x, {12}).shape() == Shape{12});
}

TEST_CASE("take_front: the card") {
  for (const Index count : {1, 3, 4}) {
    const auto card = front_card<double>({2, 4, 3}, count);
    const Numbers x = card.numbers<0>();
    Numbers want;
    for (const std::size_t b : {0U, 1U}) {
      want.insert(want.end(), x.begin() + static_cast<Index>(b * 12),
                  x.begin() + static_cast<Index>(b * 12) + count * 3);
    }
    check_bits(card.run().value, want);
    card.check();
  }
  front_card<double>({1, 1, 1}, 1).check();
  front_card<double>({9, 50, 200}, 33).check_threads();
  check_bf16(front_card<bf16>({2, 4, 3}, 3));
}

TEST_CASE("take_front: no positions give no output and a gradient of zeros") {
  const Result result = front_card<double>({2, 4, 3}, 0).run({.uses = 2});
  CHECK(result.value.empty());
  check_bits(result.grads[0], Numbers(24, 0.0));
}

TEST_CASE("layout: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3, 4}, 1));
  const auto gaps = tape.input(with_gaps(x.value()));
  CHECK_THROWS_WITH_AS(narrow(x, 2, 3), "[narrow] columns 2 to 5 must lie inside the rows\n  x: [2, 3, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(narrow(x, -1, 3), "[narrow] columns -1 to 2 must lie inside the rows\n  x: [2, 3, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(concat(x, tape.input(random_tensor<double>({3, 2, 4}, 1))),
                       "[concat] a and b may differ in the last axis only\n  a: [2, 3, 4]\n  b: [3, 2, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      reshape(x, Shape{5, 5}),
      "[reshape] x must be dense and keep its number of elements\n  from: [2, 3, 4]\n  to: [5, 5]",
      ShapeError);
  CHECK_THROWS_WITH_AS(reshape(gaps, Shape{6, 4}),
                       "[reshape] x must be dense and keep its number of elements\n  from: [2, 3, 4], rows 9 "
                       "apart\n  to: [6, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(take_front(x, 4),
                       "[take_front] x is dense [B, T, D] with at least 4 positions\n  x: [2, 3, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      take_front(gaps, 2),
      "[take_front] x is dense [B, T, D] with at least 2 positions\n  x: [2, 3, 4], rows 9 apart",
      ShapeError);
  const Tape::Scope scope(tape, "mtp.0");
  CHECK_THROWS_WITH_AS(
      take_front(x, -1),
      "[take_front] x is dense [B, T, D] with at least -1 positions\n  x: [2, 3, 4]\n  in mtp.0", ShapeError);
}

TEST_SUITE_END();
