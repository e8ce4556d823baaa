#pragma once
// The page of `mtpx report`: what runs showed, side by side.

#include "chart.hpp"
#include "run_log.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace program {

/// One page that needs no other file. Its size does not grow with the runs: of long ones it shows what each
/// part of the page says it shows.
std::string runs_html(const std::vector<RunLog>& runs);

/// Its part about experts: their loads over layers and steps.
std::string loads_html(const RunLog& run);
constexpr std::size_t most_columns = 100;  ///< validations that it shows

/// A number as metrics.jsonl has it.
std::string number(double value);

/// A table that is folded away.
std::string details(const std::string& summary, const Grid& grid);

/// All of few; every n-th of many, and the last.
template <typename Row>
std::vector<const Row*> some_of(const std::vector<const Row*>& all, std::size_t most) {
  const std::size_t every = (all.size() + most - 1) / most;
  std::vector<const Row*> kept;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if ((all.size() - 1 - i) % every == 0) kept.push_back(all[i]);
  }
  return kept;
}

}  // namespace program
