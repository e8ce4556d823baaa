#pragma once
// Drawings and tables of reports: SVG and HTML that need no other file, readable on light and dark grounds.

#include "program.hpp"

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace program {

/// A text inside HTML and SVG, in attributes too. Control characters, which these may not hold, become
/// U+FFFD.
std::string escaped(const std::string& text);

/// Colour i of a drawing.
std::string colour(std::size_t i);

struct Grid {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
};

std::string as_html(const Grid& grid);
std::string as_markdown(const Grid& grid);

/// A page around `body`. more_style: CSS that this page needs beside the common one
std::string as_page(const std::string& title, const std::string& body, const std::string& more_style = "");

/// A drawing's size and the frame inside it: the legend stands right of it.
constexpr double wide = 720, high = 320, left = 64, right = 150, top = 34, bottom = 44;

/// A number line: a range with round steps. Any numbers may be given, also none (least > most).
struct Axis {
  double low = 0, high = 1, step = 0.25;

  Axis() = default;
  Axis(double least, double most);

  std::size_t lines() const;         ///< how many round numbers there are
  double line(std::size_t i) const;  ///< the i-th of them
  std::string text(double v) const;  ///< as its label has it
  double share(double value) const { return (value - low) / (high - low); }
  double x(double value) const { return left + share(value) * (wide - left - right); }
  double y(double value) const { return top + (1 - share(value)) * (program::high - top - bottom); }
};

std::string label(double x, double y, const std::string& text, const char* anchor = "start");
std::string line(double x0, double y0, double x1, double y1, const std::string& stroke);

/// The beginning of a drawing: frame, title, horizontal lines with numbers, and the legend, entry i in colour
/// first + i. "</svg>" ends it.
std::string frame(const std::string& title, const Axis& axis, const std::vector<std::string>& names,
                  std::size_t first = 0);

/// A line of a chart: (x, y) in order; where y is NaN it has a gap. Where there are means, they are the line,
/// and the points are drawn faintly behind it.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points, means;
};

/// Lines over steps, line i in colour first + i. Few points have dots, which say their numbers.
std::string line_chart(const std::string& title, const Axis& x, const Axis& y,
                       const std::vector<Series>& lines, std::size_t first = 1);

/// Cells in colours of their own: [row][column], NaN for none. levels: bounds between colours, of which there
/// are nine, from less than balanced to more.
struct HeatMap {
  std::string title, across;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> cells;
};
std::string heat_map(const HeatMap& map);

}  // namespace program
