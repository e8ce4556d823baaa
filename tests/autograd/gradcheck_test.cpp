#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/core/cpu.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace mtpx;

namespace {

using Matrix = Tensor<double, Cpu>;
using Numbers = std::vector<double>;

enum class Fault { none, factor, sign, neighbour, one_entry, tiny, missing, not_a_number };

/// sum_i sin(x_i) x_i, with a gradient that is right or wrong in a known way.
Var<double, Cpu> curve(Tape& tape, const Weight<double, Cpu>& w, Fault fault) {
  const Var<double, Cpu> x = tape.adopt(w);
  double total = 0;
  for (Index i = 0; i < x.value().size(); ++i) total += std::sin(x.data()[i]) * x.data()[i];
  const Matrix y = Matrix::from(x.device(), {1}, Numbers{total});
  return tape.record("curve", y, [x, fault](const Matrix& dy) {
    if (fault == Fault::missing) return;
    const Sink<double> dx = x.sink();
    if (!dx) return;
    const Index n = x.value().size();
    for (Index i = 0; i < n; ++i) {
      const double at = x.data()[fault == Fault::neighbour ? (i + 1) % n : i];
      double g = dy.data()[0] * (std::sin(at) + at * std::cos(at));
      if (fault == Fault::factor) g *= 2;
      if (fault == Fault::sign) g = -g;
      if (fault == Fault::one_entry && i == 3) g *= 1.001;
      if (fault == Fault::tiny) g *= 1 + 1e-5;
      if (fault == Fault::not_a_number && i == 1) g = std::numeric_limits<double>::quiet_NaN();
      dx.data[i] = dx.accumulate ? dx.data[i] + g : g;
    }
  });
}

struct Check {
  Cpu cpu{1};
  Parameter<double, Cpu> x{Matrix::from(cpu, {2, 3}, Numbers{0.3, -1.2, 2.0, 0.9, -0.4, 1.6})};

  GradcheckReport run(Fault fault, Index stride = 1) {
    return gradcheck<Cpu>(
        {{"x", x}}, [&](Tape& tape) { return curve(tape, x, fault); }, 1e-3, stride);
  }
};

}  // namespace

TEST_CASE("gradcheck: a right gradient is right to eleven digits") {
  Check check;
  const Numbers before = check.x.value().to_host();
  const GradcheckReport report = check.run(Fault::none);
  CHECK(report.checked == 6);
  CHECK(report.worst < 1e-11);
  CHECK(report.worst > 0);
  CHECK(report.within(1e-11));
  CHECK(!report.within(report.worst / 2));
  CHECK(check.x.value().to_host() == before);
  CHECK(check.run(Fault::none).worst == report.worst);  // the gradient of the first run is not added to
}

TEST_CASE("gradcheck: finds wrong gradients") {
  Check check;
  for (Fault fault : {Fault::factor, Fault::sign, Fault::neighbour, Fault::missing}) {
    CAPTURE(static_cast<int>(fault));
    const GradcheckReport report = check.run(fault);
    CHECK(report.checked == 6);
    CHECK(report.worst > 0.1);
    CHECK(!report.within(1e-3));
  }
  CHECK(!check.run(Fault::tiny).within(1e-6));
  CHECK(check.run(Fault::tiny).within(1e-4));
}

TEST_CASE("gradcheck: names the worst entry") {
  Check check;
  const GradcheckReport report = check.run(Fault::one_entry);
  CHECK(report.worst == doctest::Approx(0.001).epsilon(1e-3));
  CHECK(report.where.rfind("x[3]: tape 1.34", 0) == 0);
  CHECK(report.where.find(", differences 1.34") != std::string::npos);
}

TEST_CASE("gradcheck: NaN is the worst of all") {
  Check check;
  const GradcheckReport report = check.run(Fault::not_a_number);
  CHECK(report.checked == 6);
  CHECK(std::isnan(report.worst));
  CHECK(report.where.rfind("x[1]: tape nan", 0) == 0);
  CHECK(!report.within(1));
  CHECK(!report.within(std::numeric_limits<double>::infinity()));
}

TEST_CASE("gradcheck: a stride skips entries") {
  Check check;
  CHECK(check.run(Fault::none, 2).checked == 3);
  CHECK(check.run(Fault::none, 4).checked == 2);
  CHECK(check.run(Fault::one_entry, 2).within(1e-9));  // entry 3 is not looked at
  CHECK(!check.run(Fault::one_entry, 3).within(1e-9));
}

TEST_CASE("gradcheck: several targets, one of which the loss does not see") {
  Check check;
  Parameter<double, Cpu> y(Matrix::from(check.cpu, {2}, Numbers{1, 2}));
  const auto report = gradcheck<Cpu>({{"y", y}, {"x", check.x}},
                                     [&](Tape& tape) { return curve(tape, check.x, Fault::one_entry); });
  CHECK(report.checked == 8);
  CHECK(report.where.rfind("x[3]: ", 0) == 0);
}

TEST_CASE("gradcheck: nothing compared is not a success") {
  CHECK(!GradcheckReport{}.within(1));
  CHECK(GradcheckReport{1, 0.5, ""}.within(0.5));
}

TEST_CASE("gradcheck: what cannot be compared is refused by name") {
  Check check;
  const auto run = [&](const Weight<double, Cpu>& target, double h = 1e-3, Index stride = 1) {
    return gradcheck<Cpu>(
        {{"w", target}}, [&](Tape& tape) { return curve(tape, check.x, Fault::none); }, h, stride);
  };
  Parameter<double, Cpu> frozen(Matrix::from(check.cpu, {1}, Numbers{1}));
  frozen.freeze();  // was a segmentation fault
  const char* const text = "[gradcheck] w has no gradient to compare: it is frozen or a constant";
  CHECK_THROWS_WITH_AS(run(frozen), text, Error);
  CHECK_THROWS_WITH_AS(run(Weight<double, Cpu>(frozen.value())), text, Error);
  CHECK_THROWS_WITH_AS(run({}), "[gradcheck] w is undefined", Error);
  CHECK_THROWS_WITH_AS(run(check.x, 0), "[gradcheck] h = 0 and stride = 1 must be positive", Error);
  CHECK_THROWS_WITH_AS(run(check.x, 1e-3, 0), "[gradcheck] h = 0.001 and stride = 0 must be positive",
                       Error);  // had no end
}
