#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/linear_cross_entropy.hpp");

namespace {

template <typename T>
auto loss_card(Shape x, Index vocab, const Ids& labels, Index fixed_divisor = 0, double spread = 1) {
  return Card(
      {"x", "w"},
      [=](const auto& v, const auto& w) { return linear_cross_entropy(v, w, labels, fixed_divisor).loss; },
      activation(random_tensor<T>(x, 1, spread)), weight(random_tensor<T>({vocab, x.width()}, 2)));
}

/// linear, and a softmax over whole rows of logits recorded here.
auto composed_card(Shape x, const Ids& labels, Index vocab) {
  return Card(
      {"x", "w"},
      [=](const auto& v, const auto& w) {
        const auto logits = linear(v, w);
        const Numbers z = host(logits.value());
        const Ints label = labels.to_host();
        Numbers dz = z;
        double loss = 0;
        const auto valid = std::count_if(label.begin(), label.end(), [](auto id) { return id >= 0; });
        for (Index r = 0; r < v.rows().count; ++r) {
          double total = 0;
          for (Index c = 0; c < vocab; ++c) total += std::exp(nth(z, r * vocab + c));
          const Index id = nth(label, r);
          const double part = id < 0 ? 0 : 1 / static_cast<double>(valid);
          for (Index c = 0; c < vocab; ++c) {
            const double p = std::exp(nth(z, r * vocab + c)) / total;
            nth(dz, r * vocab + c) = part * (p - (c == id ? 1 : 0));
          }
          if (id >= 0) loss += part * (std::log(total) - nth(z, r * vocab + id));
        }
        return logits.tape()->record("softmax", tensor<double>({1}, {loss}),
                                     [dz = tensor<double>(logits.shape(), dz),
                                      to = logits.destination()](const Tensor<double, Device>& scale) {
                                       scale_into(dz.device(), dz.size(), scale.to_host()[0], dz.data(),
                                                  to.sink());
                                     });
      },
      activation(random_tensor<double>(x, 1)), weight(random_tensor<double>({vocab, x.width()}, 2)));
}

/// Loss, losses per row, the most likely tokens and both gradients against whole rows of logits.
template <typename CardType>
void check_reference(const CardType& card, const Ids& labels, Index fixed_divisor, double bound) {
  const Result got = card.run();
  const auto& x = card.template operand<0>();
  const reference::CrossEntropy want(card.template numbers<0>(), card.template numbers<1>(), labels.to_host(),
                                     x.shape().width(), fixed_divisor);
  check_close(got.value, {want.loss}, bound);
  const double dloss = host(random_tensor<double>({1}, 1000))[0];
  const auto scaled = [dloss](Numbers g) {
    for (double& value : g) value *= dloss;
    return g;
  };
  check_close(got.grads[0], scaled(want.dx), bound, "gradient of x");
  check_close(got.grads[1], scaled(want.dw), bound, "gradient of w");
  Tape tape(Mode::inference);
  const auto full =
      linear_cross_entropy(tape.constant(x.value()), card.template operand<1>(), labels, fixed_divisor);
  check_close(host(full.row_loss), want.row_loss, bound, "row_loss");
  CHECK(full.argmax.to_host() == want.argmax);
}

}  // namespace

TEST_CASE("linear_cross_entropy: the card") {
  struct Sizes {
    Shape x;
    Index vocab;
  };
  for (const Sizes& sizes : {Sizes{{1, 1}, 2}, Sizes{{1, 3}, 1}, Sizes{{2, 3, 5}, 11}, Sizes{{13, 4}, 33}}) {
    CAPTURE(sizes.x.str());
    CAPTURE(sizes.vocab);
    for (const bool ignore : {false, true}) {
      const Ids labels = random_ids({sizes.x.rows()}, 3, ignore ? -1 : 0, sizes.vocab);
      const auto card = loss_card<double>(sizes.x, sizes.vocab, labels);
      check_reference(card, labels, 0, 1e-12);
      check_reference(loss_card<double>(sizes.x, sizes.vocab, labels, 50), labels, 50, 1e-12);
      check_same(card, composed_card(sizes.x, labels, sizes.vocab), 1e-12);
      card.check();
      card.check_strided<0>();
    }
  }
  loss_card<double>({90, 40}, 500, random_ids({90}, 3, -1, 500)).check_threads();
}

TEST_CASE("linear_cross_entropy: more rows and a larger vocabulary than one chunk") {
  const Ids labels = random_ids({515}, 3, -1, 4103);
  const auto card = loss_card<float>({515, 3}, 4103, labels);
  check_reference(card, labels, 0, float_bound);
  card.check_threads();
  card.check_accumulation(float_bound);
  card.check_frozen();
}

TEST_CASE("linear_cross_entropy: float and bf16") {
  const Ids labels = random_ids({21}, 3, -1, 50);
  check_same(loss_card<float>({21, 33}, 50, labels), loss_card<double>({21, 33}, 50, labels), float_bound);
  check_same(loss_card<bf16>({21, 33}, 50, labels), loss_card<float>({21, 33}, 50, labels), bf16_bound);
}

TEST_CASE("linear_cross_entropy: every negative label is ignored") {
  const auto with = [](std::int32_t ignored) {
    return loss_card<double>({3, 4}, 5, tensor<std::int32_t>({3}, {2, ignored, 0})).run();
  };
  const Result want = with(-1);
  for (const std::int32_t ignored : {-2, -100, std::numeric_limits<std::int32_t>::min()}) {
    CAPTURE(ignored);
    Result got;
    CHECK_NOTHROW(got = with(ignored));
    CHECK(got.value == want.value);
    CHECK(got.grads == want.grads);
  }
}

TEST_CASE("linear_cross_entropy: without a label that counts, loss and gradients are exactly 0") {
  for (const Index fixed_divisor : {0, 7}) {
    const auto card = loss_card<float>({3, 4}, 9, tensor<std::int32_t>({3}, {-1, -1, -1}), fixed_divisor);
    for (const Result& result : {card.run(), card.run({.uses = 2})}) {
      CHECK(result.value == Numbers{0});
      CHECK(result.grads[0] == Numbers(12, 0.0));
      CHECK(result.grads[1] == Numbers(36, 0.0));
    }
  }
}

TEST_CASE("linear_cross_entropy: no rows, as in a depth beyond the sequence, give exactly 0") {
  const Card card(
      {"x", "w"},
      [](const auto& x, const auto& w) { return linear_cross_entropy(x, w, Ids(device(), {0})).loss; },
      activation(Tensor<double, Device>(device(), {2, 0, 3})), weight(random_tensor<double>({5, 3}, 2)));
  for (int again = 0; again < 2; ++again) {
    const Result result = card.run();
    CHECK(result.value == Numbers{0});
    CHECK(result.grads[1] == Numbers(15, 0.0));
  }
}

TEST_CASE("linear_cross_entropy: logits of 1e4 stay finite") {
  const Ids labels = tensor<std::int32_t>({2}, {1, 0});
  const auto check = [&](auto type, double bound) {
    using T = decltype(type);
    const Card card(
        {"x", "w"}, [=](const auto& x, const auto& w) { return linear_cross_entropy(x, w, labels).loss; },
        activation(tensor<T>({2, 1}, {T(100), T(100)})),
        weight(tensor<T>({3, 1}, {T(100), T(-100), T(100)})));
    const Result result = card.run();
    check_close(result.value, {(20000 + 2 * std::log(2.0)) / 2}, bound);
    for (const Numbers& g : result.grads) CHECK(all_finite(g));
    check_reference(card, labels, 0, bound);
  };
  // Probabilities come from exp(logit - lse): lse, 1e4, is rounded to 1e-3 in float and to 2e-12 in double.
  check(1.0F, 1e-3);
  check(1.0, 1e-11);
}

TEST_CASE("linear_cross_entropy: the lowest of equal tokens is the most likely one") {
  std::vector<float> column(4200, 0.0F);
  column[7] = column[4100] = 2.0F;  // in different chunks
  Tape tape(Mode::inference);
  const auto w = weight(tensor<float>({4200, 1}, column));
  const auto out = linear_cross_entropy(tape.constant(tensor<float>({3, 1}, {1, -1, 0})), w,
                                        tensor<std::int32_t>({3}, {0, 0, 0}));
  CHECK(out.argmax.to_host() == Ints{7, 0, 0});
}

TEST_CASE("linear_cross_entropy: on a GPU, a label outside the vocabulary makes the loss NaN" *
          doctest::skip(!on_gpu)) {
  Tape tape(Mode::inference);
  const auto check = [&]<typename T>(T) {
    const auto out =
        linear_cross_entropy(tape.constant(random_tensor<T>({3, 8}, 1)), weight(random_tensor<T>({5, 8}, 2)),
                             tensor<std::int32_t>({3}, {1, 5, 4}));
    const Numbers rows = host(out.row_loss);
    CHECK((std::isfinite(rows[0]) && std::isnan(rows[1]) && std::isfinite(rows[2])));
    CHECK(std::isnan(host(out.loss.value())[0]));
  };
  check(1.0F);
  check(1.0);
  check(bf16());
}

TEST_CASE("linear_cross_entropy: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  const auto w = weight(random_tensor<double>({5, 3}, 1));
  if (!on_gpu) {  // see embedding: errors
    CHECK_THROWS_WITH_AS(
        linear_cross_entropy(x, w, tensor<std::int32_t>({2}, {4, 5})),
        "[linear_cross_entropy] token id 5 at row 0, column 1 is outside the vocabulary of 5", NumericError);
  }
  CHECK_THROWS_WITH_AS(linear_cross_entropy(x, w, tensor<std::int32_t>({3}, {1, 2, 3})),
                       "[linear_cross_entropy] every row of x needs one label\n  x: [2, 3]\n  labels: [3]",
                       ShapeError);
  const Tape::Scope scope(tape, "lm_head");
  CHECK_THROWS_WITH_AS(
      linear_cross_entropy(x, weight(random_tensor<double>({5, 4}, 1)), random_ids({2}, 1, 0, 5)),
      "[linear_cross_entropy] w needs one column per column of x\n  x: [2, 3]\n  w: [5, 4]\n  in lm_head",
      ShapeError);
}

TEST_SUITE_END();
