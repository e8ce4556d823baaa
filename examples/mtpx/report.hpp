#pragma once
// The report of `mtpx compare`: from its JSON to text, drawings and a page.

#include "program.hpp"

#include <mtpx/io/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace program {

/// The tables as plain text, with what was found of the claims.
std::string report_text(const mtpx::Json& report);

/// The drawings as (name, SVG): each stands alone, readable on light and dark grounds.
std::vector<std::pair<std::string, std::string>> report_figures(const mtpx::Json& report);

/// One page that needs no other file.
std::string report_html(const mtpx::Json& report);

}  // namespace program
