#include <mtpx/core/rng.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace mtpx;

namespace {

template <typename T>
constexpr Index width = cpu::lanes<acc_t<T>>;

/// Exactly `count` numbers first, first + 1, ...: an address sanitizer sees every read behind them.
template <typename T>
std::vector<T> counting(Index count, int first = 1) {
  std::vector<T> values;
  for (Index i = 0; i < count; ++i) values.push_back(T(static_cast<float>(first + static_cast<int>(i))));
  values.shrink_to_fit();
  return values;
}

template <typename T>
std::vector<double> elements(cpu::Vec<T> v) {
  std::vector<double> values;
  for (int i = 0; i < static_cast<int>(cpu::lanes<T>); ++i) values.push_back(static_cast<double>(v[i]));
  return values;
}

/// first, first + 1, ... for `count` elements of a register, zeros in the others.
template <typename T>
std::vector<double> expected(Index count, double first = 1) {
  std::vector<double> values(static_cast<std::size_t>(width<T>), 0.0);
  for (Index i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = first + static_cast<double>(i);
  return values;
}

/// Whether vectors round a * b + c once in this build.
template <typename T>
bool rounds_once() {
  volatile T x = 1 + std::numeric_limits<T>::epsilon(), y = 1 - std::numeric_limits<T>::epsilon(), z = -1;
  return cpu::fma(cpu::broadcast<T>(x), cpu::broadcast<T>(y), cpu::broadcast<T>(z))[0] != 0;
}

/// |got - exact| in units of the last place of a T near `exact`.
template <typename T>
double ulps(T got, long double exact) {
  const T near = std::abs(static_cast<T>(exact));
  const long double step = std::nextafter(near, std::numeric_limits<T>::infinity()) - near;
  return static_cast<double>(std::abs(static_cast<long double>(got) - exact) / step);
}

/// The largest error of f over `steps` registers of points in [low, high].
template <typename T, typename Function, typename Exact>
double worst_error(double low, double high, Index steps, const Function& f, const Exact& exact) {
  double worst = 0;
  for (Index step = 0; step < steps; ++step) {
    cpu::Vec<T> x{};
    for (int i = 0; i < static_cast<int>(cpu::lanes<T>); ++i) {
      const double part =
          static_cast<double>(step * cpu::lanes<T> + i) / static_cast<double>(steps * cpu::lanes<T>);
      x[i] = static_cast<T>(low + (high - low) * part);
    }
    const cpu::Vec<T> y = f(x);
    for (int i = 0; i < static_cast<int>(cpu::lanes<T>); ++i) {
      worst = std::max(worst, ulps(y[i], exact(static_cast<long double>(x[i]))));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("simd: a register holds what its flags allow", T, float, double) {
  CHECK(sizeof(cpu::Vec<T>) == cpu::register_bytes);
  CHECK(cpu::lanes<T> * static_cast<Index>(sizeof(T)) == cpu::register_bytes);
  CHECK(elements<T>(cpu::broadcast(T(3))) ==
        std::vector<double>(static_cast<std::size_t>(cpu::lanes<T>), 3.0));
  CHECK(std::signbit(cpu::broadcast(T(-0.0))[0]));
}

TEST_CASE_TEMPLATE("simd: whole registers, at any address", T, float, double, bf16) {
  const std::vector<T> from = counting<T>(2 * width<T>);
  for (Index at = 0; at < width<T>; ++at) {
    const auto v = cpu::load(from.data() + at);
    CHECK(elements<acc_t<T>>(v) == expected<T>(width<T>, static_cast<double>(1 + at)));
    std::vector<T> to(from.size() + 1, T(-7.0f));
    cpu::store(to.data() + at, v);
    for (Index i = 0; i < static_cast<Index>(to.size()); ++i) {
      const bool inside = i >= at && i < at + width<T>;
      CHECK(static_cast<double>(to[static_cast<std::size_t>(i)]) ==
            (inside ? static_cast<double>(1 + i) : -7.0));
    }
  }
}

TEST_CASE_TEMPLATE("simd: a part of a register touches its own numbers only", T, float, double, bf16) {
  for (Index count = 1; count < width<T>; ++count) {
    CAPTURE(count);
    const std::vector<T> exact = counting<T>(count);
    const std::vector<T> longer = counting<T>(width<T>);  // what stands behind must not come in
    CHECK(elements<acc_t<T>>(cpu::load_part(exact.data(), count)) == expected<T>(count));
    CHECK(elements<acc_t<T>>(cpu::load_part(longer.data(), count)) == expected<T>(count));

    const auto v = cpu::load(counting<T>(width<T>, 20).data());
    std::vector<T> to(static_cast<std::size_t>(width<T> + 2), T(-7.0f));
    cpu::store_part(to.data() + 1, v, count);
    for (Index i = 0; i < width<T> + 2; ++i) {
      const bool inside = i >= 1 && i <= count;
      CHECK(static_cast<double>(to[static_cast<std::size_t>(i)]) ==
            (inside ? static_cast<double>(19 + i) : -7.0));
    }
    std::vector<T> just = counting<T>(count);
    cpu::store_part(just.data(), v, count);
    CHECK(static_cast<double>(just.back()) == static_cast<double>(19 + count));
  }
}

TEST_CASE_TEMPLATE("simd: load_up_to, store_up_to and put take what is left", T, float, double, bf16) {
  for (Index left = 1; left <= 2 * width<T>; ++left) {
    CAPTURE(left);
    const Index count = std::min(left, width<T>);
    const std::vector<T> from = counting<T>(left);
    const auto v = cpu::load_up_to(from.data(), left);
    CHECK(elements<acc_t<T>>(v) == expected<T>(count));
    for (bool accumulate : {false, true}) {
      std::vector<T> to(static_cast<std::size_t>(left), T(100.0f));
      cpu::put(to.data(), v, left, accumulate);
      for (Index i = 0; i < left; ++i) {
        const double fresh = static_cast<double>(1 + i) + (accumulate ? 100.0 : 0.0);
        CHECK(static_cast<double>(to[static_cast<std::size_t>(i)]) == (i < count ? fresh : 100.0));
      }
    }
  }
}

TEST_CASE("simd: bf16 is rounded to nearest even when stored") {
  std::vector<bf16> to(static_cast<std::size_t>(cpu::lanes<float>));
  cpu::store(to.data(), cpu::broadcast(1.00390625f));  // a tie
  CHECK(to.back().bits == 0x3f80U);
  cpu::store(to.data(), cpu::broadcast(1.00391f));  // just above it
  CHECK(to.back().bits == 0x3f81U);
  cpu::store(to.data(), cpu::broadcast(std::numeric_limits<float>::quiet_NaN()));
  CHECK(std::isnan(static_cast<float>(to.back())));
}

TEST_CASE_TEMPLATE("simd: a row's sum has the order of a warp, whatever the registers' width", T, float,
                   double) {
  constexpr Index n = cpu::lanes<T>;
  for (const Index width : {1, 31, 32, 33, 300}) {
    std::vector<T> x, y;
    for (Index c = 0; c < width; ++c) {
      x.push_back(std::exp(static_cast<T>(c % 37) - T(10)));
      y.push_back(T(1) / static_cast<T>(3 + c));
    }
    std::vector<T> plain(32), products(32);
    for (std::size_t c = 0; c < x.size(); ++c) {
      plain[c % 32] += x[c];
      products[c % 32] = std::fma(x[c], y[c], products[c % 32]);
    }
    const auto join = [](std::vector<T> lane) {
      for (const std::size_t apart : {16U, 8U, 4U, 2U, 1U}) {
        const std::vector<T> before = lane;
        for (std::size_t i = 0; i < 32; ++i) lane[i] = before[i] + before[i ^ apart];
      }
      return lane[0];
    };
    cpu::RowSum<T> sum, dot;
    for (Index c = 0; c < width; c += n) {
      sum.add(c, cpu::load_up_to(x.data() + c, width - c));
      dot.add_product(c, cpu::load_up_to(x.data() + c, width - c), cpu::load_up_to(y.data() + c, width - c));
    }
    CHECK(sum.total() == join(plain));
    if (rounds_once<T>()) CHECK(dot.total() == join(products));
  }
}

TEST_CASE_TEMPLATE("simd: a product is rounded before it is added to", T, float, double) {
  const T x = 1 + std::numeric_limits<T>::epsilon(), rounded = 1 + 2 * std::numeric_limits<T>::epsilon();
  volatile T factor = x, minus = -rounded;
  const cpu::Vec<T> a = cpu::broadcast<T>(factor), b = cpu::broadcast<T>(minus);
  CHECK((cpu::product(a, a) + b)[0] == 0);
  const T one = factor, other = minus;
  CHECK(exact::product(one, one) + other == 0);
  if (!rounds_once<T>()) return;
  CHECK(cpu::fma(a, a, b)[0] > 0);
  CHECK(exact::fma(one, one, other) > 0);
}

TEST_CASE_TEMPLATE("simd: the square root is rounded correctly, in every place of a register", T, float,
                   double) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  using Limits = std::numeric_limits<T>;
  // The root r of x is correct where x lies between the squares of the two middles beside r, which long
  // double holds for floats. For doubles the processor's root of a single number decides.
  const auto is_root = [](T x, T r) {
    const auto wide = [](T a) { return static_cast<long double>(a); };
    const long double below = (wide(std::nextafter(r, T(0))) + wide(r)) / 2;
    const long double above = (wide(std::nextafter(r, Limits::infinity())) + wide(r)) / 2;
    const bool between = below * below <= wide(x) && wide(x) <= above * above;
    return r == std::sqrt(x) && (between || sizeof(T) == 8);
  };
  std::vector<T> points = {Limits::denorm_min(), 3 * Limits::denorm_min(), Limits::min(), Limits::max(),
                           T(1)};
  for (const T x : {Limits::min(), T(1), T(2), T(4)}) {
    points.push_back(std::nextafter(x, T(0)));
    points.push_back(std::nextafter(x, Limits::infinity()));
  }
  for (T x = Limits::denorm_min(); x < Limits::max() / 2; x *= 2) points.push_back(x);
  // All bit patterns of positive numbers, at a stride that shares no factor with any power of two.
  constexpr Bits last = std::bit_cast<Bits>(Limits::max()), stride = last / 300001 | 1;
  for (Bits bits = 1; bits < last - stride; bits += stride) points.push_back(std::bit_cast<T>(bits));
  points.resize(points.size() / static_cast<std::size_t>(width<T>) * static_cast<std::size_t>(width<T>));

  Index wrong = 0;
  for (auto at = points.begin(); at != points.end(); at += width<T>) {
    const cpu::Vec<T> roots = cpu::sqrt<T>(cpu::load(&*at));
    for (int i = 0; i < static_cast<int>(width<T>); ++i) {
      if (!is_root(at[i], roots[i])) ++wrong;
    }
  }
  CHECK(wrong == 0);
  CHECK(cpu::sqrt<T>(cpu::broadcast(T(0)))[0] == 0);
  CHECK(std::signbit(cpu::sqrt<T>(cpu::broadcast(T(-0.0)))[0]));
  CHECK(cpu::sqrt<T>(cpu::broadcast(Limits::infinity()))[0] == Limits::infinity());
  CHECK(std::isnan(cpu::sqrt<T>(cpu::broadcast(T(-1)))[0]));
  CHECK(std::isnan(cpu::sqrt<T>(cpu::broadcast(Limits::quiet_NaN()))[0]));
}

TEST_CASE("simd: multiply-add in software has the bits of the instruction") {
  // Numbers near one another, so that sums cancel, tie and end below the smallest normal number.
  const auto number = [](std::uint64_t i) {
    const std::uint32_t bits = Philox::block(3, 5, i)[0];
    const std::uint32_t exponent = 127 - 64 + (bits >> 8) % 3 * 32 + bits % 7;
    return std::bit_cast<float>((bits & 0x80000000U) | exponent << 23 |
                                (bits & (bits & 16 ? 0x700000U : 0x7fffffU)));
  };
  Index wrong = 0, twice = 0;
  for (std::uint64_t i = 0; i < 300000; ++i) {
    const float a = number(3 * i), b = number(3 * i + 1), c = i % 2 == 0 ? -a * b : number(3 * i + 2) * a;
    const float got = exact::detail::fma_in_software(a, b, c), want = std::fma(a, b, c);
    if (std::bit_cast<std::uint32_t>(got) != std::bit_cast<std::uint32_t>(want)) ++wrong;
    if (want != static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c)))
      ++twice;
  }
  CHECK(wrong == 0);
  CHECK(twice > 0);  // the points include some where rounding to double first would show
  const float infinity = std::numeric_limits<float>::infinity(), large = std::numeric_limits<float>::max();
  CHECK(exact::detail::fma_in_software(large, 2.0F, -large) == large);
  CHECK(exact::detail::fma_in_software(large, 2.0F, 0.0F) == infinity);
  CHECK(exact::detail::fma_in_software(infinity, 1.0F, 1.0F) == infinity);
  CHECK(std::isnan(exact::detail::fma_in_software(infinity, 0.0F, 1.0F)));
}

TEST_CASE("simd: the logarithm against the long double function") {
  double worst = 0;
  for (double x = 1e-300; x < 1e300; x *= 1.00037) {
    const long double want = std::log(static_cast<long double>(x));
    const double unit =
        std::nextafter(std::abs(static_cast<double>(want)), 1e300) - std::abs(static_cast<double>(want));
    worst = std::max(worst, static_cast<double>(std::abs(exact::log(x) - want)) / unit);
    if (x < 1e38 && x > 1e-37)
      CHECK(exact::log(static_cast<float>(x)) ==
            static_cast<float>(std::log(static_cast<double>(static_cast<float>(x)))));
  }
  CHECK(worst < 2.0);  // measured: 1.83
  CHECK(exact::log(1.0) == 0);
  CHECK(exact::log(0.0) == -std::numeric_limits<double>::infinity());
  CHECK(exact::log(std::numeric_limits<double>::infinity()) == std::numeric_limits<double>::infinity());
  CHECK(std::isnan(exact::log(-1.0)));
  CHECK(std::isnan(exact::log(std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("simd: a scalar has the bits of a register's element", T, float, double) {
  for (T x = T(-100); x < T(100); x += T(0.37)) {
    CHECK(exact::exp(x) == cpu::exp(cpu::broadcast(x))[0]);
    CHECK(exact::sigmoid(x) == cpu::sigmoid(cpu::broadcast(x))[0]);
  }
}

TEST_CASE_TEMPLATE("simd: max and fma", T, float, double) {
  constexpr Index n = cpu::lanes<T>;
  const std::vector<T> values = counting<T>(n, -3);
  const cpu::Vec<T> v = cpu::load(values.data());
  const std::vector<double> larger = elements<T>(cpu::max(v, cpu::broadcast(T(-2))));
  CHECK(larger[0] == -2);
  CHECK(larger[1] == -2);
  CHECK(larger.back() == static_cast<double>(n == 2 ? -2 : n - 4));
  CHECK(cpu::fma(v, cpu::broadcast(T(10)), cpu::broadcast(T(4)))[1] == -16);
}

TEST_CASE_TEMPLATE("simd: exp and sigmoid against the long double functions", T, float, double) {
  const double low = -87;
  const double high = 88;
  const double exp_error = worst_error<T>(
      low, high, 50000, [](cpu::Vec<T> x) { return cpu::exp(x); }, [](long double x) { return std::exp(x); });
  const double sigmoid_error = worst_error<T>(
      low, high, 50000, [](cpu::Vec<T> x) { return cpu::sigmoid(x); },
      [](long double x) { return 1 / (1 + std::exp(-x)); });
  CHECK(exp_error < 1.3);      // measured: float 0.92, double 0.87; without fused multiply-add 1.17
  CHECK(sigmoid_error < 2.6);  // measured: float 2.44, double 2.38
  CHECK(exp_error > 0.25);
}

TEST_CASE_TEMPLATE("simd: exp and sigmoid at the ends", T, float, double) {
  const T infinity = std::numeric_limits<T>::infinity();
  const auto exp = [](T x) { return cpu::exp(cpu::broadcast(x))[0]; };
  const auto sigmoid = [](T x) { return cpu::sigmoid(cpu::broadcast(x))[0]; };
  CHECK(exp(0) == 1);
  CHECK(exp(T(-0.0)) == 1);
  CHECK(exp(infinity) == infinity);
  CHECK(exp(-infinity) >= 0);
  CHECK(exp(-infinity) <
        std::numeric_limits<T>::min());  // the argument is clamped: not 0, but below any normal
  CHECK(std::isnan(exp(std::numeric_limits<T>::quiet_NaN())));
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const T all_bits = std::bit_cast<T>(std::numeric_limits<Bits>::max() >> 1);  // a GPU's NaN
  CHECK(std::isnan(exp(all_bits)));
  CHECK(std::isnan(exact::exp(all_bits)));
  CHECK(sigmoid(0) == T(0.5));
  CHECK(sigmoid(100) == 1);
  CHECK(sigmoid(infinity) == 1);
  CHECK(sigmoid(-infinity) == 0);
  CHECK(sigmoid(-10000) == 0);
  CHECK(std::isnan(sigmoid(std::numeric_limits<T>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("simd: an element's exponential does not depend on its place or its neighbours", T, float,
                   double) {
  for (int at = 0; at < static_cast<int>(cpu::lanes<T>); ++at) {
    cpu::Vec<T> mixed{};
    for (int i = 0; i < static_cast<int>(cpu::lanes<T>); ++i) mixed[i] = T(i * i) - T(30);
    mixed[at] = T(-1.7);
    CHECK(cpu::exp(mixed)[at] == cpu::exp(cpu::broadcast(T(-1.7)))[0]);
    mixed[at] = T(0.3);
    CHECK(cpu::sigmoid(mixed)[at] == cpu::sigmoid(cpu::broadcast(T(0.3)))[0]);
  }
}

TEST_CASE_TEMPLATE("simd: transpose", T, float, double) {
  constexpr int n = static_cast<int>(cpu::lanes<T>);
  cpu::Vec<T> square[n];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) square[i][j] = static_cast<T>(100 * i + j);
  }
  cpu::transpose<T>(square);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) CHECK((square[i][j] == static_cast<T>(100 * j + i)));
  }
}
