#include <mtpx/kernels.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

using namespace mtpx;

TEST_SUITE_BEGIN("kernels/sampling.hpp");

namespace {

using Numbers = std::vector<double>;
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double unbounded = std::numeric_limits<double>::infinity();

Numbers distribution(const Numbers& logits, const SamplingOptions& options) {
  return mtpx::distribution(std::span<const double>(logits), options);
}
std::int32_t argmax(const Numbers& logits) { return mtpx::argmax(std::span<const double>(logits)); }

/// The tokens that stay, found by asking each one: how many come before it, and how much they weigh.
Numbers naive_distribution(const Numbers& logits, const SamplingOptions& o) {
  const std::size_t n = logits.size();
  Numbers e(n);
  for (std::size_t i = 0; i < n; ++i) e[i] = std::exp(logits[i] / o.temperature);
  const auto before = [&](std::size_t a, std::size_t b) { return e[a] > e[b] || (e[a] == e[b] && a < b); };
  Numbers rank(n, 0), mass(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) rank[i] += before(j, i) ? 1 : 0;
  }
  const double k = o.top_k > 0 ? static_cast<double>(o.top_k) : static_cast<double>(n);
  double in_k = 0;
  for (std::size_t i = 0; i < n; ++i) in_k += rank[i] < k ? e[i] : 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) mass[i] += before(j, i) ? e[j] / in_k : 0;
  }
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (rank[i] >= k || mass[i] >= o.top_p) e[i] = 0;
    total += e[i];
  }
  for (double& x : e) x /= total;
  return e;
}

}  // namespace

TEST_CASE("argmax: the lowest id on ties, never NaN") {
  CHECK(argmax({1, 3, 2}) == 1);
  CHECK(argmax({3, 1, 3}) == 0);
  CHECK(argmax({not_a_number, 1, 2}) == 2);
  CHECK(argmax({not_a_number, -unbounded}) == 1);
  CHECK(argmax({2, not_a_number, 1}) == 0);
  CHECK(argmax({not_a_number, not_a_number}) == 0);
}

TEST_CASE("distribution: greedy is one-hot") { CHECK(distribution({0, 5, 5}, {}) == Numbers{0, 1, 0}); }

TEST_CASE("distribution: temperature, top-k and top-p against a naive count") {
  const Numbers logits{0.3, -1.2, 2.1, 0.3, -0.4, 2.1, 1.0, -3.0};
  for (const double temperature : {0.25, 1.0, 3.0}) {
    for (const Index top_k : {0, 1, 2, 3, 5, 8, 100}) {
      for (const double top_p : {1e-9, 0.3, 0.5, 0.8, 0.99, 1.0}) {
        const SamplingOptions o{temperature, top_k, top_p};
        const Numbers got = distribution(logits, o);
        const Numbers want = naive_distribution(logits, o);
        double total = 0;
        INFO("temperature " << temperature << " top_k " << top_k << " top_p " << top_p);
        for (std::size_t i = 0; i < logits.size(); ++i) {
          CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-13));
          total += got[i];
        }
        CHECK(total == doctest::Approx(1).epsilon(1e-14));
      }
    }
  }
}

TEST_CASE("distribution: equally likely tokens stay from the lowest id") {
  CHECK(distribution({1, 1, 1, 1}, {1.0, 2, 1.0}) == Numbers{0.5, 0.5, 0, 0});
  CHECK(distribution({1, 1, 1, 1}, {1.0, 0, 0.5}) == Numbers{0.5, 0.5, 0, 0});
  CHECK(distribution({1, 1, 1, 1}, {1.0, 0, 0.51}) == Numbers{1 / 3.0, 1 / 3.0, 1 / 3.0, 0});
}

TEST_CASE("distribution: large logits and masked tokens do not overflow") {
  CHECK(distribution({1e4, -1e4, 1e4}, {1.0}) == Numbers{0.5, 0, 0.5});
  CHECK(distribution({0, -unbounded}, {1.0}) == Numbers{1, 0});
}

TEST_CASE("distribution: NaN has no chance beside a number, and of NaN alone token 0 is drawn") {
  constexpr double none = not_a_number;
  CHECK(distribution({none, 1, none, 1}, {1.0}) == Numbers{0, 0.5, 0, 0.5});
  CHECK(distribution({none, 1, none, unbounded}, {0.5, 3, 0.9}) == Numbers{0, 0, 0, 1});
  for (const SamplingOptions& o : {SamplingOptions{}, SamplingOptions{1.0}, SamplingOptions{1.0, 2, 0.5}})
    CHECK(distribution({none, none, none}, o) == Numbers{1, 0, 0});
}

TEST_CASE("draw_rows: each row from its own distribution, by its own number") {
  constexpr Index rows = 5, width = 8, stride = 11;
  const Numbers u{0.0, 0.31, 0.62, 0.9, 0x1.fffffffffffffp-1};
  Numbers logits;
  for (Index i = 0; i < rows * stride; ++i) logits.push_back(std::sin(static_cast<double>(i * i)) * 2);
  const std::vector<SamplingOptions> ways{{0.7, 0, 1.0}, {2.0, 3, 1.0}, {1.0, 5, 0.6}};
  for (std::size_t way = 0; way <= ways.size(); ++way) {  // the last time each row its own
    const auto of = [&](std::size_t r) { return ways[way < ways.size() ? way : r % ways.size()]; };
    std::vector<Draw> draws;
    for (std::size_t r = 0; r < rows; ++r) draws.push_back({of(r), u[r]});
    std::vector<std::int32_t> ids(rows, -1);
    draw_rows(Cpu(2), Rows{rows, width, stride}, logits.data(), draws.data(), ids.data(), {});
    const std::vector<std::int32_t> places{4, 0, 6, 2, 5};  // of a table of seven rows
    std::vector<std::int32_t> again(rows, -1);
    Numbers table(7 * width, -1.0);
    draw_rows(Cpu(2), Rows{rows, width, stride}, logits.data(), draws.data(), again.data(),
              {table.data(), places.data()});
    CHECK(again == ids);
    CHECK(std::count(table.begin(), table.end(), -1.0) == 2 * width);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(r) * stride;
      const Numbers p = naive_distribution(Numbers(first, first + width), of(r));
      const auto id = static_cast<std::size_t>(ids[r]);
      REQUIRE(id < width);
      for (std::size_t i = 0; i < width; ++i)
        CHECK(std::abs(table[static_cast<std::size_t>(places[r]) * width + i] - p[i]) <= 1e-15);
      double before = 0;
      for (std::size_t i = 0; i < id; ++i) before += p[i];
      CHECK(p[id] > 0);
      CHECK(before <= u[r] + 1e-14);
      CHECK(u[r] <= before + p[id] + 1e-14);
    }
  }
}

TEST_CASE("draw_rows: a row of temperature 0 among others is its argmax, the lowest id on ties") {
  const Numbers logits{1, 3, 2, 3, /**/ 1, 3, 2, 3, /**/ -0.0, 0.0, -1, not_a_number};  // [3, 4]
  for (const double number : {0.0, 0.5, 0x1.fffffffffffffp-1}) {
    const std::vector<Draw> draws{{{}, number}, {{1.0, 1}, number}, {{0, 3, 0.5}, number}};
    const std::vector<std::int32_t> places{2, 0, 1};
    std::vector<std::int32_t> ids(3, -1);
    Numbers table(12, -1.0);
    draw_rows(Cpu(2), Rows{3, 4, 4}, logits.data(), draws.data(), ids.data(), {table.data(), places.data()});
    CHECK(ids == std::vector<std::int32_t>{1, 1, 0});
    CHECK(table == Numbers{0, 1, 0, 0, /**/ 1, 0, 0, 0, /**/ 0, 1, 0, 0});
  }
}

TEST_CASE("draw_rows: where the token's logit is not finite, its id is negative, and what is kept is NaN") {
  const Numbers logits{not_a_number,    not_a_number, /**/ 1, unbounded,
                       /**/ -unbounded, -unbounded,   /**/ 1, -unbounded};
  for (const SamplingOptions& o : {SamplingOptions{}, SamplingOptions{1.0}, SamplingOptions{1.0, 1, 0.5}}) {
    const std::vector<Draw> draws(4, {o, 0.25});
    const std::vector<std::int32_t> places{3, 2, 1, 0};
    std::vector<std::int32_t> ids(4, -1);
    Numbers table(8, -1.0);
    draw_rows(Cpu(2), Rows{4, 2, 2}, logits.data(), draws.data(), ids.data(), {table.data(), places.data()});
    CHECK(ids == std::vector<std::int32_t>{~0, ~1, ~0, 0});
    for (std::size_t i = 0; i < table.size(); ++i) CHECK(std::isnan(table[i]) == (i >= 2));
    argmax_rows(Cpu(2), Rows{4, 2, 2}, logits.data(), ids.data());
    CHECK(ids == std::vector<std::int32_t>{~0, ~1, ~0, 0});
  }
}

TEST_CASE("sample: where the cumulated probability passes u, never a token of probability 0") {
  const Numbers p{0, 0.25, 0, 0.5, 0.25, 0};
  CHECK(sample(p, 0) == 1);
  CHECK(sample(p, 0.2499) == 1);
  CHECK(sample(p, 0.25) == 3);
  CHECK(sample(p, 0.7499) == 3);
  CHECK(sample(p, 0.75) == 4);
  CHECK(sample(p, 0x1.fffffffffffffp-1) == 4);
  const Numbers short_sum{0.5, 0.4999, 0};  // sums round
  CHECK(sample(short_sum, 0.99999) == 1);
}

TEST_CASE("SamplingOptions: validate names the option and its value") {
  const auto text = [](const SamplingOptions& o) -> std::string {
    try {
      o.validate();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(text({}) == "");
  CHECK(text({0.7, 40, 0.95}) == "");
  CHECK(text({1e-3, 1000000, 1}) == "");
  CHECK(text({-1}) == "[sampling] temperature = -1: must be 0 (greedy) or positive");
  CHECK(text({not_a_number}) == "[sampling] temperature = nan: must be 0 (greedy) or positive");
  CHECK(text({unbounded}) == "[sampling] temperature = inf: must be 0 (greedy) or positive");
  CHECK(text({1, -1}) == "[sampling] top_k = -1: must be 0 (all tokens) or positive");
  CHECK(text({1, 0, 0}) == "[sampling] top_p = 0: must be above 0 and at most 1");
  CHECK(text({1, 0, 1.1}) == "[sampling] top_p = 1.1: must be above 0 and at most 1");
  CHECK(text({1, 0, not_a_number}) == "[sampling] top_p = nan: must be above 0 and at most 1");
}

TEST_SUITE_END();
