#include <mtpx/ops/rope.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/rope.hpp");

namespace {

constexpr double rope_theta = 50;

template <typename A>
RopeTable<A, Device> make_table(Index positions, Index rope) {
  std::vector<A> cos, sin;
  for (Index p = 0; p < positions; ++p) {
    for (Index j = 0; j < rope / 2; ++j) {
      const double angle = static_cast<double>(p) *
                           std::pow(rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(rope));
      cos.push_back(static_cast<A>(std::cos(angle)));
      sin.push_back(static_cast<A>(std::sin(angle)));
    }
  }
  return {tensor<A>({positions, rope / 2}, cos), tensor<A>({positions, rope / 2}, sin)};
}

struct Sizes {
  Index batch, time, heads, width, rope;
};

template <typename T>
auto rope_card(Sizes s, const Ids& positions) {
  return Card(
      {"x"},
      [s, positions, table = make_table<acc_t<T>>(100, s.rope)](const auto& x) {
        return rope(x, s.heads, positions, table);
      },
      activation(random_tensor<T>({s.batch, s.time, s.heads * s.width}, 1)));
}

Ids any_positions(Sizes s) { return random_ids({s.batch, s.time}, 5, 0, 100); }

/// q . k after both were turned, one row each.
double score(const Numbers& q, const Numbers& k, std::int32_t q_position, std::int32_t k_position) {
  const auto size = static_cast<Index>(q.size());
  const auto table = make_table<double>(100, size);
  Tape tape(Mode::inference);
  const auto turn = [&](const Numbers& x, std::int32_t position) {
    return host(rope(tape.constant(tensor<double>({1, 1, size}, x)), 1,
                     tensor<std::int32_t>({1, 1}, {position}), table)
                    .value());
  };
  const Numbers a = turn(q, q_position);
  const Numbers b = turn(k, k_position);
  double dot = 0;
  for (std::size_t i = 0; i < a.size(); ++i) dot += a[i] * b[i];
  return dot;
}

}  // namespace

TEST_CASE("rope: the card") {
  for (const Sizes& s :
       {Sizes{1, 1, 1, 2, 2}, Sizes{2, 3, 1, 4, 4}, Sizes{2, 3, 2, 7, 4}, Sizes{1, 5, 3, 8, 8}}) {
    CAPTURE(s.width);
    CAPTURE(s.rope);
    const Ids positions = any_positions(s);
    const auto card = rope_card<double>(s, positions);
    check_close(card.run().value,
                reference::rope(card.numbers<0>(), s.heads, s.width, s.rope, positions.to_host(), rope_theta),
                1e-12);
    card.check();
    card.check_same_bits(card.strided<0>().run(), card.run());
  }
  const Sizes large{3, 90, 4, 40, 16};
  rope_card<double>(large, any_positions(large)).check_threads();
}

TEST_CASE("rope: float and bf16") {
  const Sizes s{2, 9, 2, 24, 16};
  const Ids positions = any_positions(s);
  check_same(rope_card<float>(s, positions), rope_card<double>(s, positions), float_bound);
  check_same(rope_card<bf16>(s, positions), rope_card<float>(s, positions), bf16_bound);
}

TEST_CASE("rope: position 0 changes nothing") {
  const Sizes s{1, 3, 2, 6, 4};
  const auto card = rope_card<double>(s, tensor<std::int32_t>({1, 3}, {0, 0, 0}));
  check_bits(card.run().value, card.numbers<0>());
}

TEST_CASE("rope scores depend on the distance alone") {
  const Numbers q = host(random_tensor<double>({8}, 1));
  const Numbers k = host(random_tensor<double>({8}, 2));
  const double at_seven = score(q, k, 12, 5);
  for (const std::int32_t shift : {1, 4, 60, 87}) {
    CHECK(score(q, k, 12 + shift, 5 + shift) == doctest::Approx(at_seven).epsilon(1e-12));
  }
  CHECK(std::abs(score(q, k, 13, 5) - at_seven) > 1e-3);
  CHECK(std::abs(score(q, k, 5, 12) - at_seven) > 1e-3);  // the sign of the distance counts
}

TEST_CASE("interleaved and half-rotated scores are equal") {
  // The other convention pairs x_j with x_j+rope/2 after moving x_2j to j and x_2j+1 to j + rope/2.
  const Numbers q = host(random_tensor<double>({8}, 1));
  const Numbers k = host(random_tensor<double>({8}, 2));
  const auto half_rotated = [](const Numbers& x, double position) {
    Numbers y(8);
    for (std::size_t j = 0; j < 4; ++j) {
      const double angle = position * std::pow(rope_theta, -static_cast<double>(j) / 4);
      const double low = x[2 * j];
      const double high = x[2 * j + 1];
      y[j] = low * std::cos(angle) - high * std::sin(angle);
      y[j + 4] = high * std::cos(angle) + low * std::sin(angle);
    }
    return y;
  };
  for (const std::int32_t position : {0, 3, 41}) {
    const Numbers a = half_rotated(q, position);
    const Numbers b = half_rotated(k, 7);
    double want = 0;
    for (std::size_t i = 0; i < 8; ++i) want += a[i] * b[i];
    CHECK(score(q, k, position, 7) == doctest::Approx(want).epsilon(1e-12));
  }
}

TEST_CASE("rope: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3, 12}, 1));
  const auto table = make_table<double>(10, 4);
  const Ids positions = random_ids({2, 3}, 1, 0, 10);
  CHECK_THROWS_WITH_AS(rope(x, 5, positions, table),
                       "[rope] the last axis must split into 5 heads at least as wide as the rotated part"
                       "\n  x: [2, 3, 12]\n  table: [10, 2]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(rope(x, 4, positions, table),
                       "[rope] the last axis must split into 4 heads at least as wide as the rotated part"
                       "\n  x: [2, 3, 12]\n  table: [10, 2]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(rope(x, 3, random_ids({2, 2}, 1, 0, 10), table),
                       "[rope] every row needs one position\n  x: [2, 3, 12]\n  positions: [2, 2]",
                       ShapeError);
  const Tape::Scope scope(tape, "self_attn");
  CHECK_THROWS_WITH_AS(rope(x, 3, random_ids({2, 4}, 1, 0, 10).narrow_last(0, 3), table),
                       "[rope] every row needs one position\n  x: [2, 3, 12]\n  positions: [2, 3], rows 4 "
                       "apart\n  in self_attn",
                       ShapeError);
}

TEST_SUITE_END();
