#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/swiglu.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/experts.hpp");

namespace {

using Load = Tensor<double, Device>;

/// K different experts a token.
Ids choose(ExpertsShape s) {
  std::vector<std::int32_t> ids;
  const std::vector<std::int32_t> starts = random_ids({s.tokens}, 7, 0, s.experts).to_host();
  for (Index n = 0; n < s.tokens; ++n) {
    for (Index k = 0; k < s.top_k; ++k) {
      ids.push_back(
          static_cast<std::int32_t>((starts[static_cast<std::size_t>(n)] + k * (s.experts - 1)) % s.experts));
    }
  }
  return tensor<std::int32_t>({s.tokens, s.top_k}, ids);
}

template <typename T, typename Op>
auto card_of(ExpertsShape s, const Op& op) {
  return Card({"x", "weights", "gate", "up", "down"}, op,
              activation(random_tensor<T>({s.tokens, s.width}, 1)),
              activation(random_tensor<acc_t<T>>({s.tokens, s.top_k}, 2, 0.5, 1)),
              weight(random_tensor<T>({s.experts, s.inner, s.width}, 3)),
              weight(random_tensor<T>({s.experts, s.inner, s.width}, 4)),
              weight(random_tensor<T>({s.experts, s.width, s.inner}, 5)));
}

template <typename T>
auto experts_card(ExpertsShape s, const Ids& ids) {
  return card_of<T>(s, [plan = plan_experts(ids, s.experts, Load())](
                           const auto& x, const auto& weights, const auto& gate, const auto& up,
                           const auto& down) { return experts(x, weights, plan, gate, up, down); });
}

/// The same from linear and swiglu, token by token: one row [1, N * D] of outputs.
auto composed_card(ExpertsShape s, const Ids& ids) {
  return card_of<double>(s, [s, chosen = ids.to_host()](const auto& x, const auto& weights, const auto& gate,
                                                        const auto& up, const auto& down) {
    using V = Var<double, Device>;
    const auto row = [](const V& v) { return reshape(v, Shape{1, v.shape().size()}); };
    const auto matrix = [&](const V& stack, Index e, Index out, Index in) {
      return reshape(narrow(row(stack), e * out * in, out * in), Shape{out, in});
    };
    V all;
    for (Index n = 0; n < s.tokens; ++n) {
      const V token = narrow(row(x), n * s.width, s.width);
      V total;
      for (Index k = 0; k < s.top_k; ++k) {
        const Index slot = n * s.top_k + k;
        const Index e = chosen[static_cast<std::size_t>(slot)];
        const V to_gate = linear(token, matrix(gate, e, s.inner, s.width));
        const V to_up = linear(token, matrix(up, e, s.inner, s.width));
        const V hidden = swiglu(to_gate, to_up);
        const V out = reshape(linear(hidden, matrix(down, e, s.width, s.inner)), Shape{s.width, 1});
        const V weight = narrow(row(weights), slot, 1);
        const V weighted = linear(out, weight);  // out * weight
        total = k == 0 ? row(weighted) : add(total, row(weighted));
      }
      all = n == 0 ? total : concat(all, total);
    }
    return reshape(all, x.shape());
  });
}

void check_reference(ExpertsShape s, const Ids& ids) {
  const auto card = experts_card<double>(s, ids);
  check_close(card.run().value,
              reference::experts(s, card.numbers<0>(), card.numbers<1>(), ids.to_host(), card.numbers<2>(),
                                 card.numbers<3>(), card.numbers<4>()),
              1e-12);
  check_same(card, composed_card(s, ids), 1e-12);
}

}  // namespace

TEST_CASE("plan_experts: a stable sort of slots by expert") {
  const Ids ids = tensor<std::int32_t>({4, 2}, {3, 0, 0, 3, 1, 3, 0, 1});
  const Load load = tensor<double>({5}, {10, 0, 0, 0, 0.5});
  const auto plan = plan_experts(ids, 5, load);
  CHECK(plan.offsets.to_host() == Ints{0, 3, 5, 5, 8, 8});
  CHECK(plan.slot.to_host() == Ints{1, 2, 6, 4, 7, 0, 3, 5});
  CHECK(plan.place.to_host() == Ints{5, 0, 1, 6, 3, 7, 2, 4});
  CHECK(load.to_host() == Numbers{13, 2, 0, 3, 0.5});  // adds, and expert 2 and 4 have no tokens
  CHECK(plan_experts(ids, 5, Load()).slot.to_host() == plan.slot.to_host());
  CHECK(plan_experts(Ids(device(), {0, 2}), 3, Load()).offsets.to_host() == Ints{0, 0, 0, 0});
}

TEST_CASE("experts: the card") {
  for (const ExpertsShape& s : {ExpertsShape{1, 1, 1, 1, 1}, ExpertsShape{3, 4, 5, 1, 1},
                                ExpertsShape{5, 3, 2, 4, 2}, ExpertsShape{7, 9, 10, 3, 3}}) {
    CAPTURE(s.tokens);
    CAPTURE(s.experts);
    const Ids ids = choose(s);
    check_reference(s, ids);
    const auto card = experts_card<double>(s, ids);
    card.check();
    card.check_strided<0>();
  }
  const ExpertsShape large{90, 40, 50, 4, 2};
  experts_card<double>(large, choose(large)).check_threads();
}

TEST_CASE("experts: all tokens to one expert, none to the others") {
  const ExpertsShape s{6, 3, 4, 3, 1};
  const Ids ids = tensor<std::int32_t>({6, 1}, {1, 1, 1, 1, 1, 1});
  check_reference(s, ids);
  const auto card = experts_card<double>(s, ids);
  card.check();
  const Result result = card.run();
  for (std::size_t w = 2; w < 5; ++w) {  // the gradients of gate, up, down
    const Numbers& g = result.grads[w];
    check_bits(Numbers(g.begin(), g.begin() + 12), Numbers(12, 0.0), "expert 0");
    check_bits(Numbers(g.begin() + 24, g.end()), Numbers(12, 0.0), "expert 2");
  }
}

TEST_CASE("experts: a token's bits do not depend on the tokens beside it") {
  const ExpertsShape s{40, 13, 9, 3, 2};
  const Ids ids = choose(s);
  const auto card = experts_card<float>(s, ids);
  const Numbers whole = card.run().value;
  for (const Index n : {0, 17, 39}) {
    Tape tape(Mode::inference);
    const auto y = experts(tape.constant(card.operand<0>().value().slice_front(n, n + 1)),
                           tape.constant(card.operand<1>().value().slice_front(n, n + 1)),
                           plan_experts(ids.slice_front(n, n + 1), s.experts, Load()), card.operand<2>(),
                           card.operand<3>(), card.operand<4>());
    check_bits(host(y.value()), Numbers(whole.begin() + n * s.width, whole.begin() + (n + 1) * s.width));
  }
}

TEST_CASE("experts: gate and up may be one tensor") {
  const ExpertsShape s{5, 3, 2, 4, 2};
  const Card card(
      {"w", "down"},
      [s, plan = plan_experts(choose(s), s.experts, Load())](const auto& w, const auto& down) {
        Tape& tape = *w.tape();
        return experts(tape.constant(random_tensor<double>({s.tokens, s.width}, 1)),
                       tape.constant(random_tensor<double>({s.tokens, s.top_k}, 2)), plan, w, w, down);
      },
      weight(random_tensor<double>({4, 2, 3}, 3)), weight(random_tensor<double>({4, 3, 2}, 5)));
  card.check();
}

TEST_CASE("experts: float and bf16") {
  const ExpertsShape s{40, 33, 20, 4, 2};
  const Ids ids = choose(s);
  check_same(experts_card<float>(s, ids), experts_card<double>(s, ids), float_bound);
  // Six roundings in a row on the way to dx: dh', h, dgate, the two products with the weights, their sum.
  check_same(experts_card<bf16>(s, ids), experts_card<float>(s, ids), 1e-2);
}

TEST_CASE("experts: no tokens give no output and gradients of zeros") {
  const ExpertsShape s{0, 3, 2, 4, 2};
  const Result result = experts_card<double>(s, Ids(device(), {0, 2})).run();
  CHECK(result.value.empty());
  for (std::size_t w = 2; w < 5; ++w) check_bits(result.grads[w], Numbers(24, 0.0));
}

TEST_CASE("experts: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({3, 4}, 1));
  const auto weights = tape.input(random_tensor<double>({3, 2}, 2));
  const auto plan = plan_experts(random_ids({3, 2}, 1, 0, 2), 2, Load());
  const auto gate = weight(random_tensor<double>({2, 5, 4}, 3));
  const auto down = weight(random_tensor<double>({2, 4, 5}, 4));
  CHECK_THROWS_WITH_AS(experts(x, weights, plan, gate, gate, gate),
                       "[experts] gate and up are [E, F, D], down is [E, D, F], D the width of x"
                       "\n  x: [3, 4]\n  gate: [2, 5, 4]\n  up: [2, 5, 4]\n  down: [2, 5, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(experts(x, tape.input(random_tensor<double>({3, 1}, 2)), plan, gate, gate, down),
                       "[experts] weights and plan need K slots per row of x"
                       "\n  x: [3, 4]\n  weights: [3, 1]\n  plan: [6]",
                       ShapeError);
  const Tape::Scope scope(tape, "mlp");
  CHECK_THROWS_WITH_AS(
      experts(x, weights, plan_experts(random_ids({3, 2}, 1, 0, 2), 3, Load()), gate, gate, down),
      "[experts] weights and plan need K slots per row of x\n  x: [3, 4]\n  weights: [3, 2]\n  plan: [6]\n  "
      "in mlp",
      ShapeError);
}

TEST_SUITE_END();
