// Races: their noise, what is skipped, that tokens win as often as they should, and drafts with them.

#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include "support/races.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

using namespace mtpx;

TEST_SUITE_BEGIN("kernels/noise.hpp, races");

namespace {

using Numbers = std::vector<double>;
using TokenIds = std::vector<std::int32_t>;

/// The winners of races for places 0, 1, .. of one row of logits.
template <typename A>
TokenIds winners(const std::vector<A>& logits, const SamplingOptions& sampling, Index places,
                 std::uint64_t seed) {
  std::vector<Draw> draws;
  for (Index i = 0; i < places; ++i) draws.push_back({sampling, 0, {seed, static_cast<std::uint64_t>(i)}});
  TokenIds ids(draws.size(), -1);
  race_rows(Cpu(1), Rows{places, static_cast<Index>(logits.size()), 0}, logits.data(), draws.data(), 1,
            ids.data());
  return ids;
}

/// The best of each race, in their order, [places, best].
template <typename A>
TokenIds lists(const std::vector<A>& logits, const SamplingOptions& sampling, Index places, Index best) {
  std::vector<Draw> draws;
  for (Index i = 0; i < places; ++i) draws.push_back({sampling, 0, {7, static_cast<std::uint64_t>(i)}});
  TokenIds ids(static_cast<std::size_t>(places * best), 12345);
  race_rows(Cpu(1), Rows{places, static_cast<Index>(logits.size()), 0}, logits.data(), draws.data(), best,
            ids.data());
  return ids;
}

/// Four standard deviations above the mean of a chi-square.
double bound_of_chi_square(double freedom) { return freedom + 4 * std::sqrt(2 * freedom); }

double total_variation(const Numbers& p, const Numbers& q) {
  double apart = 0;
  for (std::size_t x = 0; x < p.size(); ++x) apart += std::abs(p[x] - q[x]) / 2;
  return apart;
}

Numbers chances(const Numbers& logits, const SamplingOptions& options) {
  return mtpx::distribution(std::span<const double>(logits), options);
}

}  // namespace

TEST_CASE("gumbel: -ln(-ln(1 - v)), to the last digits at both ends") {
  const auto close = [](std::uint32_t high, std::uint32_t low) {
    const long double v =
        (static_cast<long double>(high) * 0x1p32L + static_cast<long double>(low) + 0.5L) / 0x1p64L;
    const long double want = -std::log(-std::log1p(-v));
    const auto size = static_cast<double>(std::abs(want) + 1), of_v = static_cast<double>(0x1p-53L / (1 - v));
    CHECK(std::abs(exact::gumbel(high, low) - static_cast<double>(want)) <= 4e-15 * size + of_v);
  };
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const auto words = Philox::block(1, 2, i);
    close(words[0], words[1]);
    close(words[0] >> (i % 32), words[1]);
  }
  for (const std::uint32_t high : {0U, 1U, 0x3fffffffU, 0x40000000U, 0x40000001U, 0xffffff00U})
    close(high, 0), close(high, ~0U);
  CHECK(exact::gumbel(0, 0) == doctest::Approx(65 * std::log(2.0)).epsilon(1e-15));
  CHECK(exact::gumbel(~0U, ~0U) == doctest::Approx(-std::log(53 * std::log(2.0))).epsilon(1e-15));
}

TEST_CASE("noise_bound: above the noise of every low half, and nowhere more than a bit too high") {
  CHECK(exact::gumbel(0, 0) < exact::most_noise);
  const auto check = [](std::uint32_t high) {
    const auto bound = static_cast<double>(exact::noise_bound<float>(high));
    CHECK(exact::gumbel(high, 0) < bound);  // the largest noise: it falls with the number
    CHECK(exact::gumbel(high, 0) >= exact::gumbel(high, ~0U));
    if (high >= 256 && high < 1U << 30) CHECK(bound - exact::gumbel(high, 0) < 0.85);
  };
  for (int bit = 0; bit < 32; ++bit) {
    const std::uint32_t power = 1U << bit;
    for (const std::uint32_t high : {power - 1, power, power + 1, power | (power >> 1)}) check(high);
  }
  check(~0U);
  for (std::uint64_t i = 0; i < 2000; ++i) check(Philox::block(3, 4, i)[0] >> (i % 32));
}

TEST_CASE("race_rows: nothing that is skipped would have won, whatever the width, the cuts and the numbers") {
  std::uint64_t next = 0;
  const auto uniform = [&] { return Philox::uniform(5, 6, next++); };
  const auto compare = [&](const auto& logits, const SamplingOptions& sampling, Index places) {
    using A = std::remove_cvref_t<decltype(logits[0])>;
    INFO("V = " << logits.size() << ", temperature " << sampling.temperature << ", top_k " << sampling.top_k
                << ", top_p " << sampling.top_p);
    const TokenIds got = winners(logits, sampling, places, 7);
    TokenIds want;
    for (Index i = 0; i < places; ++i)
      want.push_back(race(std::span<const A>(logits), sampling, {7, static_cast<std::uint64_t>(i)}));
    CHECK(got == want);
    for (const Index best : {2, 3, 40}) {
      TokenIds in_order(static_cast<std::size_t>(places * best));
      for (Index i = 0; i < places; ++i)
        race(std::span<const A>(logits), sampling, {7, static_cast<std::uint64_t>(i)},
             std::span(in_order).subspan(static_cast<std::size_t>(i * best), static_cast<std::size_t>(best)));
      CHECK(lists(logits, sampling, places, best) == in_order);
    }
  };
  const std::vector<SamplingOptions> ways{
      {},      {0.1},       {0.8},        {3},          {1e-35},     {1e35},          {0.8, 1},     {0.8, 5},
      {1, 70}, {2, 3, 0.5}, {1, 0, 1e-9}, {1, 0, 0.31}, {1, 0, 0.9}, {0.8, 40, 0.93}, {5, 0, 0.999}};
  for (const Index width : {1, 2, 15, 16, 17, 63, 64, 65, 130, 1000, 4103}) {
    const double spread = width % 3 == 0 ? 30 : 6;
    std::vector<float> smooth, coarse;
    for (Index i = 0; i < width; ++i) {
      const double u = uniform();
      smooth.push_back(static_cast<float>(spread * u * u + 100));
      coarse.push_back(static_cast<float>(std::floor(9 * u) / 2));
    }
    if (width > 2) coarse[1] = -std::numeric_limits<float>::infinity();
    if (width > 20) coarse[5] = coarse[18] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<double> wide(smooth.begin(), smooth.end());
    for (const SamplingOptions& way : ways) {
      const Index places = width > 500 ? 1 : 6;
      compare(smooth, way, places);
      compare(coarse, way, places);
      compare(wide, way, places);
    }
  }
}

TEST_CASE("race_rows: greedy rows, ties, NaN, masked tokens") {
  constexpr float none = std::numeric_limits<float>::quiet_NaN(),
                  never = -std::numeric_limits<float>::infinity();
  CHECK(winners<float>({1, 3, 2, 3}, {}, 2, 1) == TokenIds{1, 1});
  CHECK(winners<float>({none, none}, {1.0}, 2, 1) == TokenIds{~0, ~0});
  CHECK(winners<float>({none, never, none}, {1.0}, 2, 1) == TokenIds{~1, ~1});
  CHECK(winners<float>({1, none, -never}, {1.0}, 2, 1) == TokenIds{~2, ~2});
  for (const std::int32_t id : winners<float>({never, 1, none, 1, never}, {0.7}, 50, 1)) CHECK(id % 2 == 1);
  for (const std::int32_t id : winners<float>({1, 1, 1, 1}, {1.0, 2}, 50, 1))
    CHECK(id < 2);  // from the lowest id
  for (const std::int32_t id : winners<float>({1, 1, 1, 1}, {1.0, 0, 0.51}, 50, 1)) CHECK(id < 3);
  // Logits so far apart from 0 that noise is lost: equal scores, of which the lowest id's wins.
  CHECK(winners<double>({1e30, 1e30, 1e30}, {1.0}, 3, 1) == TokenIds{0, 0, 0});
}

TEST_CASE("lists of a race: in order, without tokens that have no chance") {
  constexpr double never = -std::numeric_limits<double>::infinity(),
                   none = std::numeric_limits<double>::quiet_NaN();
  CHECK(lists<double>({1, 3, 2, 3}, {}, 1, 6) == TokenIds{1, 3, 2, 0, no_token, no_token});
  CHECK(lists<double>({1, never, none, 2}, {}, 1, 3) == TokenIds{3, 0, no_token});
  CHECK(lists<double>({none, none}, {0.8}, 1, 2) == TokenIds{~0, no_token});
  CHECK(lists<double>({0, 9, never, 8}, {0.8, 2}, 1, 3)[2] == no_token);
  CHECK(lists<double>({0, 5000, 0}, {1.0}, 1, 2) == TokenIds{1, no_token});
  // With the noise of each place the list is that of the race without its winner, and so on.
  const std::vector<double> logits{0.4, 1.5, -0.3, 0.9, 1.1};
  for (std::uint64_t place = 0; place < 40; ++place) {
    std::vector<double> left = logits;
    TokenIds want;
    for (int i = 0; i < 5; ++i) {
      want.push_back(race(std::span<const double>(left), {0.9}, {7, place}));
      left[static_cast<std::size_t>(want.back())] = never;
    }
    const TokenIds all = lists(logits, {0.9}, 40, 5);
    CHECK(TokenIds(all.begin() + static_cast<std::ptrdiff_t>(5 * place),
                   all.begin() + static_cast<std::ptrdiff_t>(5 * place + 5)) == want);
  }
}

TEST_CASE("races have the chances of the distribution, at a place and at two in a row: chi-square") {
  constexpr Index places = 16000;
  const Numbers logits{0.3, -1.2, 2.1, 0.3, -0.4, 1.7, 1.0, -3.0};
  for (const SamplingOptions& sampling : {SamplingOptions{1.0}, SamplingOptions{0.8, 4},
                                          SamplingOptions{1.5, 0, 0.9}, SamplingOptions{2.0, 6, 0.8}}) {
    const Numbers p = chances(logits, sampling);
    const TokenIds ids = winners(logits, sampling, places, 11);
    Numbers one(8, 0.0), two(64, 0.0);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto x = static_cast<std::size_t>(ids[i]);
      ++one[x];
      if (i % 2 == 1) ++two[static_cast<std::size_t>(ids[i - 1]) * 8 + x];
    }
    double chi_square = 0, of_two = 0, freedom = -1, freedom_of_two = -1;
    for (std::size_t x = 0; x < 8; ++x) {
      if (p[x] == 0) CHECK(one[x] == 0);
      for (std::size_t y = 0; y < 8 && p[x] > 0; ++y) {
        const double expected = p[x] * p[y] * places / 2, seen = two[x * 8 + y];
        if (expected == 0) continue;
        of_two += (seen - expected) * (seen - expected) / expected;
        ++freedom_of_two;
      }
      if (p[x] == 0) continue;
      chi_square += (one[x] - p[x] * places) * (one[x] - p[x] * places) / (p[x] * places);
      ++freedom;
    }
    INFO("chi-square " << chi_square << " with " << freedom << ", of two " << of_two << " with "
                       << freedom_of_two);
    CHECK(chi_square < bound_of_chi_square(freedom));
    CHECK(of_two < bound_of_chi_square(freedom_of_two));
  }
}

TEST_CASE(
    "all outcomes of noise of a few bits: winners are distributed as p, pairs agree as the formula says") {
  // Three tokens, each with one of n equally likely numbers: n^3 outcomes.
  constexpr std::uint32_t n = 64;
  Numbers noise;
  for (std::uint32_t i = 0; i < n; ++i) noise.push_back(exact::gumbel((2 * i + 1) << (31 - 6), 0));
  const std::vector<std::pair<Numbers, Numbers>> pairs{{{0.5, 0.3, 0.2}, {0.5, 0.3, 0.2}},
                                                       {{0.6, 0.3, 0.1}, {0.2, 0.3, 0.5}},
                                                       {{0.7, 0.0, 0.3}, {0.4, 0.4, 0.2}},
                                                       {{1, 0, 0}, {0.25, 0.5, 0.25}}};
  for (const auto& [p, q] : pairs) {
    Numbers won(3, 0.0);
    double agreed = 0;
    const auto winner = [&](const Numbers& of, const std::array<double, 3>& g) {
      std::size_t best = 3;
      double most = 0;
      for (std::size_t x = 0; x < 3; ++x) {
        const double score = of[x] > 0 ? std::log(of[x]) + g[x] : 0;
        if (of[x] > 0 && (best == 3 || score > most)) {
          best = x;
          most = score;
        }
      }
      return best;
    };
    for (const double a : noise) {
      for (const double b : noise) {
        for (const double c : noise) {
          const std::size_t of_p = winner(p, {a, b, c});
          won[of_p] += 1.0 / (n * n * n);
          if (winner(q, {a, b, c}) == of_p) agreed += 1.0 / (n * n * n);
        }
      }
    }
    // An outcome stands for a cell of noise, all of it, though winners change inside some cells.
    for (std::size_t x = 0; x < 3; ++x) CHECK(std::abs(won[x] - p[x]) < 1e-3);
    CHECK(std::abs(agreed - test::coupled_chance(p, q)) < 6e-3);
    if (p == q) CHECK(agreed == doctest::Approx(1).epsilon(1e-12));
  }
}

TEST_CASE(
    "drafts that race with a place's noise stand as often as the formula says, and never as rarely as its "
    "bound") {
  constexpr Index places = 4000;
  std::uint64_t next = 0;
  const auto uniform = [&] { return Philox::uniform(21, 22, next++); };
  for (const double apart : {0.3, 1.0, 3.0}) {
    for (const SamplingOptions& sampling :
         {SamplingOptions{1.0}, SamplingOptions{0.8, 6}, SamplingOptions{1.3, 0, 0.8}}) {
      Numbers main, draft;
      for (int x = 0; x < 12; ++x) {
        main.push_back(4 * uniform());
        draft.push_back(main.back() + apart * uniform());
      }
      const Numbers p = chances(main, sampling), q = chances(draft, sampling);
      const TokenIds tokens = winners(main, sampling, places, 31),
                     drafts = winners(draft, sampling, places, 31),
                     others = winners(draft, sampling, places, 32);
      const auto stood = [&](const TokenIds& of) {
        double count = 0;
        for (std::size_t i = 0; i < of.size(); ++i) count += of[i] == tokens[i] ? 1 : 0;
        return count / places;
      };
      const double want = test::coupled_chance(p, q), apart_by = total_variation(p, q);
      double by_chance = 0;
      for (std::size_t x = 0; x < p.size(); ++x) by_chance += p[x] * q[x];
      const auto error = [&](double share) { return 4 * std::sqrt(share * (1 - share) / places); };
      INFO("apart " << apart << ", top_k " << sampling.top_k << ", top_p " << sampling.top_p);
      CHECK(std::abs(stood(drafts) - want) < error(want));
      CHECK(want >= (1 - apart_by) / (1 + apart_by));
      CHECK(want <= 1 - apart_by + 1e-12);
      CHECK(std::abs(stood(others) - by_chance) < error(by_chance));  // another noise: two strangers
      CHECK(want > by_chance + 0.05);
    }
  }
}

TEST_SUITE_END();
