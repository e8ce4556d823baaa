#pragma once
// How much of a text only repeats what stood in it before.

#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <span>

namespace program {

/// Where more of the 8-grams that were generated than this share repeats, figures of drafts say little: what
/// repeats is easily drafted. Text that people wrote stays below: in the 64 to 256 bytes behind 64 to 512
/// others it is 0.04 to 0.15 for two books of the King James Bible, 0.07 to 0.21 for a C++ header.
constexpr double repeats_above = 0.25;

/// 8-grams of a text that stood in it before, among those that end behind its first `begin` tokens.
struct Repetition {
  mtpx::Index repeated = 0, all = 0;

  void add(std::span<const std::int32_t> text, mtpx::Index begin) {
    constexpr std::size_t n = 8;
    std::set<std::array<std::int32_t, n>> seen;
    for (std::size_t end = n; end <= text.size(); ++end) {
      std::array<std::int32_t, n> gram{};
      std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(end - n), n, gram.begin());
      const bool fresh = seen.insert(gram).second;
      if (static_cast<mtpx::Index>(end) <= begin) continue;
      ++all;
      repeated += fresh ? 0 : 1;
    }
  }
  double share() const { return all == 0 ? 0 : static_cast<double>(repeated) / static_cast<double>(all); }
};

}  // namespace program
