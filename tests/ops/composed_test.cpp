// The fused ops of the model and their compositions out of primitives: values and all gradients, in double.

#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/ops/linear_distillation.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/rope.hpp>
#include <mtpx/ops/router.hpp>
#include <mtpx/ops/swiglu.hpp>

#include "support/card.hpp"

#include <cstdio>
#include <functional>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops: composed");

namespace {

using CV = const Var<double, Device>&;
using TwoVars = std::function<Var<double, Device>(CV, CV)>;
using ThreeVars = std::function<Var<double, Device>(CV, CV, CV)>;

auto random_leaf(Shape shape, std::uint64_t stream, double scale = 1, double shift = 0) {
  return activation(random_tensor<double>(shape, stream, scale, shift));
}

/// The larger of `worst` and the largest error of value and gradients.
template <typename Fused, typename Composed>
double worst_of(double worst, const Fused& fused, const Composed& composed) {
  const Result f = fused.run(), c = composed.run();
  REQUIRE(all_finite(c.value));
  worst = std::max(worst, relative_error(f.value, c.value));
  for (std::size_t i = 0; i < Fused::size; ++i) {
    REQUIRE(c.grads[i].size() > 0);
    worst = std::max(worst, relative_error(f.grads[i], c.grads[i]));
  }
  return worst;
}

void require_composed(const char* op, double worst) {
  std::printf("composed %-22s worst error %.1e\n", op, worst);
  REQUIRE(worst <= 1e-12);
}

}  // namespace

TEST_CASE("composed: swiglu, rms_norm, add_rms_norm") {
  double gated = 0, norm = 0, sum = 0;
  for (const Shape& shape : {Shape{1, 1}, Shape{2, 3, 5}, Shape{70, 33}}) {
    const auto two = [&](const TwoVars& op, const Var<double, Device>& b) {
      return Card({"a", "b"}, op, random_leaf(shape, 1, 3), b);
    };
    const auto b = random_leaf(shape, 2), gain = random_leaf({shape.width()}, 2, 0.5, 1);
    gated = worst_of(gated, two([](CV g, CV u) { return swiglu(g, u); }, b),
                     two([](CV g, CV u) { return swiglu_composed(g, u); }, b));
    const auto fused = two([](CV x, CV g) { return rms_norm(x, g, 1e-3); }, gain);
    const auto composed = two([](CV x, CV g) { return rms_norm_composed(x, g, 1e-3); }, gain);
    norm = worst_of(norm, fused, composed);
    norm = worst_of(norm, fused.strided<0>(), composed.strided<0>());
    const auto three = [&](const ThreeVars& op) {
      return Card({"x", "f", "gain"}, op, random_leaf(shape, 1), b, gain);
    };
    sum = worst_of(sum, three([](CV x, CV f, CV g) {
                     const auto [total, y] = add_rms_norm(x, f, g, 1e-3);
                     return concat(total, y);
                   }),
                   three([](CV x, CV f, CV g) {
                     const auto [total, y] = add_rms_norm_composed(x, f, g, 1e-3);
                     return concat(total, y);
                   }));
  }
  require_composed("swiglu", gated);
  require_composed("rms_norm", norm);
  require_composed("add_rms_norm", sum);
}

TEST_CASE("composed: rms_norm in bf16 rounds once more than the fused op") {
  const auto card = [](const auto& op) {
    return Card({"x", "gain"}, op, activation(random_tensor<bf16>({7, 33}, 1)),
                weight(random_tensor<float>({33}, 2, 0.5, 1)));
  };
  check_same(card([](const auto& x, const auto& g) { return rms_norm(x, g, 1e-3F); }),
             card([](const auto& x, const auto& g) { return rms_norm_composed(x, g, 1e-3F); }), bf16_bound);
}

TEST_CASE("composed: rope") {
  double worst = 0;
  struct Sizes {
    Index heads, width, rope;
  };
  for (const Sizes& s : {Sizes{1, 2, 2}, Sizes{4, 12, 4}, Sizes{3, 7, 4}}) {
    const RopeTable<double, Device> table{random_tensor<double>({100, s.rope / 2}, 50),
                                          random_tensor<double>({100, s.rope / 2}, 51)};
    const auto at = random_ids({2, 5}, 5, 0, 100);
    const auto card = [&](const std::function<Var<double, Device>(CV)>& op) {
      return Card({"x"}, op, random_leaf({2, 5, s.heads * s.width}, 1));
    };
    worst = worst_of(worst, card([&](CV x) { return rope(x, s.heads, at, table); }),
                     card([&](CV x) { return rope_composed(x, s.heads, at, table); }));
  }
  require_composed("rope", worst);
}

TEST_CASE("composed: attention") {
  double worst = 0;
  for (const AttentionShape& s : {AttentionShape{1, 1, 1, 1, 2, 1}, AttentionShape{2, 7, 3, 5, 4, 6},
                                  AttentionShape{1, 130, 2, 6, 2, 5}}) {
    for (const Index length : {0, 4}) {
      Ids at;
      if (length > 0) {
        Ints places;
        for (Index i = 0; i < s.batch * s.time; ++i)
          places.push_back(static_cast<std::int32_t>(i % s.time % length));
        at = tensor<std::int32_t>({s.batch, s.time}, places);
      }
      const auto card = [&](const ThreeVars& op) {
        return Card({"q", "kv", "k_rope"}, op,
                    random_leaf({s.batch, s.time, s.heads * (s.nope + s.rope)}, 1, 2),
                    random_leaf({s.batch, s.time, s.heads * (s.nope + s.v)}, 2),
                    random_leaf({s.batch, s.time, s.rope}, 3));
      };
      // A query that sees itself alone has gradients of 0: errors are then absolute.
      worst = worst_of(worst, card([&](CV q, CV kv, CV k) { return attention(q, kv, k, s, 0.7, at); }),
                       card([&](CV q, CV kv, CV k) { return attention_composed(q, kv, k, s, 0.7, at); }));
    }
  }
  require_composed("attention", worst);
}

TEST_CASE("composed: route, balance_loss") {
  double worst = 0, balance = 0;
  for (const Routing& r :
       {Routing{1, 1}, Routing{8, 2}, Routing{12, 5, 4, 2, false, 2.5}, Routing{16, 4, 8, 3, true, 2.5}}) {
    const auto bias = random_tensor<double>({r.n_experts}, 2, 0.25);
    const auto scores = random_leaf({2, 15, r.n_experts}, 1, 0.4, 0.5);
    Tape tape(Mode::inference);
    const auto ids = route(tape.constant(scores.value()), bias, r).ids;
    const auto card = [&](const std::function<Var<double, Device>(CV)>& op) {
      return Card({"scores"}, op, scores);
    };
    worst = worst_of(worst, card([&](CV s) { return route(s, bias, r).weights; }),
                     card([&](CV s) { return route_composed(s, ids, r); }));
    // f, as balance_loss() counts it
    Tensor<double, Device> loss(device(), {1}), f(device(), {2, r.n_experts});
    balance_forward(device(), 2, 15, r.n_experts, r.top_k, 0.25, scores.data(), loss.data(), f.data());
    balance = worst_of(balance, card([&](CV s) { return balance_loss(s, r.top_k, 0.25); }),
                       card([&](CV s) { return balance_loss_composed(s, f, 0.25); }));
  }
  require_composed("route", worst);
  require_composed("balance_loss", balance);
}

TEST_CASE("composed: experts") {
  using FiveVars = std::function<Var<double, Device>(CV, CV, CV, CV, CV)>;
  double worst = 0;
  for (const ExpertsShape& s :
       {ExpertsShape{1, 1, 1, 1, 1}, ExpertsShape{5, 3, 2, 4, 2}, ExpertsShape{40, 9, 10, 6, 3}}) {
    Ints ids;
    const Ints starts = random_ids({s.tokens}, 7, 0, s.experts).to_host();
    for (Index n = 0; n < s.tokens; ++n) {
      for (Index k = 0; k < s.top_k; ++k)
        ids.push_back(static_cast<std::int32_t>((nth(starts, n) + k * (s.experts - 1)) % s.experts));
    }
    const auto plan =
        plan_experts(tensor<std::int32_t>({s.tokens, s.top_k}, ids), s.experts, Tensor<double, Device>());
    const auto card = [&](const FiveVars& op) {
      return Card({"x", "weights", "gate", "up", "down"}, op, random_leaf({s.tokens, s.width}, 1),
                  random_leaf({s.tokens, s.top_k}, 2), random_leaf({s.experts, s.inner, s.width}, 3),
                  random_leaf({s.experts, s.inner, s.width}, 4),
                  random_leaf({s.experts, s.width, s.inner}, 5));
    };
    worst =
        worst_of(worst, card([&](CV x, CV w, CV g, CV u, CV d) { return experts(x, w, plan, g, u, d); }),
                 card([&](CV x, CV w, CV g, CV u, CV d) { return experts_composed(x, w, plan, g, u, d); }));
  }
  require_composed("experts", worst);
}

TEST_CASE("composed: linear_cross_entropy") {
  double worst = 0;
  for (const Index fixed_divisor : {0, 50}) {
    const auto labels = random_ids({21}, 3, -1, 33);
    const auto card = [&](const TwoVars& op) {
      return Card({"x", "w"}, op, random_leaf({3, 7, 5}, 1), random_leaf({33, 5}, 2));
    };
    worst = worst_of(
        worst, card([&](CV x, CV w) { return linear_cross_entropy(x, w, labels, fixed_divisor).loss; }),
        card([&](CV x, CV w) { return linear_cross_entropy_composed(x, w, labels, fixed_divisor); }));
  }
  require_composed("linear_cross_entropy", worst);
}

TEST_CASE("composed: linear_distillation") {
  double worst = 0;
  const auto labels = random_ids({21}, 3, -1, 33);
  const Teacher<double, Device> teacher{random_tensor<double>({3, 7, 4}, 4),
                                        random_tensor<double>({33, 4}, 5)};
  for (const auto divergence : {Divergence::cross_entropy, Divergence::kl, Divergence::total_variation}) {
    for (const Index fixed : {0, 50}) {
      const auto card = [&](const TwoVars& op) {
        return Card({"x", "w"}, op, random_leaf({3, 7, 5}, 1), random_leaf({33, 5}, 2));
      };
      worst = worst_of(worst, card([&](CV x, CV w) {
                         return linear_distillation(x, w, teacher, labels, divergence, 0.75, fixed).loss;
                       }),
                       card([&](CV x, CV w) {
                         return linear_distillation_composed(x, w, teacher, labels, divergence, 0.75, fixed);
                       }));
    }
  }
  require_composed("linear_distillation", worst);
}

TEST_SUITE_END();
