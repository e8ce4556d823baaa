#include <mtpx/ops/functions.hpp>

#include "support/primitives.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/functions.hpp");

namespace {

double normal_below(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

/// The functions by their names, as <cmath> has them.
const std::vector<std::pair<std::string, std::function<double(double)>>> by_cmath = {
    {"neg", [](double x) { return -x; }},
    {"scale", [](double x) { return 0.3 * x; }},
    {"shift", [](double x) { return x + 0.3; }},
    {"inverse", [](double x) { return 0.3 / x; }},
    {"exp", [](double x) { return std::exp(x); }},
    {"log", [](double x) { return std::log(x); }},
    {"sqrt", [](double x) { return std::sqrt(x); }},
    {"tanh", [](double x) { return std::tanh(x); }},
    {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"relu", [](double x) { return std::max(x, 0.0); }},
    {"gelu", [](double x) { return x * normal_below(x); }},
    {"gelu_tanh",
     [](double x) {
       return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
     }},
    {"silu", [](double x) { return x / (1 + std::exp(-x)); }},
    {"1 - 2 x / 3", [](double x) { return 1 - 2 * x / 3; }},
    {"x x", [](double x) { return x * x; }},
    {"1 / x / x", [](double x) { return 1 / (x * x); }},
};

}  // namespace

TEST_CASE("ops of one operand: the card") {
  for (const auto& op : one_operand_ops<double, Device>()) {
    CAPTURE(op.name);
    for (const Shape& shape : {Shape{1, 1}, Shape{2, 3, 5}, Shape{3, 37}}) {
      const auto card = op.card(shape);
      for (const auto& [name, f] : by_cmath) {
        if (name != op.name) continue;
        Numbers want;
        for (const double x : card.template numbers<0>()) want.push_back(f(x));
        check_close(card.run().value, want, 1e-14);
      }
      card.check();
      card.template check_strided<0>();
    }
    op.card({67, 300}).check_threads();
  }
}

TEST_CASE("ops of one operand: float and bf16") {
  const auto in_double = one_operand_ops<double, Device>();
  const auto in_float = one_operand_ops<float, Device>();
  const auto in_bf16 = one_operand_ops<bf16, Device>();
  for (std::size_t i = 0; i < in_double.size(); ++i) {
    CAPTURE(in_double[i].name);
    check_same(in_float[i].card({7, 33}), in_double[i].card({7, 33}), float_bound);
    check_same(in_bf16[i].card({7, 33}), in_float[i].card({7, 33}), bf16_bound);
  }
}

TEST_CASE("functions: zero, infinity, NaN and what overflows") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const auto of = [](const auto& op, const Numbers& x) {
    Tape tape(Mode::inference);
    return host(op(tape.constant(tensor<double>({static_cast<Index>(x.size())}, x))).value());
  };
  const auto log_of = of([](const auto& x) { return log(x); }, {0, -0.0, -1, infinity, nan, 5e-324, 1e-310});
  CHECK(log_of[0] == -infinity);
  CHECK(log_of[1] == -infinity);
  CHECK(std::isnan(log_of[2]));
  CHECK(log_of[3] == infinity);
  CHECK(std::isnan(log_of[4]));
  CHECK(log_of[5] == doctest::Approx(std::log(5e-324)).epsilon(1e-15));
  CHECK(log_of[6] == doctest::Approx(std::log(1e-310)).epsilon(1e-15));
  const auto tanh_of =
      of([](const auto& x) { return tanh(x); }, {0, 1e-300, -1e-9, 30, -1e300, -infinity, nan});
  CHECK(tanh_of[0] == 0);
  CHECK(tanh_of[1] == doctest::Approx(1e-300).epsilon(1e-15));
  CHECK(tanh_of[2] == doctest::Approx(-1e-9).epsilon(1e-15));
  CHECK(tanh_of[3] == 1);
  CHECK(tanh_of[4] == -1);
  CHECK(tanh_of[5] == -1);
  CHECK(std::isnan(tanh_of[6]));
  const auto relu_of = of([](const auto& x) { return relu(x); }, {-infinity, infinity, nan});
  CHECK(relu_of[0] == 0);
  CHECK(relu_of[1] == infinity);
  CHECK(std::isnan(relu_of[2]));
  // the tail keeps its digits
  const auto gelu_of = of([](const auto& x) { return gelu(x); }, {-30, -8, 40, -1e200, nan});
  CHECK(gelu_of[0] == doctest::Approx(-30 * normal_below(-30)).epsilon(1e-12));
  CHECK(gelu_of[1] == doctest::Approx(-8 * normal_below(-8)).epsilon(1e-13));
  CHECK(gelu_of[2] == 40);
  CHECK(gelu_of[3] == 0);
  CHECK(std::isnan(gelu_of[4]));
  for (const auto& op : one_operand_ops<double, Device>()) {
    if (!op.by_number || op.name == "exp" || op.name == "log" || op.name == "sqrt" || op.name == "x x")
      continue;
    CAPTURE(op.name);
    const auto x = activation(tensor<double>({4}, {-1e200, -50, 50, 1e200}));
    const Result result = Card({"x"}, op.op, x).run();
    CHECK(all_finite(result.value));
    CHECK(all_finite(result.grads[0]));
  }
}

TEST_CASE("functions: what they keep") {
  Tape tape;
  const auto held = [&](const auto& op) {
    const auto x = tape.input(random_tensor<double>({4, 1 << 12}, 1, 0.5, 2));
    const auto before = device().pool().bytes_in_use();
    (void)op(x);
    return static_cast<double>(device().pool().bytes_in_use() - before) /
           static_cast<double>(x.value().bytes());
  };
  if constexpr (on_gpu) return;  // whose pool has other sizes
  CHECK(held([](const auto& x) { return scale(x, 2); }) == 0);
  CHECK(held([](const auto& x) { return exp(x); }) == 1);
  CHECK(held([](const auto& x) { return sum(x); }) == 0);
}

TEST_SUITE_END();
