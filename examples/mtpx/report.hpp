#pragma once
// The report of `mtpx compare`: from its JSON to figures over seeds, claims, text, drawings and a page. What
// the JSON lacks, or has of another kind, throws FileError (checked_json.hpp).

#include "checked_json.hpp"

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace program {

/// The largest depth D that a report may have.
constexpr std::uint64_t deepest = 64;

/// How a design decodes: greedy, at the temperature of the settings, at temperature 1.
constexpr std::array<const char*, 3> decoding_modes{"greedy", "sampled", "at_1"};

/// Gives every design of a report its figures over seeds as "summary": {mean, sd} of each. The baseline is
/// that of the first table.   place: as errors name the report
void summarise(mtpx::Json& report, const std::string& place);

/// The claims that the designs of a table decide, as the report lists them.
mtpx::Json claims(const Checked& table);

/// The tables as plain text, with what was found of the claims.
std::string report_text(const Checked& report);

/// The drawings as (name, SVG): each stands alone, readable on light and dark grounds.
std::vector<std::pair<std::string, std::string>> report_figures(const Checked& report);

/// One page that needs no other file.
std::string report_html(const Checked& report);

}  // namespace program
