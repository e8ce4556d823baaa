#pragma once
// What a training left in its folder, read to be shown.

#include "checked_json.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace program {

/// A step's row of metrics.jsonl. Numbers that were not finite are NaN.
struct LoggedStep {
  std::uint64_t step = 0;
  std::vector<double> loss;  // [1 + depth]
  double total = 0, lr = 0, lambda = 0, gradient_norm = 0;
};

/// A validation's row.
struct LoggedEvaluation {
  std::uint64_t step = 0;
  std::vector<double> loss, acceptance, agreement;  // [1 + depth]
  double bits_per_byte = 0;
  std::string sample;                      // empty: none
  std::vector<std::vector<double>> loads;  // [layer][expert], see expert_loads(); empty: none
};

struct RunLog {
  std::string name;  // the folder, as it was given
  std::vector<LoggedStep> steps;
  std::vector<LoggedEvaluation> evaluations;
  std::map<std::uint64_t, double> tokens_per_s;                    // by step
  std::vector<std::pair<std::string, std::string>> configuration;  // "config.hidden_size", "64"
  std::vector<std::string> notices;                                // what is missing, or was left out

  std::size_t heads() const {
    return !steps.empty() ? steps[0].loss.size() : evaluations.empty() ? 0 : evaluations[0].loss.size();
  }
};

/// Reads metrics.jsonl and, where they are there, times.jsonl, config.json and run.json. Throws FileError
/// with file and line for a row that is none, or whose step does not come behind the one before. A last line
/// without an end that is no JSON was being written when the run was ended; it is left out, with a notice.
RunLog read_run(const std::filesystem::path& folder);

}  // namespace program
