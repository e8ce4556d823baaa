#include "support/card.hpp"

#include <mtpx/kernels.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace mtpx;
using namespace mtpx::test;

namespace {

/// Numbers in [-1, 1] without a pattern.
double wave(Index i, int step = 0) { return std::sin(1.7 * static_cast<double>(i) + 0.9 * step + 0.3); }

Tensor<double, Device> number(double x) { return tensor<double>({1}, {x}); }

struct Settings {
  double lr = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double scale = 0.5;

  AdamWStep step() const { return {beta1, beta2, eps}; }
  /// Of step t, from 1.
  Tensor<double, Device> rates(int t) const {
    return tensor<double>({3}, {lr, 1 - std::pow(beta1, t), 1 - std::pow(beta2, t)});
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

/// A parameter with its moments, and a gradient.
template <typename T>
struct Trained {
  using A = acc_t<T>;
  Tensor<A, Device> m, v, master, grad;
  Tensor<T, Device> p;
  bool decays = true;
  double rate = 1;

  /// From values and gradients that value(i) and gradient(i) give.
  template <typename Value>
  Trained(Index count, const Value& value, bool decay = true)
      : m(Tensor<A, Device>::zeros(device(), {count})),
        v(Tensor<A, Device>::zeros(device(), {count})),
        master(device(), {count}),
        grad(Tensor<A, Device>::zeros(device(), {count})),
        p(device(), {count}),
        decays(decay) {
    std::vector<A> exact;
    std::vector<T> rounded;
    for (Index i = 0; i < count; ++i) {
      exact.push_back(static_cast<A>(value(i)));
      rounded.push_back(T(exact.back()));
    }
    p.assign(rounded);
    if constexpr (std::is_same_v<T, A>) {
      master = p;  // it is its own
    } else {
      master.assign(exact);
    }
  }

  template <typename Gradient>
  void gradients(const Gradient& gradient) {
    std::vector<A> values;
    for (Index i = 0; i < grad.size(); ++i) values.push_back(static_cast<A>(gradient(i)));
    grad.assign(values);
  }

  AdamWTensor<T> entry(double weight_decay) const {
    return {
        grad.size(), grad.data(), m.data(), v.data(), master.data(), p.data(), decays ? weight_decay : 0.0,
        rate};
  }
  std::vector<Numbers> all() const { return {host(p), host(master), host(m), host(v)}; }
};

template <typename T>
void update(const Settings& s, int t, std::initializer_list<const Trained<T>*> states) {
  std::vector<AdamWTensor<T>> list;
  for (const Trained<T>* state : states) list.push_back(state->entry(s.weight_decay));
  const auto rates = s.rates(t);
  const auto scale = number(s.scale);
  adamw_step(device(), std::span<const AdamWTensor<T>>(list), s.step(), rates.data(), scale.data());
}

template <typename T>
Trained<T> trained(const Settings& s, Index count, int steps) {
  Trained<T> state(count, [](Index i) { return wave(i); });
  for (int t = 1; t <= steps; ++t) {
    state.gradients([t](Index i) { return wave(i, t); });
    update(s, t, {&state});
  }
  return state;
}

/// Sums of squares of several gradients.
Numbers squares(const std::vector<std::vector<float>>& gradients) {
  std::vector<Tensor<float, Device>> tensors;
  std::vector<std::span<const float>> spans;
  for (const auto& g : gradients) {
    tensors.push_back(tensor<float>({static_cast<Index>(g.size())}, g));
    spans.emplace_back(tensors.back().data(), g.size());
  }
  Tensor<double, Device> sums(device(), {static_cast<Index>(spans.size())});
  poison(sums);
  sums_of_squares(device(), std::span<const std::span<const float>>(spans), sums.data());
  return host(sums);
}

}  // namespace

TEST_CASE_TEMPLATE("adamw: ten steps against the paper's loop", T, float, double) {
  constexpr Index count = 1003;
  for (double weight_decay : {0.0, 0.1}) {
    Settings s;
    s.weight_decay = weight_decay;
    const std::vector<double> expected = reference(s, count, 10);
    const Numbers got = host(trained<T>(s, count, 10).p);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
    CHECK(worst < 100 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
}

TEST_CASE("adamw: the first step is lr in the gradient's direction, whatever its size") {
  Settings s;
  s.weight_decay = 0;
  s.scale = 1;
  s.eps = 0;
  Trained<double> state(3, [](Index) { return 5; });
  state.grad.assign(Numbers{1e-12, -3, 1e12});
  update(s, 1, {&state});
  check_close(host(state.p), {4.99, 5.01, 4.99}, 1e-14);
  CHECK(host(state.m)[1] == doctest::Approx(-0.3).epsilon(1e-14));
  CHECK(host(state.v)[1] == doctest::Approx(0.45).epsilon(1e-14));
}

TEST_CASE("adamw: decay does not pass through the moments, and only where it is asked for") {
  const Settings s;
  const Trained<double> matrix(1, [](Index) { return 2; }), gain(
                                                                1, [](Index) { return 2; }, false);
  for (int t = 1; t <= 3; ++t) update(s, t, {&matrix, &gain});
  CHECK(host(matrix.p)[0] == doctest::Approx(2 * std::pow(1 - 0.001, 3)).epsilon(1e-15));
  CHECK(host(gain.p) == Numbers{2});
  CHECK(host(matrix.m) == Numbers{0});
  CHECK(host(matrix.v) == Numbers{0});
}

TEST_CASE_TEMPLATE("adamw: a parameter's rate is times lr, in its decay, too", T, float, double, bf16) {
  Settings s, slow;
  slow.lr = 0.25 * s.lr;  // exact
  const auto start = [](Index i) { return wave(i); };
  Trained<T> scaled(100, start), alone(100, start), beside(100, start);
  scaled.rate = 0.25;
  for (int t = 1; t <= 3; ++t) {
    for (Trained<T>* state : {&scaled, &alone, &beside})
      state->gradients([&](Index i) { return wave(i, t); });
    update(s, t, {&beside, &scaled});
    update(slow, t, {&alone});
  }
  for (std::size_t i = 0; i < 4; ++i) check_bits(scaled.all()[i], alone.all()[i]);
  CHECK(scaled.all()[0] != beside.all()[0]);
}

TEST_CASE("adamw: bf16 is the rounded float master, which never sees the rounding") {
  Settings s;
  s.lr = 1e-4;  // far below half a step of a bf16 near 1: without a master nothing would move
  s.weight_decay = 0;
  constexpr Index count = 1003;
  const Trained<bf16> half = trained<bf16>(s, count, 20);
  const Trained<float> full = trained<float>(s, count, 20);
  check_bits(host(half.master), host(full.p));
  check_bits(host(half.m), host(full.m));
  check_bits(host(half.v), host(full.v));
  Numbers rounded;
  for (const double x : host(half.master)) rounded.push_back(static_cast<double>(bf16(x)));
  check_bits(host(half.p), rounded);
  check_close(host(half.master), reference(s, count, 20), 1e-5);
}

TEST_CASE_TEMPLATE("adamw: the same bits at 1, 2 and 3 threads", T, float, double, bf16) {
  const Settings s;
  constexpr Index count = 20011;  // several chunks, the last one partial
  const auto one = trained<T>(s, count, 2).all();
  other_ways([&] {
    const auto again = trained<T>(s, count, 2).all();
    for (std::size_t i = 0; i < one.size(); ++i) check_bits(again[i], one[i]);
  });
}

TEST_CASE_TEMPLATE("adamw: a list of parameters is each of them alone", T, float, double, bf16) {
  const Settings s;
  std::vector<Trained<T>> together, alone;
  for (const Index count : {1, 7, 4096, 0, 100003}) {
    for (auto* states : {&together, &alone}) {
      states->emplace_back(
          count, [](Index i) { return wave(i); }, count != 7);
      states->back().gradients([](Index i) { return wave(i, 3); });
    }
  }
  for (int t = 1; t <= 2; ++t) {
    update(s, t, {&together[0], &together[1], &together[2], &together[3], &together[4]});
    for (const Trained<T>& state : alone) update(s, t, {&state});
  }
  for (std::size_t i = 0; i < alone.size(); ++i) {
    for (std::size_t j = 0; j < 4; ++j) check_bits(together[i].all()[j], alone[i].all()[j]);
  }
  adamw_step(device(), std::span<const AdamWTensor<T>>(), s.step(), s.rates(1).data(), number(1).data());
}

TEST_CASE_TEMPLATE("adamw: a scale that is NaN changes nothing", T, float, double, bf16) {
  Settings s;
  const Trained<T> state = trained<T>(s, 100, 2);
  const auto before = state.all();
  s.scale = std::numeric_limits<double>::quiet_NaN();
  update(s, 3, {&state});
  const auto after = state.all();
  for (std::size_t i = 0; i < before.size(); ++i) check_bits(after[i], before[i]);
}

TEST_CASE("sums_of_squares: whole numbers give the exact sums, at every length around a block") {
  std::vector<std::vector<float>> gradients;
  Numbers expected;
  for (Index count : {0, 1, 7, 8, 9, 16383, 16384, 16385, 50001}) {
    std::vector<float>& x = gradients.emplace_back();
    expected.push_back(0);
    for (Index i = 0; i < count; ++i) {
      x.push_back(static_cast<float>(i % 201 - 100));
      expected.back() += static_cast<double>(x.back()) * static_cast<double>(x.back());
    }
    CHECK(squares({x}) == Numbers{expected.back()});
  }
  CHECK(squares(gradients) == expected);
}

TEST_CASE("sums_of_squares: adds in double, with the same bits every time") {
  CHECK(squares({{1e30f, 3e-30f}})[0] == doctest::Approx(1e60).epsilon(1e-6));
  CHECK(squares({{1e-30f}})[0] == doctest::Approx(1e-60).epsilon(1e-6));
  std::vector<float> x;
  long double exact = 0;
  for (Index i = 0; i < 100003; ++i) {
    x.push_back(static_cast<float>(wave(i)));
    exact += static_cast<long double>(x.back()) * static_cast<long double>(x.back());
  }
  const double one = squares({x})[0];
  CHECK(one == doctest::Approx(static_cast<double>(exact)).epsilon(1e-13));
  other_ways([&] { CHECK(squares({x, {1}, x}) == Numbers{one, 1, one}); });
  x[7] = std::numeric_limits<float>::quiet_NaN();
  const Numbers bad = squares({{2}, x, {3}});
  CHECK(bad[0] == 4);
  CHECK(std::isnan(bad[1]));
  CHECK(bad[2] == 9);
}

namespace {
/// Norm and scale for given sums of squares.
struct Clip {
  Tensor<double, Device> halted = number(0);

  Numbers operator()(const Numbers& parts, double max_norm, bool remember = false) const {
    const auto squares = tensor<double>({static_cast<Index>(parts.size())}, parts);
    const auto norm = number(-1), scale = number(-1);
    clip_scale(device(), squares.size(), squares.data(), max_norm, norm.data(), scale.data(),
               remember ? halted.data() : nullptr);
    return {host(norm)[0], host(scale)[0]};
  }
};
}  // namespace

TEST_CASE("clip_scale: shrinks what is longer than allowed and nothing else") {
  const Clip clip;
  const Numbers parts = {9, 0, 16};
  CHECK(clip(parts, 1) == Numbers{5, 0.2});
  CHECK(clip(parts, 4) == Numbers{5, 0.8});
  CHECK(clip(parts, 5) == Numbers{5, 1});
  CHECK(clip(parts, 100) == Numbers{5, 1});
  CHECK(clip({9}, 1.5) == Numbers{3, 0.5});
  CHECK(clip(parts, 0) == Numbers{5, 1});  // measured even when nothing is clipped
  CHECK(clip(parts, -1) == Numbers{5, 1});
  CHECK(clip({}, 1) == Numbers{0, 1});
  CHECK(clip(Numbers(5000, 4.0), 1)[0] == doctest::Approx(std::sqrt(20000.0)).epsilon(1e-15));
}

TEST_CASE("clip_scale: a norm that is not finite stops this step, and with `halted` all later ones") {
  const Clip clip;
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), infinity}) {
    for (const double max_norm : {0.0, 1.0}) {
      clip.halted.assign(Numbers{0});
      const Numbers got = clip({4, bad, 9}, max_norm);
      CHECK(!std::isfinite(got[0]));
      CHECK(std::isnan(got[1]));
      CHECK(clip({4}, max_norm, true)[0] == 2);
      CHECK(host(clip.halted) == Numbers{0});
      CHECK(std::isnan(clip({bad}, max_norm, true)[1]));
      CHECK(host(clip.halted) == Numbers{1});
      const Numbers behind = clip({4}, max_norm, true);
      CHECK(behind[0] == 2);
      CHECK(std::isnan(behind[1]));
      CHECK(clip({4}, max_norm)[1] == (max_norm > 0 ? 0.5 : 1));
    }
  }
}
