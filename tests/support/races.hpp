#pragma once
// How often two races with one noise have the same winner.

#include <algorithm>
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

}  // namespace mtpx::test
