// Gradient norm, clipping and AdamW over several tensors at once.

#include <mtpx/train/adamw.hpp>

#include "twins/twins.hpp"

#include <map>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: optimiser");

namespace {

/// Tensors below, at and above the blocks of the sums, and one of another type.
template <typename T, typename D>
struct Several {
  Parameter<T, D> large{test::device<D>(), {300, 257}}, one{test::device<D>(), {1, 1}},
      odd{test::device<D>(), {7, 33}}, untouched{test::device<D>(), {2, 2}};
  Parameter<acc_t<T>, D> gain{test::device<D>(), {384}};

  Several() {
    std::uint64_t stream = 10;
    for_each_parameter(*this, [&](const std::string&, auto& p) {
      using N = typename std::remove_cvref_t<decltype(p)>::value_type;
      p.value().assign(random_tensor<N, D>(p.shape(), ++stream).to_host());
    });
  }
  const D& device() const { return large.device(); }

  void fill_gradients(int step, double scale) {
    std::uint64_t stream = 100 + 10 * static_cast<std::uint64_t>(step);
    for_each_parameter(*this, [&](const std::string& name, auto& p) {
      if (name == "untouched") return;
      (void)p.sink();
      p.grad().assign(random_tensor<acc_t<T>, Cpu>(p.shape(), ++stream, scale).to_host());
    });
  }

  static void members(auto& self, auto&& visit) {
    visit("large", self.large);
    visit("one", self.one);
    visit("odd", self.odd);
    visit("untouched", self.untouched);
    visit("gain", self.gain);
  }
};

struct Outcome {
  Numbers norms, scales;
  std::map<std::string, Numbers> values;
};

/// Three steps; the last gradient is `last`, which may be infinite.
template <typename T, typename D>
Outcome run(double last) {
  Several<T, D> several;
  AdamWOptions options;
  options.group = [](const std::string& name, AdamWGroup usual) {
    return name == "odd" ? AdamWGroup{.rate = 0.3, .weight_decay = 0.02} : usual;
  };
  AdamW<T, D> optimizer(options);
  Outcome outcome;
  for (int step = 0; step < 3; ++step) {
    several.fill_gradients(step, step == 2 ? last : 0.5);
    const auto clip = clip_norm(several, 1.0);
    outcome.norms.push_back(host(clip.norm)[0]);
    outcome.scales.push_back(host(clip.scale)[0]);
    optimizer.step(several, clip, 1e-2);
  }
  for_each_parameter(several,
                     [&](const std::string& name, auto& p) { outcome.values[name] = host(p.value()); });
  return outcome;
}

template <typename T>
void check(double last, double bound) {
  const AllDigits digits;
  const Outcome got = run<T, Cuda>(last), want = run<T, Cpu>(last);
  if (std::isfinite(last)) {
    check_close(got.norms, want.norms, no_difference<double>(), "norm");
    check_close(got.scales, want.scales, no_difference<double>(), "scale");
  } else {
    CHECK(std::isnan(got.scales[2]));
    CHECK(std::isnan(want.scales[2]));
  }
  for (const auto& [name, numbers] : got.values) check_close(numbers, want.values.at(name), bound, name);
}

}  // namespace

TEST_CASE("twins: clip_norm and AdamW; a step that is not finite changes nothing") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double last : {0.5, 1e-4, infinity}) {
    CAPTURE(last);
    check<double>(last, no_difference<double>());
    check<float>(last, no_difference<float>());
    check<bf16>(last, no_difference<float>());  // masters are float, and rounded once
  }
}

TEST_SUITE_END();
