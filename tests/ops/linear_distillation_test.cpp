#include <mtpx/ops/linear_distillation.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/linear_distillation.hpp");

namespace {

constexpr Divergence divergences[] = {Divergence::cross_entropy, Divergence::kl, Divergence::total_variation};

/// What stands behind a first chunk of the vocabulary has larger logits, so that chunks change the maximum.
template <typename T>
Teacher<T, Device> random_teacher(Index rows, Index width, Index vocab) {
  std::vector<T> w = random_tensor<T>({vocab, width}, 8).to_host();
  for (Index i = loss_vocab * width; i < vocab * width; ++i) nth(w, i) = T(4 * static_cast<float>(nth(w, i)));
  return {random_tensor<T>({rows, width}, 7, 1.5), tensor<T>({vocab, width}, w)};
}

template <typename T>
auto taught_card(Shape x, Index vocab, const Teacher<T, Device>& teacher, const Ids& labels,
                 Divergence divergence, double share = 1, Index fixed_divisor = 0) {
  return Card(
      {"x", "w"},
      [=](const auto& v, const auto& w) {
        return linear_distillation(v, w, teacher, labels, divergence, share, fixed_divisor).loss;
      },
      activation(random_tensor<T>(x, 1)), weight(random_tensor<T>({vocab, x.width()}, 2)));
}

template <typename T>
void check_taught(Shape x, Index vocab, Index width, const Ids& labels, Divergence divergence, double share,
                  double bound) {
  const auto teacher = random_teacher<T>(x.rows(), width, vocab);
  const auto card = taught_card<T>(x, vocab, teacher, labels, divergence, share, 50);
  const reference::Distillation want(card.template numbers<0>(), card.template numbers<1>(), host(teacher.x),
                                     host(teacher.w), labels.to_host(), x.width(), divergence, share, 50);
  const Result got = card.run();
  check_close(got.value, {want.loss}, bound);
  const double dloss = host(random_tensor<double>({1}, 1000))[0];
  const auto scaled = [dloss](Numbers g) {
    for (double& value : g) value *= dloss;
    return g;
  };
  check_close(got.grads[0], scaled(want.dx), bound, "gradient of x");
  check_close(got.grads[1], scaled(want.dw), bound, "gradient of w");
  Tape tape(Mode::inference);
  const auto full = linear_distillation(tape.constant(card.template operand<0>().value()),
                                        card.template operand<1>(), teacher, labels, divergence, share);
  check_close(host(full.row_loss), want.row_loss, bound, "row_loss");
  CHECK(full.argmax.to_host() == want.argmax);
}

}  // namespace

TEST_CASE("linear_distillation: the card") {
  struct Sizes {
    Shape x;
    Index vocab, width;
  };
  for (const Divergence divergence : divergences) {
    for (const Sizes& s : {Sizes{{1, 3}, 1, 2}, Sizes{{2, 3, 5}, 11, 5}, Sizes{{7, 4}, 13, 6}}) {
      for (const double share : {1.0, 0.25}) {
        CAPTURE(static_cast<int>(divergence));
        CAPTURE(s.x.str());
        CAPTURE(share);
        const Ids labels = random_ids({s.x.rows()}, 3, -1, s.vocab);
        check_taught<double>(s.x, s.vocab, s.width, labels, divergence, share, 1e-12);
        auto teacher = random_teacher<double>(s.x.rows(), s.width, s.vocab);
        const auto card = taught_card<double>(s.x, s.vocab, teacher, labels, divergence, share);
        card.check();
        card.check_strided<0>();
        teacher.x = with_gaps(teacher.x);
        check_same(taught_card<double>(s.x, s.vocab, teacher, labels, divergence, share), card, 1e-13);
      }
    }
    taught_card<double>({90, 40}, 500, random_teacher<double>(90, 30, 500), random_ids({90}, 3, -1, 500),
                        divergence, 0.5)
        .check_threads();
  }
}

TEST_CASE("linear_distillation: more rows and a larger vocabulary than one chunk, float, bf16") {
  for (const Divergence divergence : divergences) {
    CAPTURE(static_cast<int>(divergence));
    const Ids labels = random_ids({515}, 3, -1, 4103);
    // In double: among two million tokens, float finds another sign of q - p than double somewhere.
    check_taught<double>({515, 3}, 4103, 2, labels, divergence, 0.75, 1e-12);
    const Ids few = random_ids({21}, 3, -1, 50);
    const auto card = [&]<typename T>(T) {
      return taught_card<T>({21, 33}, 50, random_teacher<T>(21, 33, 50), few, divergence, 0.5);
    };
    check_same(card(1.0F), card(1.0), float_bound);
    check_same(card(bf16()), card(1.0F), bf16_bound);
    card(1.0F).check_accumulation(float_bound);
  }
}

TEST_CASE("linear_distillation: equal heads are 0 apart, with exact zeros for gradients; CE is the entropy") {
  const auto x = random_tensor<float>({9, 5}, 1), w = random_tensor<float>({4100, 5}, 2);
  const Ids labels = random_ids({9}, 3, 0, 4100);
  const auto card = [&](Divergence divergence) {
    return taught_card<float>({9, 5}, 4100, Teacher<float, Device>{x, w}, labels, divergence).run();
  };
  for (const Divergence divergence : {Divergence::kl, Divergence::total_variation}) {
    const Result equal = card(divergence);
    CHECK(equal.value == Numbers{0});
    CHECK(equal.grads[0] == Numbers(45, 0.0));
    CHECK(equal.grads[1] == Numbers(20500, 0.0));
  }
  const Numbers p = reference::softmax(reference::linear(host(x), host(w), 5, 4100), 4100);
  double entropy = 0;
  for (const double one : p) entropy -= one * std::log(one) / 9;
  check_close(card(Divergence::cross_entropy).value, {entropy}, float_bound);
}

TEST_CASE("linear_distillation: the total variation is 1 less the drafts that stand; rows without labels") {
  const auto teacher = random_teacher<double>(4, 3, 6);
  const auto card = taught_card<double>({4, 3}, 6, teacher, tensor<std::int32_t>({4}, {2, -1, 0, -7}),
                                        Divergence::total_variation);
  const Numbers q = reference::softmax(reference::linear(card.numbers<0>(), card.numbers<1>(), 3, 6), 6);
  const Numbers p = reference::softmax(reference::linear(host(teacher.x), host(teacher.w), 3, 6), 6);
  double stand = 0;
  for (const std::size_t row : {0U, 2U}) {
    for (std::size_t v = 6 * row; v < 6 * row + 6; ++v) stand += std::min(p[v], q[v]) / 2;
  }
  const Result got = card.run();
  check_close(got.value, {1 - stand}, 1e-14);
  for (const std::size_t i : {3U, 4U, 5U, 9U, 10U, 11U}) CHECK(got.grads[0][i] == 0);
  const Result none = taught_card<double>({4, 3}, 6, teacher, tensor<std::int32_t>({4}, {-1, -1, -1, -1}),
                                          Divergence::total_variation, 0.5, 7)
                          .run();
  CHECK(none.value == Numbers{0});
  CHECK(none.grads[1] == Numbers(18, 0.0));
}

TEST_CASE("linear_distillation: logits are never held, whatever the vocabulary") {
  const auto peak = [](Index vocab, Divergence divergence) {
    const Device own = fresh_device();
    const auto zeros = [&](Shape shape) { return Tensor<float, Device>::zeros(own, shape); };
    const Weight<float, Device> w(zeros({vocab, 4}), std::make_shared<mtpx::detail::Slot<float, Device>>(),
                                  nullptr);
    Tape tape;
    const auto x = tape.input(zeros({600, 4}));
    const Teacher<float, Device> teacher{zeros({600, 4}), w.value()};
    tape.backward(linear_distillation(x, w, teacher, Ids::zeros(own, {600}), divergence, 0.5).loss);
    return own.pool().peak_bytes() - w.value().bytes() - w.grad().bytes();
  };
  const std::size_t least = peak(4096, Divergence::total_variation);
  for (const Divergence divergence : divergences) CHECK(peak(4 * 4096, divergence) <= least + (1U << 19U));
}

TEST_CASE("linear_distillation: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  const auto w = weight(random_tensor<double>({5, 3}, 1));
  const Ids labels = random_ids({2}, 1, 0, 5);
  const auto call = [&](const Teacher<double, Device>& teacher, const Ids& ids) {
    return linear_distillation(x, w, teacher, ids, Divergence::kl);
  };
  const auto good = random_teacher<double>(2, 4, 5);
  CHECK_NOTHROW(call(good, labels));
  if (!on_gpu) {
    CHECK_THROWS_WITH_AS(call(good, tensor<std::int32_t>({2}, {5, 1})),
                         "[linear_distillation] token id 5 at row 0, column 0 is outside the vocabulary of 5",
                         NumericError);
  }
  CHECK_THROWS_WITH_AS(call(good, random_ids({3}, 1, 0, 5)),
                       "[linear_distillation] every row of x needs one label\n  x: [2, 3]\n  labels: [3]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      call(random_teacher<double>(3, 4, 5), labels),
      "[linear_distillation] the teacher needs one row per row of x\n  x: [2, 3]\n  teacher.x: [3, 4]",
      ShapeError);
  CHECK_THROWS_WITH_AS(call(random_teacher<double>(2, 4, 6), labels),
                       "[linear_distillation] the teacher's w needs one row per row of w, and one column per "
                       "column of its x\n  w: [5, 3]\n  teacher.x: [2, 4]\n  teacher.w: [6, 4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      linear_distillation(x, weight(random_tensor<double>({5, 4}, 1)), good, labels, Divergence::kl),
      "[linear_distillation] w needs one column per column of x\n  x: [2, 3]\n  w: [5, 4]", ShapeError);
}

TEST_SUITE_END();
