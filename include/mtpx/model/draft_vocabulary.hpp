#pragma once
// The tokens that drafts are picked from, where they are not all: most text is made of a few, and a head of
// these alone costs a draft less. Exact: what drafts leave out, the main model writes all the same.

#include <mtpx/model/config.hpp>

#include <cstdint>
#include <numeric>
#include <span>

namespace mtpx {

/// Throws ConfigError unless `ids` are tokens of a vocabulary of `vocab`, ascending, each once. None is fine:
/// drafts are then picked from all.
inline void check_draft_ids(std::span<const std::int32_t> ids, Index vocab) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto fail = [&](const auto&... rule) {
      throw ConfigError(cat("[draft vocabulary] id ", i, " is ", ids[i], ": ", rule...));
    };
    if (ids[i] < 0 || ids[i] >= vocab) fail("outside the vocabulary of ", vocab);
    if (i > 0 && ids[i] <= ids[i - 1]) fail("must be above the one before it, ", ids[i - 1]);
  }
}

/// The n tokens of largest counts, the lowest ids among equals; ascending.   counts: [V]
inline std::vector<std::int32_t> most_frequent_ids(std::span<const Index> counts, Index n) {
  std::vector<std::int32_t> ids(counts.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = [&](std::int32_t id) { return counts[static_cast<std::size_t>(id)]; };
  const auto more = [&](std::int32_t a, std::int32_t b) {
    return count(a) != count(b) ? count(a) > count(b) : a < b;
  };
  const auto last = ids.begin() + std::min<std::ptrdiff_t>(n, static_cast<std::ptrdiff_t>(ids.size()));
  std::nth_element(ids.begin(), last, ids.end(), more);
  ids.erase(last, ids.end());
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace mtpx
