#include <mtpx/ops/router.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

#include <numeric>
#include <set>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/router.hpp");

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

/// Scores in (0, 1) that differ by at least 0.8 / E within a row: choices do not flip under small steps.
template <typename A>
Tensor<A, Device> spread_scores(Shape shape, std::uint64_t stream) {
  const Index experts = shape.width();
  const Numbers keys = host(random_tensor<double>(shape, stream));
  std::vector<A> scores;
  for (Index r = 0; r < shape.rows(); ++r) {
    Ints order(static_cast<std::size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](Index a, Index b) { return nth(keys, r * experts + a) > nth(keys, r * experts + b); });
    for (const std::int32_t rank : order) {
      scores.push_back(static_cast<A>(static_cast<float>(0.1 + 0.8 * rank / static_cast<double>(experts))));
    }
  }
  return tensor<A>(shape, scores);
}

template <typename A>
auto route_card(const Tensor<A, Device>& scores, const Tensor<A, Device>& bias, const Routing& r) {
  return Card(
      {"scores"}, [=](const auto& s) { return route(s, bias, r).weights; }, activation(scores));
}

struct Chosen {
  Ints ids;
  Numbers weights;
};
Chosen choose(const Numbers& scores, const Numbers& bias, const Routing& r) {
  Tape tape(Mode::inference);
  const Index tokens = static_cast<Index>(scores.size()) / r.n_experts;
  const auto got = route(tape.constant(tensor<double>({tokens, r.n_experts}, scores)),
                         bias.empty() ? Tensor<double, Device>() : tensor<double>({r.n_experts}, bias), r);
  return {got.ids.to_host(), host(got.weights.value())};
}

template <typename A>
auto balance_card(const Tensor<A, Device>& scores, Index top_k, double alpha) {
  return Card(
      {"scores"}, [=](const auto& s) { return balance_loss(s, top_k, static_cast<A>(alpha)); },
      activation(scores));
}

}  // namespace

TEST_CASE("sigmoid: the card") {
  const auto card_of = []<typename A>(Shape shape, A) {
    return Card(
        {"x"}, [](const auto& x) { return sigmoid(x); }, activation(random_tensor<A>(shape, 1, 5)));
  };
  for (const Shape& shape : {Shape{1}, Shape{2, 3, 5}, Shape{4, 16}}) {
    const auto card = card_of(shape, 1.0);
    check_close(card.run().value, reference::sigmoid(card.numbers<0>()), 1e-12);
    card.check();
  }
  card_of({70, 600}, 1.0).check_threads();
  check_same(card_of({7, 33}, 1.0F), card_of({7, 33}, 1.0), float_bound);

  const Card huge(
      {"x"}, [](const auto& x) { return sigmoid(x); }, activation(tensor<double>({2}, {-1e4, 1e4})));
  check_close(huge.run().value, {0, 1}, 1e-12);
  check_close(huge.run().grads[0], {0, 0}, 1e-12);
}

TEST_CASE("router brute force with a negative bias") {
  const Numbers scores = host(spread_scores<double>({200, 12}, 1));
  for (const double shift : {0.0, -3.0}) {
    const Numbers bias = host(random_tensor<double>({12}, 2, 0.5, shift));
    for (const Routing& r : {Routing{12, 4}, Routing{12, 12}, Routing{12, 1, 4, 1}, Routing{12, 5, 4, 2},
                             Routing{12, 4, 3, 2, false}, Routing{12, 3, 6, 4, true, 2.5},
                             Routing{12, 4, 12, 5, false, 2.5}, Routing{12, 6, 3, 3}}) {
      CAPTURE(shift);
      CAPTURE(r.n_group);
      CAPTURE(r.top_k);
      const Chosen got = choose(scores, bias, r);
      const reference::Route want(scores, bias, r);
      CHECK(got.ids == want.ids);
      check_close(got.weights, want.weights, 1e-12);
    }
  }
}

TEST_CASE("a kept negative beats a masked group") {
  // Experts 0, 1 are kept (their sum is larger) though both are below 0: a mask of 0.0 would choose 2 or 3.
  const Chosen got = choose({0.3, 0.4, 0.1, 0.2}, {-1, -1, -2, -2}, {4, 2, 2, 1, false});
  CHECK(got.ids == Ints{1, 0});
  CHECK(got.weights == Numbers{0.4, 0.3});  // of the unbiased scores
}

TEST_CASE("a group is worth the sum of its two largest") {
  // Largest single: group 0 (0.9); sum of all: group 2 (0.5 * 3); sum of two: group 1 (1.2).
  const Numbers scores = {0.9, 0.1, 0.1, 0.6, 0.6, 0.1, 0.5, 0.5, 0.5};
  CHECK(choose(scores, Numbers(9, 0), {9, 2, 3, 1}).ids == Ints{3, 4});
  // Only with their biases: group 0 again.
  CHECK(choose(scores, {0.5, 0, 0, 0, 0, 0, 0, 0, 0}, {9, 2, 3, 1}).ids == Ints{0, 1});
  // Groups of one expert are worth that expert.
  CHECK(choose({0.2, 0.8, 0.5}, Numbers(3, 0), {3, 2, 3, 2}).ids == Ints{1, 2});
}

TEST_CASE("route: scores that are a softmax (DeepSeek-V2) have no bias, and a group is worth its largest") {
  Routing r{9, 2, 3, 1, false, 4};
  r.scoring = ScoringFunc::softmax;
  const Numbers scores = {0.2, 0.04, 0.01, 0.15, 0.16, 0.02, 0.14, 0.14, 0.14};
  const Chosen got = choose(scores, {}, r);
  CHECK(got.ids == Ints{0, 1});  // by their two best it would be group 1
  CHECK(got.weights == Numbers{0.8, 0.16});
  r.scoring = ScoringFunc::sigmoid;
  CHECK(choose(scores, {}, r).ids == Ints{4, 3});
}

TEST_CASE("route: the published choice of DeepSeek-V2, with what is masked at 0") {
  for (const Routing& limits :
       {Routing{12, 4, 1, 1, false, 16}, Routing{12, 3, 4, 2, false, 1}, Routing{12, 1, 12, 3, false, 1}}) {
    Routing r = limits;
    r.scoring = ScoringFunc::softmax;
    const Numbers scores = reference::softmax(host(random_tensor<double>({200, 12}, 1)), 12);
    const Chosen got = choose(scores, {}, r);
    const Index size = r.n_experts / r.n_group;
    for (Index t = 0; t < 200; ++t) {
      std::vector<double> s(scores.begin() + t * 12, scores.begin() + (t + 1) * 12), worth;
      for (Index g = 0; g < r.n_group; ++g)
        worth.push_back(*std::max_element(s.begin() + g * size, s.begin() + (g + 1) * size));
      std::vector<double> best = worth;
      std::sort(best.rbegin(), best.rend());
      for (Index e = 0; e < 12; ++e)
        if (nth(worth, e / size) < nth(best, r.topk_group - 1)) s[static_cast<std::size_t>(e)] = 0;
      for (Index k = 0; k < r.top_k; ++k) {
        const auto top = std::max_element(s.begin(), s.end());
        REQUIRE(nth(got.ids, t * r.top_k + k) == top - s.begin());
        CHECK(nth(got.weights, t * r.top_k + k) == r.scaling_factor * *top);
        *top = 0;
      }
    }
  }
}

TEST_CASE("route: ties go to the lowest index") {
  CHECK(choose(Numbers(8, 0.5), Numbers(8, 0), {8, 3}).ids == Ints{0, 1, 2});
  CHECK(choose(Numbers(8, 0.5), Numbers(8, 0), {8, 3, 4, 2}).ids == Ints{0, 1, 2});
  CHECK(choose({0.1, 0.5, 0.2, 0.5, 0.5, 0.1}, Numbers(6, 0), {6, 4}).ids == Ints{1, 3, 4, 2});
  CHECK(choose({0.1, 0.1, 0.3, 0.4, 0.4, 0.3}, Numbers(6, 0), {6, 2, 3, 1}).ids == Ints{3, 2});
}

TEST_CASE("route: NaN counts as -inf, and ids stay valid and distinct") {
  CHECK(choose({not_a_number, 0.2, not_a_number, 0.1}, Numbers(4, 0), {4, 3, 1, 1, false}).ids ==
        Ints{1, 3, 0});
  CHECK(choose({not_a_number, 0.2, 0.3, 0.1}, Numbers(4, 0), {4, 2, 2, 1, false}).ids == Ints{2, 3});
  for (const double bad : {not_a_number, inf, -inf}) {
    for (const Routing& r : {Routing{6, 4}, Routing{6, 4, 3, 2}, Routing{6, 2, 6, 3}}) {
      const Numbers some = {bad, 0.5, bad, 0.5, 0.1, bad};
      for (const Numbers& scores : {some, Numbers(6, bad)}) {
        const Ints ids = choose(scores, Numbers(6, 0), r).ids;
        const std::set<std::int32_t> distinct(ids.begin(), ids.end());
        CHECK(distinct.size() == static_cast<std::size_t>(r.top_k));
        CHECK((*distinct.begin() >= 0 && *distinct.rbegin() < 6));
      }
    }
  }
}

TEST_CASE("route: the card") {
  for (const Routing& r : {Routing{1, 1}, Routing{6, 2}, Routing{6, 3, 3, 2, true, 2.5},
                           Routing{6, 2, 2, 1, false, 2.5}, Routing{6, 6, 1, 1, true, 0.5}}) {
    CAPTURE(r.top_k);
    CAPTURE(r.n_group);
    const auto scores = spread_scores<double>({2, 3, r.n_experts}, 1);
    const auto bias = random_tensor<double>({r.n_experts}, 2, 0.03);
    const auto card = route_card(scores, bias, r);
    check_close(card.run().value, reference::Route(host(scores), host(bias), r).weights, 1e-12);
    card.check();
  }
  const Routing r{64, 6, 8, 3, true, 2.5};
  const auto scores = spread_scores<double>({150, 64}, 1);
  const auto bias = random_tensor<double>({64}, 2);
  route_card(scores, bias, r).check_threads();
}

TEST_CASE("route: float") {
  const Routing r{16, 4, 4, 2, true, 2.5};
  const auto bias = random_tensor<double>({16}, 2);
  check_same(route_card(spread_scores<float>({30, 16}, 1), random_tensor<float>({16}, 2), r),
             route_card(spread_scores<double>({30, 16}, 1), bias, r), float_bound);
}

TEST_CASE("route: weights of chosen scores that are all 0 are 0, not NaN") {
  CHECK(choose({0, 0, 0}, {0, 1, 2}, {3, 2}).weights == Numbers{0, 0});
}

TEST_CASE("route: errors") {
  Tape tape;
  const auto scores = tape.input(random_tensor<double>({2, 8}, 1));
  const auto bias = random_tensor<double>({8}, 1);
  const std::string columns = "[route] scores and bias need one dense column per expert, 8\n  scores: ";
  CHECK_THROWS_WITH_AS(route(scores, random_tensor<double>({7}, 1), {8, 2}),
                       (columns + "[2, 8]\n  bias: [7]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(route(tape.input(with_gaps(scores.value())), bias, {8, 2}),
                       (columns + "[2, 8], rows 13 apart\n  bias: [8]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(route(scores, bias, {8, 5, 4, 2}),
                       "[route] 5 experts cannot be chosen from 2 of 4 groups of 8 experts\n  scores: [2, 8]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(route(scores, bias, {8, 2, 3, 1}),
                       "[route] 2 experts cannot be chosen from 1 of 3 groups of 8 experts\n  scores: [2, 8]",
                       ShapeError);
  const Tape::Scope scope(tape, "gate");
  CHECK_THROWS_WITH_AS(
      route(scores, bias, {8, 0}),
      "[route] 0 experts cannot be chosen from 1 of 1 groups of 8 experts\n  scores: [2, 8]\n  in gate",
      ShapeError);
}

TEST_CASE("balance_loss: the card") {
  struct Sizes {
    Index batch, time, experts, top_k;
  };
  for (const Sizes& s : {Sizes{1, 1, 1, 1}, Sizes{1, 5, 4, 2}, Sizes{3, 4, 6, 3}}) {
    const auto card = balance_card(spread_scores<double>({s.batch, s.time, s.experts}, 1), s.top_k, 0.25);
    check_close(card.run().value,
                {reference::balance_loss(card.numbers<0>(), s.batch, s.time, s.experts, s.top_k, 0.25)},
                1e-12);
    card.check();
  }
  balance_card(spread_scores<double>({5, 60, 64}, 1), 6, 0.25).check_threads();
  check_same(balance_card(spread_scores<float>({3, 40, 16}, 1), 4, 0.25),
             balance_card(spread_scores<double>({3, 40, 16}, 1), 4, 0.25), float_bound);
}

TEST_CASE("sum f P = 1 under perfect balance") {
  // Token t's scores are the same row, turned by t: every expert is chosen equally often.
  const Numbers row = {0.9, 0.3, 0.7, 0.2, 0.4};
  for (const Index top_k : {1, 2, 5}) {
    Numbers scores;
    for (Index i = 0; i < 2 * 5 * 5; ++i) scores.push_back(nth(row, (i / 5 + i) % 5));
    check_close(balance_card(tensor<double>({2, 5, 5}, scores), top_k, 1.0).run().value, {1}, 1e-12);
    check_close(balance_card(tensor<double>({2, 5, 5}, scores), top_k, 1e-4).run().value, {1e-4}, 1e-12);
  }
  // The worst balance: one expert takes all.
  check_close(balance_card(tensor<double>({1, 2, 4}, {1, 0, 0, 0, 1, 0, 0, 0}), 1, 1.0).run().value, {4},
              1e-12);
}

TEST_CASE("balance_loss: errors") {
  Tape tape;
  const auto scores = tape.input(random_tensor<double>({2, 3, 4}, 1));
  CHECK_THROWS_WITH_AS(
      balance_loss(scores, 5, 1.0),
      "[balance_loss] scores are dense [B, T, E] with at least 5 experts\n  scores: [2, 3, 4]", ShapeError);
  const Tape::Scope scope(tape, "gate");
  CHECK_THROWS_WITH_AS(
      balance_loss(tape.input(random_tensor<double>({6, 4}, 1)), 2, 1.0),
      "[balance_loss] scores are dense [B, T, E] with at least 2 experts\n  scores: [6, 4]\n  in gate",
      ShapeError);
}

TEST_CASE("the bias moves by the sign of what is missing, and sign(0) = 0") {
  const auto load = tensor<double>({4}, {10, 30, 20, 20});
  const auto bias = tensor<double>({4}, {0.5, 0.5, 0.5, -0.25});
  update_bias(device(), 4, 0.125, nullptr, load.data(), bias.data());
  CHECK(host(bias) == Numbers{0.625, 0.375, 0.5, -0.25});
  CHECK(host(load) == Numbers(4, 0.0));
  update_bias(device(), 4, 0.125, nullptr, load.data(), bias.data());  // nothing was routed: nobody moves
  CHECK(host(bias) == Numbers{0.625, 0.375, 0.5, -0.25});

  const auto equal = tensor<float>({3}, {7, 7, 7});  // 21 / 3 is exact in float
  const auto still = tensor<float>({3}, {1, 2, 3});
  update_bias(device(), 3, 0.5F, nullptr, equal.data(), still.data());
  CHECK(host(still) == Numbers{1, 2, 3});
}

TEST_CASE("update_bias: where the step's scale is NaN no bias moves, but the load is forgotten") {
  for (const double scale : {1.0, 0.25, not_a_number}) {
    const auto step = tensor<double>({1}, {scale});
    const auto load = tensor<float>({3}, {1, 2, 3});
    const auto bias = tensor<float>({3}, {0, 0, 0});
    update_bias(device(), 3, 0.5F, step.data(), load.data(), bias.data());
    CHECK(host(bias) == (std::isnan(scale) ? Numbers{0, 0, 0} : Numbers{0.5, 0, -0.5}));
    CHECK(host(load) == Numbers{0, 0, 0});
  }
}

TEST_SUITE_END();
