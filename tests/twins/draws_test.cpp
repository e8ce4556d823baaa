// Tokens drawn on a GPU against those that the host's distribution gives.

#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

namespace {

/// Draws of every row of logits [rows, width]: with the smallest number, the largest, and some between.
template <typename A>
void check_draws(Index rows, Index width, const std::vector<A>& logits, const SamplingOptions& o) {
  CAPTURE(width);
  CAPTURE(o.temperature);
  CAPTURE(o.top_k);
  CAPTURE(o.top_p);
  std::vector<double> u;
  for (Index r = 0; r < rows; ++r) u.push_back(Philox::uniform(3, 4, static_cast<std::uint64_t>(r)));
  u[0] = 0;
  u[1] = 1 - 0x1p-53;
  const auto& on = device<Cuda>();
  const auto x = Tensor<A, Cuda>::from(on, {rows, width}, logits);
  const auto numbers = Tensor<double, Cuda>::from(on, {rows}, u);
  const Tensor<std::int32_t, Cuda> ids(on, {rows});
  poison(ids);
  draw_rows(on, x.rows(), x.data(), {o.temperature, o.top_k, o.top_p}, numbers.data(), ids.data());
  const std::vector<std::int32_t> got = ids.to_host();
  for (Index r = 0; r < rows; ++r) {
    const std::span<const A> row(logits.data() + r * width, static_cast<std::size_t>(width));
    const std::vector<double> p = distribution(row, o);
    const auto at = static_cast<std::size_t>(r);
    if (r == 1) {  // at the very end roundings of the sums decide, but never for a token that was cut
      CHECK(p[static_cast<std::size_t>(got[at])] > 0);
    } else {
      CHECK(got[at] == sample(p, u[at]));
    }
  }
}

/// Logits [rows, width], all different.
std::vector<float> smooth(Index rows, Index width) {
  std::vector<float> values;
  for (const double x : host(random_tensor<float, Cpu>({rows, width}, 1, 3)))
    values.push_back(static_cast<float>(x));
  return values;
}

/// Logits [rows, width] of nine different values, and one of -inf.
std::vector<float> coarse(Index rows, Index width) {
  std::vector<float> values;
  for (const std::int32_t level : random_ids<Cpu>({rows, width}, 2, 0, 9).to_host())
    values.push_back(static_cast<float>(level - 4) / 2);
  values[0] = -std::numeric_limits<float>::infinity();
  return values;
}

}  // namespace

TEST_CASE("twins: tokens drawn, each way once" * doctest::test_suite("twins: decoding")) {
  for (const Index top_k : {0, 5}) {
    for (const double top_p : {1.0, 0.9}) {
      check_draws(3, 1300, smooth(3, 1300), {0.8, top_k, top_p});
      check_draws(3, 1300, coarse(3, 1300), {0.8, top_k, top_p});
    }
  }
}

TEST_SUITE_BEGIN("twins: text");

TEST_CASE("twins: tokens drawn on the device are those that the host draws, with ties, NaN and both cuts") {
  constexpr Index rows = 16;
  for (const Index width : {1, 7, 1000, 4103, 40000}) {
    const std::vector<float> different = smooth(rows, width), ties = coarse(rows, width);
    for (const double temperature : {0.1, 0.8, 3.0}) {
      for (const Index top_k : {0, 1, 5, 300}) {
        for (const double top_p : {1.0, 0.93, 0.31}) {
          if (width == 40000 && (temperature != 0.8 || top_k == 1)) continue;
          const SamplingOptions o{temperature, top_k, top_p};
          check_draws(rows, width, different, o);
          check_draws(rows, width, ties, o);
          if (width == 1000)
            check_draws(rows, width, std::vector<double>(different.begin(), different.end()), o);
        }
      }
    }
  }
  // What is not a number is never drawn.
  std::vector<float> broken(rows * 50, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t r = 0; r < rows; ++r) broken[50 * r + 17] = broken[50 * r + 33] = 1;
  const auto x = Tensor<float, Cuda>::from(device<Cuda>(), {rows, 50}, broken);
  const auto u = Tensor<double, Cuda>::from(device<Cuda>(), {rows}, std::vector<double>(rows, 0.75));
  const Tensor<std::int32_t, Cuda> ids(device<Cuda>(), {rows});
  draw_rows(device<Cuda>(), x.rows(), x.data(), {0.5, 3, 0.9}, u.data(), ids.data());
  CHECK(ids.to_host() == std::vector<std::int32_t>(rows, 33));
}

TEST_SUITE_END();
