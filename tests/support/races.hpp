#pragma once
// How often two races with one noise have the same winner, and whether what was counted agrees.

#include <mtpx/decode/options.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace mtpx::test {

/// sum_x 1 / sum_y max(p_y / p_x, q_y / q_x), over what has a chance in both (Daliri, Musco & Suresh 2024).
inline double coupled_chance(const std::vector<double>& p, const std::vector<double>& q) {
  double chance = 0;
  for (std::size_t x = 0; x < p.size(); ++x) {
    if (p[x] <= 0 || q[x] <= 0) continue;
    double sum = 0;
    for (std::size_t y = 0; y < p.size(); ++y) sum += std::max(p[y] / p[x], q[y] / q[x]);
    chance += 1 / sum;
  }
  return chance;
}

/// Whether counts of n tokens are those of n draws from p, by chi-square; what has no chance is never seen.
inline void check_seen(const std::vector<double>& seen, const std::vector<double>& p, Index n) {
  double chi_square = 0, freedom = -1;
  for (std::size_t x = 0; x < p.size(); ++x) {
    const double expected = p[x] * static_cast<double>(n);
    if (expected == 0) CHECK(seen[x] == 0);
    if (expected == 0) continue;
    chi_square += (seen[x] - expected) * (seen[x] - expected) / expected;
    ++freedom;
  }
  INFO("chi-square " << chi_square << " with " << freedom);
  CHECK(chi_square < freedom + 4 * std::sqrt(2 * freedom));
}

/// Whether drafts of the first two places stood as often as `chance` says, to four standard deviations.
inline void check_stood(const DecodeStatistics& s, double chance) {
  for (std::size_t i = 0; i < 2; ++i) {
    const auto places = static_cast<double>(i == 0 ? s.drafts : s.accepted[0]);
    const double share = static_cast<double>(s.accepted[i]) / places;
    INFO("place " << i << ": " << share << " stood, " << chance << " by the formula");
    CHECK(std::abs(share - chance) < 4 * std::sqrt(chance * (1 - chance) / places));
  }
}

}  // namespace mtpx::test
