#include <mtpx/nn/yarn.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/nn/yarn.hpp");

TEST_CASE("rope_frequencies: theta^(-2i/d) without stretching") {
  const auto f = rope_frequencies(8, 10000, {});
  REQUIRE(f.size() == 4);
  CHECK(f[0] == 1.0);
  CHECK(f[1] == doctest::Approx(0.1).epsilon(1e-15));
  CHECK(f[2] == doctest::Approx(0.01).epsilon(1e-15));
  CHECK(f[3] == doctest::Approx(0.001).epsilon(1e-15));
}

TEST_CASE("rope_frequencies: YaRN keeps fast pairs, divides slow ones, and is between them elsewhere") {
  const auto plain = rope_frequencies(64, 10000, {});
  const auto stretched = rope_frequencies(64, 10000, RopeScaling{40, 4096, 32, 1, 1, 1});
  for (std::size_t i = 0; i < 32; ++i) {
    if (i <= 10) CHECK(stretched[i] == plain[i]);
    if (i >= 23) CHECK(stretched[i] == plain[i] / 40);
    if (i > 10 && i < 23) CHECK((stretched[i] < plain[i] && stretched[i] > plain[i] / 40));
    if (i > 0) CHECK(stretched[i] < stretched[i - 1]);
  }
}

TEST_CASE("rope_frequencies: the ramp stays inside the head and never divides by zero") {
  // Both corrections fall on the same place: the ramp is a step there.
  const auto step = rope_frequencies(4, 10000, RopeScaling{2, 6, 0.9, 0.9, 1, 1});
  for (const double f : step) CHECK(std::isfinite(f));
  // c(beta_slow) far above the head: high is cut to d - 1 = 3, so that the ramp at pair 1 is 1/3.
  const auto cut = rope_frequencies(4, 10, RopeScaling{10, 1024, 100, 1e-9, 1, 1});
  CHECK(cut[1] == doctest::Approx(std::pow(10.0, -0.5) * (2.0 / 3 + 0.1 / 3)).epsilon(1e-14));
  // c(beta_fast) below zero: low is cut to 0, so that pair 0 is not touched.
  const auto low = rope_frequencies(64, 10000, RopeScaling{10, 8, 32, 0.001, 1, 1});
  CHECK(low[0] == 1.0);
  CHECK(low[1] < std::pow(10000.0, -2.0 / 64));
}

TEST_CASE("yarn_mscale, rope_magnitude, attention_scale") {
  CHECK(yarn_mscale(1, 1) == 1.0);
  CHECK(yarn_mscale(0.5, 1) == 1.0);
  CHECK(yarn_mscale(40, 0) == 1.0);
  CHECK(yarn_mscale(40, 0.707) == doctest::Approx(1 + 0.0707 * std::log(40.0)).epsilon(1e-15));

  CHECK(rope_magnitude({}) == 1.0);
  CHECK(rope_magnitude(RopeScaling{40, 4096, 32, 1, 1, 1}) == 1.0);
  CHECK(rope_magnitude(RopeScaling{40, 4096, 32, 1, 1, 0}) == doctest::Approx(1.3688879454).epsilon(1e-10));

  CHECK(attention_scale(192, {}) == doctest::Approx(0.0721687836).epsilon(1e-9));
  CHECK(attention_scale(16, RopeScaling{40, 4096, 32, 1, 1, 0}) == 0.25);
  CHECK(attention_scale(16, RopeScaling{1, 4096, 32, 1, 1, 1}) == 0.25);
}

TEST_SUITE_END();
