#include <mtpx/kernels.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace mtpx;

namespace {

/// Numbers in [-1, 1] without a pattern.
double wave(Index i, int step = 0) { return std::sin(1.7 * static_cast<double>(i) + 0.9 * step + 0.3); }

struct Settings {
  double lr = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double scale = 0.5;

  AdamWStep at(int step) const {
    return {lr, beta1, beta2, eps, weight_decay, 1 - std::pow(beta1, step), 1 - std::pow(beta2, step)};
  }
};

/// Loshchilov & Hutter 2019, algorithm 2, with the rate inside the decay as everybody has it.
std::vector<double> reference(const Settings& s, Index count, int steps) {
  std::vector<double> result;
  for (Index i = 0; i < count; ++i) {
    double p = wave(i), m = 0, v = 0;
    for (int t = 1; t <= steps; ++t) {
      const double g = s.scale * wave(i, t);
      m = s.beta1 * m + (1 - s.beta1) * g;
      v = s.beta2 * v + (1 - s.beta2) * g * g;
      const double m_hat = m / (1 - std::pow(s.beta1, t));
      const double v_hat = v / (1 - std::pow(s.beta2, t));
      p -= s.lr * (m_hat / (std::sqrt(v_hat) + s.eps) + s.weight_decay * p);
    }
    result.push_back(p);
  }
  return result;
}

template <typename T>
struct Moments {
  std::vector<T> p;
  std::vector<acc_t<T>> m, v, master;

  explicit Moments(Index count)
      : p(static_cast<std::size_t>(count)), m(p.size()), v(p.size()), master(p.size()) {
    for (std::size_t i = 0; i < p.size(); ++i) {
      master[i] = static_cast<acc_t<T>>(wave(static_cast<Index>(i)));
      p[i] = T(master[i]);
    }
  }

  void step(const Cpu& cpu, const Settings& s, int t) {
    std::vector<acc_t<T>> grad;
    const auto count = static_cast<Index>(p.size());
    for (Index i = 0; i < count; ++i) grad.push_back(static_cast<acc_t<T>>(wave(i, t)));
    acc_t<T>* primary = master.data();
    if constexpr (std::is_same_v<T, acc_t<T>>) primary = p.data();  // it is its own master
    adamw_step(cpu, count, s.at(t), &s.scale, grad.data(), m.data(), v.data(), primary, p.data());
  }
};

template <typename T>
Moments<T> trained(int threads, const Settings& s, Index count, int steps) {
  const Cpu cpu(threads);
  Moments<T> state(count);
  for (int t = 1; t <= steps; ++t) state.step(cpu, s, t);
  return state;
}

double squares(const Cpu& cpu, const std::vector<float>& x) {
  double total = -1;
  sum_of_squares(cpu, static_cast<Index>(x.size()), x.data(), &total);
  return total;
}

}  // namespace

TEST_CASE_TEMPLATE("adamw: ten steps against the paper's loop", T, float, double) {
  constexpr Index count = 1003;
  for (double weight_decay : {0.0, 0.1}) {
    Settings s;
    s.weight_decay = weight_decay;
    const std::vector<double> expected = reference(s, count, 10);
    const Moments<T> state = trained<T>(1, s, count, 10);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(state.p[i]) - expected[i]));
    }
    CHECK(worst < 100 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
}

TEST_CASE("adamw: the first step is lr in the gradient's direction, whatever its size") {
  Settings s;
  s.weight_decay = 0;
  s.scale = 1;
  s.eps = 0;
  const Cpu cpu(1);
  const double grads[] = {1e-12, -3, 1e12};
  double m[3] = {}, v[3] = {}, p[3] = {5, 5, 5};
  adamw_step(cpu, 3, s.at(1), &s.scale, grads, m, v, p, p);
  CHECK(p[0] == doctest::Approx(4.99).epsilon(1e-14));
  CHECK(p[1] == doctest::Approx(5.01).epsilon(1e-14));
  CHECK(p[2] == doctest::Approx(4.99).epsilon(1e-14));
  CHECK(m[1] == doctest::Approx(-0.3).epsilon(1e-14));
  CHECK(v[1] == doctest::Approx(0.45).epsilon(1e-14));
}

TEST_CASE("adamw: decay does not pass through the moments") {
  Settings s;
  const Cpu cpu(1);
  const double grad = 0;
  double m = 0, v = 0, p = 2;
  for (int t = 1; t <= 3; ++t) adamw_step(cpu, 1, s.at(t), &s.scale, &grad, &m, &v, &p, &p);
  CHECK(p == doctest::Approx(2 * std::pow(1 - 0.001, 3)).epsilon(1e-15));
  CHECK(m == 0);
  CHECK(v == 0);
}

TEST_CASE("adamw: bf16 is the rounded float master, which never sees the rounding") {
  Settings s;
  s.lr = 1e-4;  // far below half a step of a bf16 near 1: without a master nothing would move
  s.weight_decay = 0;
  constexpr Index count = 1003;
  const Moments<bf16> half = trained<bf16>(1, s, count, 20);
  const Moments<float> full = trained<float>(1, s, count, 20);
  CHECK(half.master == full.p);
  CHECK(half.m == full.m);
  CHECK(half.v == full.v);
  int different = 0;
  for (std::size_t i = 0; i < half.p.size(); ++i) different += half.p[i].bits != bf16(half.master[i]).bits;
  CHECK(different == 0);
  const std::vector<double> expected = reference(s, count, 20);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(static_cast<double>(half.master[i]) == doctest::Approx(expected[i]).epsilon(1e-5));
  }
}

TEST_CASE_TEMPLATE("adamw: the same bits at 1, 2 and 3 threads", T, float, double, bf16) {
  const Settings s;
  constexpr Index count = 20011;  // several chunks, the last one partial
  const Moments<T> one = trained<T>(1, s, count, 2);
  for (int threads : {2, 3}) {
    const Moments<T> many = trained<T>(threads, s, count, 2);
    CHECK(one.m == many.m);
    CHECK(one.v == many.v);
    CHECK(one.master == many.master);
    int different = 0;
    for (std::size_t i = 0; i < one.p.size(); ++i) {
      different += static_cast<double>(one.p[i]) != static_cast<double>(many.p[i]);
    }
    CHECK(different == 0);
  }
}

TEST_CASE("adamw: no parameters, no step") {
  const double scale = 1;
  adamw_step<float>(Cpu(2), 0, Settings().at(1), &scale, nullptr, nullptr, nullptr, nullptr, nullptr);
  double* const nothing = nullptr;
  adamw_step<double>(Cpu(2), 0, Settings().at(1), &scale, nothing, nothing, nothing, nothing, nothing);
}

TEST_CASE("sum_of_squares: whole numbers give the exact sum, at every length around a block") {
  const Cpu cpu(2);
  for (Index count : {0, 1, 7, 8, 9, 16383, 16384, 16385, 50001}) {
    CAPTURE(count);
    std::vector<float> x;
    double expected = 0;
    for (Index i = 0; i < count; ++i) {
      x.push_back(static_cast<float>(i % 201 - 100));
      expected += static_cast<double>(x.back()) * static_cast<double>(x.back());
    }
    CHECK(squares(cpu, x) == expected);
  }
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE("sum_of_squares: adds in double, with the same bits at any number of threads") {
  CHECK(squares(Cpu(1), {1e30f, 3e-30f}) == doctest::Approx(1e60).epsilon(1e-6));
  CHECK(squares(Cpu(1), {1e-30f}) == doctest::Approx(1e-60).epsilon(1e-6));
  std::vector<float> x;
  long double exact = 0;
  for (Index i = 0; i < 100003; ++i) {
    x.push_back(static_cast<float>(wave(i)));
    exact += static_cast<long double>(x.back()) * static_cast<long double>(x.back());
  }
  const double one = squares(Cpu(1), x);
  CHECK(one == doctest::Approx(static_cast<double>(exact)).epsilon(1e-13));
  CHECK(squares(Cpu(2), x) == one);
  CHECK(squares(Cpu(3), x) == one);
  x[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(squares(Cpu(2), x)));
}

TEST_CASE("clip_scale: shrinks what is longer than allowed and nothing else") {
  const Cpu cpu(1);
  const double parts[] = {9, 0, 16};
  double norm = -1, scale = -1;
  const auto clip = [&](Index count, double max_norm) {
    clip_scale(cpu, count, parts, max_norm, &norm, &scale);
    return scale;
  };
  CHECK(clip(3, 1) == 0.2);
  CHECK(norm == 5);
  CHECK(clip(3, 4) == 0.8);
  CHECK(clip(3, 5) == 1);
  CHECK(clip(3, 100) == 1);
  CHECK(clip(1, 1.5) == 0.5);
  CHECK(norm == 3);
  CHECK(clip(3, 0) == 1);
  CHECK(norm == 5);  // measured even when nothing is clipped
  CHECK(clip(3, -1) == 1);
  CHECK(clip(0, 1) == 1);
  CHECK(norm == 0);

  const double bad = std::numeric_limits<double>::quiet_NaN();
  clip_scale(cpu, 1, &bad, 1, &norm, &scale);
  CHECK(std::isnan(norm));
}
