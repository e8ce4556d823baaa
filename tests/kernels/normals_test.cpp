// The distribution of initial weights, and the kernel that draws it.

#include <mtpx/kernels.hpp>

#include "support/card.hpp"

#include <array>
#include <cmath>
#include <numbers>
#include <vector>

using namespace mtpx;
using namespace mtpx::test;

namespace {

/// Normal floats as a scalar computes them, block by block.
std::array<float, 4> scalar_normals(const std::array<std::uint32_t, 4>& block) {
  const std::uint32_t words[4] = {block[0], block[1], block[2], block[3]};
  float n[4];
  exact::normals<float>(
      words, [](float x) { return std::sqrt(x); }, n);
  return {n[0], n[1], n[2], n[3]};
}

template <typename T>
std::vector<T> drawn(Index count, std::uint64_t seed, std::uint64_t stream, double deviation) {
  const Tensor<T, Device> y(device(), {count});
  draw_normals(device(), count, seed, stream, deviation, y.data());
  return y.to_host();
}

/// Numbers, spare ones behind them included, after drawing `count` from the `skip`-th place of memory on.
template <typename T>
Numbers drawn_inside(Index count, Index skip) {
  const Tensor<T, Device> y(device(), {count + skip + 3});
  fill_value(device(), y.size(), T(-7.0F), y.data());
  draw_normals(device(), count, 5, 6, 0.02, y.data() + skip);
  return host(y);
}

template <typename T>
void check_kernel() {
  for (const Index count : {0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 127, 1000, 40001}) {
    for (const Index skip : {0, 1, 2}) {
      INFO("count " << count << ", skip " << skip);
      Numbers want(static_cast<std::size_t>(count + skip + 3), -7.0);
      for (Index i = 0; i < count; ++i) {
        const auto n = scalar_normals(Philox::block(5, 6, static_cast<std::uint64_t>(i / 4)));
        using A = acc_t<T>;
        want[static_cast<std::size_t>(skip + i)] =
            static_cast<double>(T(static_cast<A>(0.02) * static_cast<A>(n[static_cast<std::size_t>(i % 4)])));
      }
      check_bits(drawn_inside<T>(count, skip), want);
      other_ways([&] { check_bits(drawn_inside<T>(count, skip), want); });
    }
  }
}

}  // namespace

TEST_CASE("draw_normals: registers of any width and any number of threads give a scalar's bits") {
  check_kernel<float>();
  check_kernel<double>();
  check_kernel<bf16>();
}

TEST_CASE("draw_normals: bf16 numbers are the float ones rounded; a seed and a stream each change them") {
  const auto one = drawn<float>(4000, 1, 2, 0.02);
  const auto half = drawn<bf16>(4000, 1, 2, 0.02);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(half[i].bits == bf16(one[i]).bits);
  CHECK(drawn<float>(4000, 2, 2, 0.02) != one);
  CHECK(drawn<float>(4000, 1, 3, 0.02) != one);
}

TEST_CASE("fill_value: every number and no other, at 1, 2 and 3 threads") {
  for (const Index count : {0, 1, 40000, 100001}) {
    const auto filled = [&] {
      const Tensor<float, Device> y(device(), {count + 1});
      draw_normals(device(), count + 1, 1, 1, 1.0, y.data());
      fill_value(device(), count, 2.5F, y.data());
      return host(y);
    };
    Numbers want(static_cast<std::size_t>(count), 2.5);
    want.push_back(static_cast<double>(drawn<float>(count + 1, 1, 1, 1.0).back()));
    check_bits(filled(), want);
    other_ways([&] { check_bits(filled(), want); });
  }
}

TEST_CASE("normals: Box and Muller's formula of the words, to a few units of the last place") {
  // Words of special angles and radii first, then any.
  const std::vector<std::uint32_t> special{0,           1,           2,           0x1fffffffu, 0x20000000u,
                                           0x20000001u, 0x3fffffffu, 0x40000000u, 0x5fffffffu, 0x60000000u,
                                           0x7fffffffu, 0x80000000u, 0x9fffffffu, 0xa0000000u, 0xbfffffffu,
                                           0xc0000000u, 0xdfffffffu, 0xe0000000u, 0xfffffffeu, 0xffffffffu};
  double worst = 0, largest = 0;
  const auto check = [&](std::uint32_t w, std::uint32_t turn) {
    const auto n = scalar_normals({w, turn, turn, w});
    const auto pair = [&](std::uint32_t of_radius, std::uint32_t of_angle, float x, float y) {
      const auto word = static_cast<double>(static_cast<float>(of_radius >> 1));
      const auto u = static_cast<double>(static_cast<float>(word * 0x1p-31 + 0x1p-32));
      CHECK(u > 0);
      const double r = std::sqrt(-2 * std::log(u)), a = 2 * std::numbers::pi * of_angle * 0x1p-32;
      worst = std::max(worst, std::abs(static_cast<double>(x) - r * std::cos(a)) / (r + 1e-30));
      worst = std::max(worst, std::abs(static_cast<double>(y) - r * std::sin(a)) / (r + 1e-30));
      largest = std::max({largest, std::abs(static_cast<double>(x)), std::abs(static_cast<double>(y))});
    };
    pair(w, turn, n[0], n[1]);
    pair(turn, w, n[2], n[3]);
  };
  for (const std::uint32_t w : special) {
    for (const std::uint32_t turn : special) check(w, turn);
  }
  CHECK(largest == doctest::Approx(std::sqrt(64 * std::numbers::ln2)));  // u = 2^-32
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const auto words = Philox::block(3, 1, i);
    check(words[0], words[1]);
  }
  MESSAGE("largest error: " << worst << " of the radius");
  CHECK(worst < 3e-7);
  CHECK(scalar_normals({0xffffffffu, 12345, 0, 0})[0] == 0);
}

TEST_CASE("log_of_normal: floats within two units in the last place") {
  double worst = 0;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const auto words = Philox::block(4, 1, i);
    // Any exponent, and every second one close to 1.
    const float x = i % 2 == 0 ? std::ldexp(1 + static_cast<float>(words[0] >> 9) * 0x1p-23F,
                                            static_cast<int>(words[1] % 250) - 125)
                               : 1 + (static_cast<float>(words[0] >> 9) * 0x1p-23F - 0.5F) * 0.01F;
    const double want = std::log(static_cast<double>(x));
    if (want == 0) {
      CHECK(exact::log_of_normal(x) == 0);
      continue;
    }
    const double unit = std::ldexp(1.0, std::ilogb(want) - 23);
    worst = std::max(worst, std::abs(static_cast<double>(exact::log_of_normal(x)) - want) / unit);
  }
  MESSAGE("largest error: " << worst << " units in the last place");
  CHECK(worst < 2);
}

// Bounds: what a run with another seed passes 999 times of 1000 or oftener. The seed is fixed.
TEST_CASE("normals: ten million numbers are standard normal") {
  constexpr Index count = 10'000'000;
  constexpr auto n = static_cast<double>(count);
  const auto numbers = drawn<float>(count, 11, 12, 1.0);

  double sum = 0, squares = 0, cubes = 0, fourths = 0, largest = 0;
  constexpr std::size_t bins = 1 << 12;
  std::vector<double> in_bin(bins);
  std::array<double, 6> beyond{};  // |x| > 1, 2, 3, 4, 4.5, 5
  constexpr std::array<double, 6> tails{1, 2, 3, 4, 4.5, 5};
  for (const float f : numbers) {
    const auto x = static_cast<double>(f), xx = x * x;
    sum += x;
    squares += xx;
    cubes += xx * x;
    fourths += xx * xx;
    largest = std::max(largest, std::abs(x));
    const double below = 0.5 * std::erfc(-x / std::numbers::sqrt2);  // P(X < x)
    ++in_bin[std::min(bins - 1, static_cast<std::size_t>(below * static_cast<double>(bins)))];
    for (std::size_t t = 0; t < tails.size(); ++t) beyond[t] += std::abs(x) > tails[t] ? 1 : 0;
  }
  MESSAGE("mean " << sum / n << ", mean square " << squares / n << ", mean cube " << cubes / n
                  << ", mean fourth power " << fourths / n << ", largest " << largest);
  // Variances of x, x^2, x^3, x^4: 1, 2, 15, 96.
  CHECK(std::abs(sum / n) < 3.3 * std::sqrt(1 / n));
  CHECK(std::abs(squares / n - 1) < 3.3 * std::sqrt(2 / n));
  CHECK(std::abs(cubes / n) < 3.3 * std::sqrt(15 / n));
  CHECK(std::abs(fourths / n - 3) < 3.3 * std::sqrt(96 / n));

  // Kolmogorov and Smirnov's distance at the edges of the bins, and chi squared over the bins.
  double distance = 0, chi = 0, before = 0;
  constexpr double expected = n / static_cast<double>(bins);
  for (std::size_t b = 0; b < bins; ++b) {
    chi += (in_bin[b] - expected) * (in_bin[b] - expected) / expected;
    before += in_bin[b];
    distance =
        std::max(distance, std::abs(before / n - static_cast<double>(b + 1) / static_cast<double>(bins)));
  }
  const double off = (chi - (bins - 1)) / std::sqrt(2.0 * (bins - 1));
  MESSAGE("sqrt(n) KS " << std::sqrt(n) * distance << ", chi squared " << off << " deviations off");
  CHECK(std::sqrt(n) * distance < 1.95);
  CHECK(std::abs(off) < 3.3);

  for (std::size_t t = 0; t < tails.size(); ++t) {
    const double want = n * std::erfc(tails[t] / std::numbers::sqrt2);
    MESSAGE("beyond " << tails[t] << ": " << beyond[t] << " of " << want);
    CHECK(std::abs(beyond[t] - want) < 3.3 * std::sqrt(want) + 1);
  }

  // Neighbours, those of the next blocks and registers: neither values nor squares go together.
  for (const std::size_t lag : std::vector<std::size_t>{1, 2, 3, 4, 5, 7, 8, 16, 28, 32, 64, 4096}) {
    double values = 0, powers = 0;
    for (std::size_t i = lag; i < numbers.size(); ++i) {
      const auto x = static_cast<double>(numbers[i]), y = static_cast<double>(numbers[i - lag]);
      values += x * y;
      powers += (x * x - 1) * (y * y - 1);
    }
    INFO("lag " << lag);
    CHECK(std::abs(values / n) < 3.5 * std::sqrt(1 / n));
    CHECK(std::abs(powers / n) < 3.5 * std::sqrt(4 / n));
  }
  // Nor do those of the next stream and the next seed.
  for (const auto& other : {drawn<float>(count, 11, 13, 1.0), drawn<float>(count, 12, 12, 1.0)}) {
    double values = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i)
      values += static_cast<double>(numbers[i]) * static_cast<double>(other[i]);
    CHECK(std::abs(values / n) < 3.3 * std::sqrt(1 / n));
  }
}
