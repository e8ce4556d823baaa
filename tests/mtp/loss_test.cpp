// Built from hidden states made up here, so that nothing but the loss is tested. tests/model/depths_test.cpp
// holds it against a whole model.

#include "support/model.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/mtp/loss.hpp");

namespace {

constexpr Index few_windows = 2, few_steps = 4, depths = 2;
using Model = Transformer<double, Device>;

Config config() {
  Config c = dense_config(depths);
  c.num_hidden_layers = 1;
  return c;
}

/// Hidden states of all depths: leaves on a tape.
struct States {
  std::vector<Var<double, Device>> leaves;

  States() {
    for (Index k = 0; k <= depths; ++k) {
      leaves.push_back(activation(
          random_tensor<double>({few_windows, few_steps - k, 8}, 60 + static_cast<std::uint64_t>(k))));
    }
  }
  Forward<double, Device> on(Tape& tape, const std::vector<double>& balance = {}) const {
    Forward<double, Device> out;
    for (const auto& leaf : leaves) out.normed.push_back(tape.adopt(leaf));
    for (const double value : balance) out.balance.push_back(tape.input(tensor<double>({1}, {value})));
    return out;
  }
};

Numbers losses(const MtpLoss<double, Device>& loss) {
  Numbers all;
  for (const auto& one : loss.depths) all.push_back(host(one.loss.value())[0]);
  return all;
}
double total(const MtpLoss<double, Device>& loss) { return host(loss.total.value())[0]; }

/// Labels of depth k by hand; -1 where the target is in another document.
Ints labels(const Batch<Device>& b, Index k) {
  const Ints tokens = b.tokens.to_host();
  const Ints positions = b.positions.defined() ? b.positions.to_host() : Ints();
  Ints all;
  for (Index row = 0; row < few_windows; ++row) {
    for (Index i = 0; i + k < few_steps; ++i) {
      const Index here = row * (few_steps + 1) + i;
      const bool same = positions.empty() || nth(positions, here + k + 1) == nth(positions, here) + k + 1;
      all.push_back(same ? nth(tokens, here + k + 1) : -1);
    }
  }
  return all;
}

reference::CrossEntropy reference_depth(const Model& model, const States& states, const Batch<Device>& b,
                                        Index k, Index divisor = 0) {
  return {host(states.leaves[static_cast<std::size_t>(k)].value()), host(model.lm_head->weight.value()),
          labels(b, k), 8, divisor};
}

}  // namespace

TEST_CASE("mtp_loss: total = L_main + lambda / D sum_k w_k L_k + balance losses") {
  const Model model = random_model(config(), 1);
  const States states;
  const auto b = random_batch(few_windows, few_steps, 11);
  for (const double lambda : {0.0, 0.3, 2.0}) {
    for (const std::vector<double>& w :
         {std::vector<double>{}, std::vector<double>{0.5}, std::vector<double>{0.5, 4, 9}}) {
      Tape tape;
      const auto loss = mtp_loss(model, states.on(tape, {10, 20}), b, {lambda, w, LossDivisor::valid_rows});
      double want = 30;
      for (Index k = 0; k <= depths; ++k) {
        const double one = reference_depth(model, states, b, k).loss;
        const auto place = static_cast<std::size_t>(k);
        CHECK(losses(loss)[place] == doctest::Approx(one).epsilon(1e-13));
        const double weight = place >= 1 && place <= w.size() ? w[place - 1] : 1.0;
        want += k == 0 ? one : lambda / 2 * weight * one;
      }
      CHECK(total(loss) == doctest::Approx(want).epsilon(1e-13));
    }
  }
}

TEST_CASE("mtp_loss: D is the number of modules, even where fewer ran") {
  const Model model = random_model(config(), 1);
  const States states;
  const auto b = random_batch(few_windows, few_steps, 11);
  Tape tape;
  auto out = states.on(tape);
  out.normed.pop_back();
  const auto loss = mtp_loss(model, out, b, {.lambda = 1.0});
  const Numbers l = losses(loss);
  REQUIRE(l.size() == 2);
  CHECK(total(loss) == doctest::Approx(l[0] + l[1] / 2).epsilon(1e-14));
}

TEST_CASE(
    "mtp_loss: depth k learns from the main head's row that predicts the same token, which hears nothing") {
  Model model = random_model(config(), 1);
  const States states;
  auto b = random_batch(few_windows, few_steps, 11);
  b.positions = tensor<std::int32_t>({few_windows, few_steps + 1}, {0, 1, 2, 0, 1, 0, 1, 2, 3, 4});
  const auto run = [&](const TaughtLossOptions& options) {
    for (const auto& leaf : states.leaves) leaf.slot()->filled = false;
    model.zero_grad();
    Tape tape;
    const auto loss = mtp_loss(model, states.on(tape), b, options);
    tape.backward(loss.total);
    return losses(loss);
  };
  run(MtpLossOptions{.lambda = 0});
  const Numbers of_main = host(states.leaves[0].grad());
  const Numbers head = host(model.lm_head->weight.value()), main = host(states.leaves[0].value());
  for (const Divergence divergence : {Divergence::kl, Divergence::total_variation}) {
    const Numbers got = run({{.lambda = 0.6}, 0.75, divergence});
    check_bits(host(states.leaves[0].grad()), of_main, "the main head's state");
    for (Index k = 1; k <= depths; ++k) {
      Numbers teacher;
      for (Index row = 0; row < few_windows; ++row) {
        for (Index i = 0; i + k < few_steps; ++i) {
          const auto from = main.begin() + (row * few_steps + i + k) * 8;
          teacher.insert(teacher.end(), from, from + 8);
        }
      }
      const auto place = static_cast<std::size_t>(k);
      const reference::Distillation want(host(states.leaves[place].value()), head, teacher, head,
                                         labels(b, k), 8, divergence, 0.75);
      CHECK(got[place] == doctest::Approx(want.loss).epsilon(1e-13));
      Numbers dx = want.dx;
      for (double& g : dx) g *= 0.3;
      check_close(host(states.leaves[place].grad()), dx, 1e-12, cat("state ", k));
    }
  }
}

TEST_CASE("mtp_loss: gradients of the head and of every state are those of the sum over whole logits") {
  Model model = random_model(config(), 1);
  const States states;
  const auto b = random_batch(few_windows, few_steps, 11);
  Tape tape;
  const auto loss = mtp_loss(model, states.on(tape), b, {.lambda = 0.6});
  tape.backward(loss.total);
  Numbers dw(static_cast<std::size_t>(11 * 8), 0.0);
  for (Index k = 0; k <= depths; ++k) {
    const auto want = reference_depth(model, states, b, k);
    const double weight = k == 0 ? 1.0 : 0.3;
    Numbers dx = want.dx;
    for (double& g : dx) g *= weight;
    for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += weight * want.dw[i];
    check_close(host(states.leaves[static_cast<std::size_t>(k)].grad()), dx, 1e-12, cat("state ", k));
  }
  check_close(host(model.lm_head->weight.grad()), dw, 1e-12, "head");
}

TEST_CASE("mtp_loss: documents: a target in another document does not count") {
  const Model model = random_model(config(), 1);
  const States states;
  Batch<Device> b = random_batch(few_windows, few_steps, 11);
  b.positions = tensor<std::int32_t>({few_windows, few_steps + 1}, {0, 1, 2, 0, 1, 7, 0, 1, 2, 3});
  CHECK(labels(b, 0)[2] == -1);
  CHECK(labels(b, 1)[1] == -1);
  for (const LossDivisor divisor : {LossDivisor::valid_rows, LossDivisor::all_positions}) {
    Tape tape;
    const auto loss = mtp_loss(model, states.on(tape), b, {.divisor = divisor});
    const Index fixed = divisor == LossDivisor::valid_rows ? 0 : few_windows * few_steps;
    for (Index k = 0; k <= depths; ++k) {
      const auto want = reference_depth(model, states, b, k, fixed);
      const auto& got = loss.depths[static_cast<std::size_t>(k)];
      check_close(host(got.loss.value()), {want.loss}, 1e-13, cat("depth ", k));
      check_close(host(got.row_loss), want.row_loss, 1e-13);
      CHECK(got.argmax.to_host() == want.argmax);
    }
  }
}

TEST_CASE("mtp_loss: a depth whose rows all lack a target adds zero loss and zero gradient") {
  Model model = random_model(config(), 1);
  for (const LossDivisor divisor : {LossDivisor::valid_rows, LossDivisor::all_positions}) {
    const States states;
    Batch<Device> b = random_batch(few_windows, few_steps, 11);
    b.positions =
        tensor<std::int32_t>({few_windows, few_steps + 1}, {0, 1, 0, 1, 0, 0, 1, 0, 1, 0});  // of two tokens
    Tape tape;
    const auto loss = mtp_loss(model, states.on(tape), b, {.lambda = 1.0, .divisor = divisor});
    tape.backward(loss.total);
    CHECK(losses(loss)[0] > 0);
    CHECK(losses(loss)[1] == 0);
    CHECK(losses(loss)[2] == 0);
    for (std::size_t k = 1; k <= 2; ++k) {
      for (const double g : host(states.leaves[k].grad())) CHECK(g == 0.0);
    }
    b.positions = tensor<std::int32_t>({few_windows, few_steps + 1}, Ids::zeros(device(), {10}).to_host());
    model.zero_grad();
    Tape nothing;
    const auto none = mtp_loss(model, states.on(nothing), b, {.divisor = divisor});
    nothing.backward(none.total);
    CHECK(total(none) == 0);
    for (const double g : host(model.lm_head->weight.grad())) CHECK(g == 0.0);
  }
}

TEST_CASE("exponential_weights: w_k = decay^(k-1)") {
  CHECK(exponential_weights(0, 0.5).empty());
  CHECK(exponential_weights(4, 0.5) == std::vector<double>{1, 0.5, 0.25, 0.125});
  CHECK(exponential_weights(3, 1) == std::vector<double>{1, 1, 1});
}

TEST_SUITE_END();
