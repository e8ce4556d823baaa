#include <mtpx/train/adamw.hpp>

#include "support/card.hpp"

#include <limits>
#include <map>
#include <set>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/adamw.hpp");

namespace {

/// What backward would leave.
template <typename P, typename A>
void set_gradient(P& parameter, const std::vector<A>& values) {
  (void)parameter.sink();
  parameter.slot()->grad.assign(values);
}

/// A matrix, a stack of matrices, a gain, and a matrix that the loss does not reach.
template <typename T>
struct Toy {
  Parameter<T, Device> matrix{test::device(), {3, 4}};
  StackedWeight<T, Device> stack{Parameter<T, Device>(test::device(), {2, 3, 2})};
  Parameter<acc_t<T>, Device> gain{test::device(), {5}};
  Parameter<T, Device> untouched{test::device(), {2, 2}};

  Toy() {
    std::uint64_t stream = 10;
    for_each_parameter(*this, [&](const std::string&, auto& p) {
      using N = typename std::remove_cvref_t<decltype(p)>::value_type;
      p.value().assign(random_tensor<N>(p.shape(), ++stream).to_host());
    });
  }

  const Device& device() const { return matrix.device(); }

  /// Pseudo-random gradients of size `scale`, as backward would leave them.
  void fill_gradients(int step, double scale) {
    std::uint64_t stream = 100 + 10 * static_cast<std::uint64_t>(step);
    for_each_parameter(*this, [&](const std::string& name, auto& p) {
      ++stream;
      if (name == "untouched" || p.frozen()) return;
      std::vector<acc_t<T>> values;
      for (Index i = 0; i < p.shape().size(); ++i)
        values.push_back(static_cast<acc_t<T>>(scale * uniform(stream, i)));
      set_gradient(p, values);
    });
  }

  static void members(auto& self, auto&& visit) {
    visit("matrix", self.matrix);
    visit("experts.stack", self.stack);
    visit("gain", self.gain);
    visit("untouched", self.untouched);
  }
};

template <typename T>
std::map<std::string, Numbers> values(Toy<T>& toy) {
  std::map<std::string, Numbers> all;
  for_each_parameter(toy, [&](const std::string& name, auto& p) { all[name] = host(p.value()); });
  return all;
}

template <typename T>
std::map<std::string, Numbers> gradients(Toy<T>& toy) {
  std::map<std::string, Numbers> all;
  for_each_parameter(toy, [&](const std::string& name, auto& p) { all[name] = host(p.grad()); });
  return all;
}

/// A module of one parameter, which stands in another.
struct Alone {
  Parameter<double, Device>& one;

  static void members(auto& self, auto&& visit) { visit("one", self.one); }
  const Device& device() const { return one.device(); }
};

/// Loshchilov & Hutter 2019, algorithm 2, one number at a time.
struct NaiveAdamW {
  AdamWOptions options;
  int t = 0;
  std::map<std::string, Numbers> p, m, v;

  void step(const std::map<std::string, Numbers>& grads, double clip, double lr) {
    ++t;
    for (const auto& [name, g] : grads) {
      if (g.empty()) continue;
      m[name].resize(g.size(), 0.0);
      v[name].resize(g.size(), 0.0);
      const double decay = name == "gain" ? 0.0 : options.weight_decay;
      for (std::size_t i = 0; i < g.size(); ++i) {
        double& mi = m[name][i];
        double& vi = v[name][i];
        double& pi = p[name][i];
        mi = options.beta1 * mi + (1 - options.beta1) * clip * g[i];
        vi = options.beta2 * vi + (1 - options.beta2) * clip * g[i] * clip * g[i];
        const double mean = mi / (1 - std::pow(options.beta1, t));
        const double square = vi / (1 - std::pow(options.beta2, t));
        pi -= lr * (mean / (std::sqrt(square) + options.eps) + decay * pi);
      }
    }
  }
};

double norm_of(const std::map<std::string, Numbers>& grads) {
  double squares = 0;
  for (const auto& [name, g] : grads) {
    for (const double x : g) squares += x * x;
  }
  return std::sqrt(squares);
}

/// A module without device().
struct Plain {
  Toy<double> toy;
  static void members(auto& self, auto&& visit) { visit("", self.toy); }
};

}  // namespace

TEST_CASE("clip_norm: the global norm over every gradient, and min(1, max / norm)") {
  Toy<double> toy;
  CHECK(host(clip_norm(toy, 1.0).norm) == Numbers{0.0});  // no gradient yet
  CHECK(host(clip_norm(toy, 1.0).scale) == Numbers{1.0});
  toy.fill_gradients(0, 2.0);
  const double norm = norm_of(gradients(toy));
  CHECK(norm > 1);
  const auto clip = clip_norm(toy, 0.5);
  CHECK(host(clip.norm)[0] == doctest::Approx(norm).epsilon(1e-14));
  CHECK(host(clip.scale)[0] == doctest::Approx(0.5 / norm).epsilon(1e-14));
  CHECK(host(clip_norm(toy, 1000.0).scale) == Numbers{1.0});
  CHECK(host(clip_norm(toy, 0).scale) == Numbers{1.0});  // 0: no clipping
}

TEST_CASE("clip_norm: a norm that is not finite, or a watched number, scales by NaN; `halted` remembers it") {
  Toy<double> toy;
  toy.fill_gradients(0, 2.0);
  const double norm = host(clip_norm(toy, 0).norm)[0];
  const auto halted = tensor<double>({1}, {0});
  const auto fine = tensor<double>({2}, {1e300, -3});
  CHECK(host(clip_norm(toy, 0, halted, fine).norm) == Numbers{norm});  // nothing is added to it
  CHECK(host(clip_norm(toy, 0, halted, fine).scale) == Numbers{1});
  CHECK(host(halted) == Numbers{0});
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
    const auto watched = tensor<double>({2}, {1, bad});
    CHECK(std::isnan(host(clip_norm(toy, 1, {}, watched).scale)[0]));
    CHECK(std::isnan(host(clip_norm(toy, 0, {}, tensor<float>({1}, {static_cast<float>(bad)})).scale)[0]));
    CHECK(host(clip_norm(toy, 0).scale) == Numbers{1});
    CHECK(std::isnan(host(clip_norm(toy, 1, halted, watched).norm)[0]));
    CHECK(host(halted) == Numbers{1});
    const auto behind = clip_norm(toy, 1, halted, fine);
    CHECK(host(behind.norm) == Numbers{norm});
    CHECK(std::isnan(host(behind.scale)[0]));
    halted.assign(Numbers{0});
    toy.fill_gradients(0, 2.0 * bad);
    CHECK(std::isnan(host(clip_norm(toy, 1, halted).scale)[0]));
    CHECK(host(halted) == Numbers{1});
    halted.assign(Numbers{0});
    toy.fill_gradients(0, 2.0);
  }
}

TEST_CASE("AdamW: a step whose scale is NaN changes nothing, and can be taken back") {
  Toy<bf16> toy, reference;
  AdamW<bf16, Device> optimizer, other;
  optimizer.reserve(toy);  // moments from the start are the same moments
  for (int step = 0; step < 4; ++step) {
    if (step == 2) {
      const auto before = values(toy);
      toy.fill_gradients(step, std::numeric_limits<double>::quiet_NaN());
      optimizer.step(toy, clip_norm(toy, 1), 0.01);
      for (const auto& [name, numbers] : values(toy)) check_bits(numbers, before.at(name), name);
      for (const auto& [name, numbers] : gradients(toy)) CHECK(numbers.empty());
      CHECK(optimizer.steps() == 3);
      optimizer.set_steps(2);
    }
    toy.fill_gradients(step, 1.0);
    reference.fill_gradients(step, 1.0);
    optimizer.step(toy, clip_norm(toy, 1), 0.01);
    other.step(reference, clip_norm(reference, 1), 0.01);
  }
  const auto want = values(reference);
  for (const auto& [name, numbers] : values(toy)) check_bits(numbers, want.at(name), name);
}

TEST_CASE("AdamW: 20 steps against a naive reference in double, clipped, decay on matrices only") {
  const AdamWOptions options{0.8, 0.9, 1e-6, 0.1};
  Toy<double> toy;
  AdamW<double, Device> optimizer(options);
  NaiveAdamW naive{options, 0, values(toy), {}, {}};
  const Numbers before = host(toy.untouched.value());
  for (int step = 0; step < 20; ++step) {
    toy.fill_gradients(step, step % 3 == 0 ? 0.01 : 5.0);
    const double clip = std::min(1.0, 1.0 / norm_of(gradients(toy)));
    naive.step(gradients(toy), clip, 0.01 * (step + 1));
    optimizer.step(toy, clip_norm(toy, 1.0), 0.01 * (step + 1));
    for (const auto& [name, g] : gradients(toy)) CHECK(g.empty());  // forgotten
  }
  CHECK(optimizer.steps() == 20);
  for (const auto& [name, p] : values(toy)) check_close(p, naive.p.at(name), 1e-12, name);
  check_bits(host(toy.untouched.value()), before, "without a gradient");
}

TEST_CASE("AdamW: a step that clips itself, also of a module without device()") {
  for (const double max_norm : {0.0, 0.5}) {
    Plain plain;
    Toy<double> toy;
    AdamW<double, Device> one, other;
    for (int step = 0; step < 3; ++step) {
      plain.toy.fill_gradients(step, 3);
      toy.fill_gradients(step, 3);
      if (max_norm > 0) one.step(plain, 0.1, max_norm);
      if (max_norm == 0) one.step(plain, 0.1);
      other.step(toy, clip_norm(toy, max_norm), 0.1);
    }
    for (const auto& [name, numbers] : values(toy)) check_bits(values(plain.toy).at(name), numbers, name);
  }
}

TEST_CASE("AdamW: a zero gradient decays matrices and leaves gains") {
  Toy<double> toy;
  const auto before = values(toy);
  toy.fill_gradients(0, 0.0);
  AdamW<double, Device> optimizer({.weight_decay = 0.5});
  optimizer.step(toy, clip_norm(toy, 1.0), 0.125);
  const auto after = values(toy);
  for (const std::string name : {"matrix", "experts.stack.weight"}) {
    for (std::size_t i = 0; i < before.at(name).size(); ++i)
      CHECK(after.at(name)[i] == doctest::Approx(before.at(name)[i] * (1 - 0.125 * 0.5)).epsilon(1e-15));
  }
  check_bits(after.at("gain"), before.at("gain"));
}

TEST_CASE("AdamW: groups have rates and decays of their own, by name") {
  const auto run = [](Toy<double>& toy, const AdamWOptions& options, double lr) {
    AdamW<double, Device> optimizer(options);
    for (int step = 0; step < 3; ++step) {
      toy.fill_gradients(step, 1.0);
      optimizer.step(toy, clip_norm(toy, 0), lr);
    }
    return values(toy);
  };
  AdamWOptions grouped;
  std::set<std::string> names;
  grouped.group = [&](const std::string& name, AdamWGroup usual) -> AdamWGroup {
    names.insert(name);
    if (name == "matrix") return {.rate = 0.5, .weight_decay = 0.0};
    if (name == "gain") usual.rate = 0;
    return usual;
  };
  Toy<double> toy, plain, half;
  const auto before = values(toy);
  const auto got = run(toy, grouped, 0.01), want = run(plain, {}, 0.01);
  const auto slower = run(half, {.weight_decay = 0}, 0.005);
  CHECK(names == std::set<std::string>{"matrix", "experts.stack.weight", "gain"});
  check_bits(got.at("matrix"), slower.at("matrix"));
  check_bits(got.at("experts.stack.weight"), want.at("experts.stack.weight"));
  check_bits(got.at("gain"), before.at("gain"));
}

TEST_CASE("AdamW: a parameter that is frozen later stays, and others keep their own moments") {
  Toy<double> toy, reference;
  AdamW<double, Device> optimizer, other;
  Numbers frozen;
  for (int step = 0; step < 4; ++step) {
    if (step == 2) {
      toy.matrix.freeze();
      frozen = host(toy.matrix.value());
    }
    toy.fill_gradients(step, 1.0);
    reference.fill_gradients(step, 1.0);
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
    other.step(reference, clip_norm(reference, 0), 0.01);
  }
  check_bits(host(toy.matrix.value()), frozen, "frozen");
  check_bits(values(toy).at("gain"), values(reference).at("gain"));
  check_bits(values(toy).at("experts.stack.weight"), values(reference).at("experts.stack.weight"));
}

TEST_CASE("AdamW: one optimiser, several modules with equal names: each as with one of its own") {
  Toy<bf16> first, second, first_alone, second_alone;
  second.gain.value().assign(std::vector<float>{1, 2, 3, 4, 5});
  second_alone.gain.value().assign(std::vector<float>{1, 2, 3, 4, 5});
  AdamW<bf16, Device> both, one, other;
  for (int step = 0; step < 6; ++step) {
    for (Toy<bf16>* toy : {&first, &first_alone}) toy->fill_gradients(step, 1.0);
    for (Toy<bf16>* toy : {&second, &second_alone}) toy->fill_gradients(step + 100, 3.0);
    both.begin_step(device(), 0.01);
    both.update(first, clip_norm(first, 0));
    both.update(second, clip_norm(second, 0));
    one.step(first_alone, clip_norm(first_alone, 0), 0.01);
    other.step(second_alone, clip_norm(second_alone, 0), 0.01);
  }
  CHECK(both.steps() == 6);
  const auto compare = [](Toy<bf16>& got, Toy<bf16>& want) {
    const auto expected = values(want);
    for (const auto& [name, numbers] : values(got)) check_bits(numbers, expected.at(name), name);
  };
  compare(first, first_alone);
  compare(second, second_alone);
}

TEST_CASE("AdamW: a step on a larger module is a step on other parameters") {
  // By position, the moments of the first would be written beyond their end.
  Parameter<double, Device> little(tensor<double>({2}, {1, 1}));
  Parameter<double, Device> large(tensor<double>({4000}, Numbers(4000, 1.0)));
  AdamW<double, Device> optimizer({.eps = 0, .weight_decay = 0});
  for (Parameter<double, Device>* one : {&little, &large}) {
    Alone module{*one};
    set_gradient(*one, Numbers(static_cast<std::size_t>(one->shape().size()), 3.0));
    optimizer.set_steps(0);
    optimizer.step(module, clip_norm(module, 0), 0.25);
    check_close(host(one->value()), Numbers(static_cast<std::size_t>(one->shape().size()), 0.75), 1e-14);
  }
}

TEST_CASE("AdamW: freezing, thawing, parts that come and go: nobody takes over another's moments") {
  Toy<double> toy, reference;
  std::map<std::string, AdamW<double, Device>> apart;  // an optimiser for each parameter
  AdamW<double, Device> optimizer;
  for (int step = 0; step < 8; ++step) {
    toy.matrix.freeze(step == 2 || step == 3);
    toy.gain.freeze(step == 3 || step == 4);
    if (step == 5) {  // another in its place, that begins anew
      toy.untouched = Parameter<double, Device>(device(), {4, 4});
      reference.untouched = Parameter<double, Device>(device(), {4, 4});
      apart.erase("untouched");
      for (Toy<double>* of : {&toy, &reference})
        of->untouched.value().assign(random_tensor<double>({4, 4}, 5).to_host());
    }
    toy.fill_gradients(step, 1.0);
    set_gradient(toy.untouched, Numbers(static_cast<std::size_t>(toy.untouched.shape().size()), step + 0.5));
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
    reference.fill_gradients(step, 1.0);
    set_gradient(reference.untouched,
                 Numbers(static_cast<std::size_t>(toy.untouched.shape().size()), step + 0.5));
    const auto clip = clip_norm(reference, 0);
    for_each_parameter(reference, [&](const std::string& name, auto& p) {
      Alone alone{p};
      const bool frozen = (name == "matrix" && toy.matrix.frozen()) || (name == "gain" && toy.gain.frozen());
      if (frozen) p.zero_grad();
      AdamW<double, Device>& its_own = apart[name];
      its_own.set_steps(step);
      its_own.step(alone, clip, 0.01);
    });
  }
  const auto want = values(reference);
  for (const auto& [name, numbers] : values(toy)) check_bits(numbers, want.at(name), name);
}

TEST_CASE("AdamW: what is kept of parameters that are gone is dropped when others come") {
  AdamW<bf16, Device> optimizer;
  std::vector<std::size_t> held;
  for (int run = 0; run < 4; ++run) {
    Toy<bf16> toy;
    toy.fill_gradients(run, 1.0);
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
    held.push_back(device().pool().bytes_in_use());
  }
  CHECK(held[2] == held[1]);
  CHECK(held[3] == held[1]);
}

TEST_CASE("AdamW: state by published name, experts one by one; it goes on in another optimiser") {
  Toy<bf16> toy, resumed;
  AdamW<bf16, Device> optimizer, other;
  for (int step = 0; step < 3; ++step) {
    toy.fill_gradients(step, 1.0);
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
  }
  std::map<std::string, Numbers> state;
  std::vector<std::string> names;
  toy.gain.freeze();       // has state
  toy.untouched.freeze();  // has none
  optimizer.for_each_state(toy, [&](const std::string& name, const auto& tensor) {
    names.push_back(name);
    state[name] = host(tensor);
    if (name.starts_with("experts.1.stack.weight")) CHECK(tensor.shape() == Shape{3, 2});
  });
  CHECK(names == std::vector<std::string>{
                     "matrix.exp_avg", "experts.0.stack.weight.exp_avg", "experts.1.stack.weight.exp_avg",
                     "gain.exp_avg", "matrix.exp_avg_sq", "experts.0.stack.weight.exp_avg_sq",
                     "experts.1.stack.weight.exp_avg_sq", "gain.exp_avg_sq", "matrix.master",
                     "experts.0.stack.weight.master", "experts.1.stack.weight.master"});
  for (const auto& entry : state)
    CHECK_MESSAGE(entry.second != Numbers(entry.second.size(), 0.0), entry.first);
  toy.gain.freeze(false);
  // Weights and state, and the count.
  std::map<std::string, Numbers> weights = values(toy);
  for_each_parameter(resumed, [&](const std::string& name, auto& p) {
    using N = typename std::remove_cvref_t<decltype(p)>::value_type;
    std::vector<N> numbers;
    for (const double x : weights.at(name)) numbers.push_back(N(static_cast<float>(x)));
    p.value().assign(numbers);
  });
  other.for_each_state(resumed, [&](const std::string& name, const auto& tensor) {
    if (name.starts_with("untouched")) return;
    tensor.assign(std::vector<float>(state.at(name).begin(), state.at(name).end()));
  });
  other.set_steps(optimizer.steps());
  for (int step = 3; step < 6; ++step) {
    toy.fill_gradients(step, 1.0);
    resumed.fill_gradients(step, 1.0);
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
    other.step(resumed, clip_norm(resumed, 0), 0.01);
  }
  const auto want = values(toy);
  for (const auto& [name, numbers] : values(resumed)) check_bits(numbers, want.at(name), name);
}

TEST_CASE("AdamW: moves with its state, is not copied; a gradient of another shape is an error") {
  using Optimizer = AdamW<double, Device>;
  CHECK(!std::is_copy_constructible_v<Optimizer>);
  CHECK(!std::is_copy_assignable_v<Optimizer>);
  Toy<double> toy, reference;
  Optimizer optimizer, other;
  for (int step = 0; step < 4; ++step) {
    toy.fill_gradients(step, 1.0);
    reference.fill_gradients(step, 1.0);
    Optimizer moved = std::move(optimizer);
    moved.step(toy, clip_norm(toy, 0), 0.01);
    optimizer = std::move(moved);
    other.step(reference, clip_norm(reference, 0), 0.01);
  }
  CHECK(optimizer.steps() == 4);
  const auto want = values(reference);
  for (const auto& [name, numbers] : values(toy)) check_bits(numbers, want.at(name), name);

  set_gradient(toy.gain, Numbers(5, 1.0));
  toy.gain.slot()->grad = tensor<double>({7}, Numbers(7, 1.0));
  std::string text;
  try {
    optimizer.step(toy, clip_norm(toy, 0), 0.01);
  } catch (const ShapeError& error) {
    text = error.what();
  }
  CHECK(text ==
        "[adamw] the gradient of gain must have the shape of its state\n  gradient: [7]\n  state: [5]");
}

TEST_CASE("AdamW: bf16 weights have float masters, so that steps below their resolution add up") {
  Toy<bf16> toy;
  const auto before = values(toy);
  AdamW<bf16, Device> optimizer({.weight_decay = 0});
  const auto step = [&] {
    for_each_parameter(toy, [&](const std::string& name, auto& p) {
      if (name == "untouched") return;
      set_gradient(p, std::vector<float>(static_cast<std::size_t>(p.shape().size()), 1.0f));
    });
    optimizer.step(toy, clip_norm(toy, 0), 1e-4);
  };
  const int steps = 100;
  for (int i = 0; i < steps; ++i) step();
  const auto after = values(toy);
  for (const std::string name : {"matrix", "experts.stack.weight"}) {
    for (std::size_t i = 0; i < before.at(name).size(); ++i) {
      // A constant gradient moves by lr a step; the rest is one rounding to bf16.
      const double want = before.at(name)[i] - steps * 1e-4;
      CHECK(std::abs(after.at(name)[i] - want) <= std::abs(want) * 0x1p-8 + 1e-5);
    }
  }
}

TEST_SUITE_END();
