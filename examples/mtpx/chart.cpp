#include "chart.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace program {
namespace {

using mtpx::cat;

/// One set of colours for light grounds and one for dark ones; a drawing carries them itself. c: lines, h:
/// cells, from less to more.
constexpr const char* style =
    "<style>.m{--ink:#1f2328;--faint:#d0d7de;--c0:#57606a;--c1:#0969da;--c2:#bc4c00;--c3:#1a7f37;--c4:#"
    "8250df;"
    "--c5:#cf222e;--c6:#9a6700;--h0:#0a3069;--h1:#0969da;--h2:#80ccff;--h3:#cdebff;--h4:#eaeef2;--h5:#ffe2cc;"
    "--h6:#ffb77c;--h7:#e16f24;--h8:#762c00;font:13px system-ui,sans-serif;fill:var(--ink)}"
    "@media(prefers-color-scheme:dark){.m{--ink:#e6edf3;--faint:#3d444d;--c0:#9198a1;--c1:#58a6ff;--c2:#"
    "f0883e;"
    "--c3:#3fb950;--c4:#bc8cff;--c5:#ff7b72;--c6:#d29922;--h0:#a5d6ff;--h1:#54aeff;--h2:#1f6feb;--h3:#143d79;"
    "--h4:#2f353d;--h5:#5a3216;--h6:#9b4a0c;--h7:#ea7b2c;--h8:#ffcb8f}}</style>";

constexpr const char* page_style =
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}.wide{overflow-x:auto}"
    "svg{width:100%;height:auto;margin:1rem 0}dt{font-weight:600;margin-top:.8rem}";

std::string begin_drawing(const std::string& title, double height) {
  return cat("<svg class=\"m\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", wide, ' ',
             fixed(height, 0), "\" role=\"img\" aria-label=\"", escaped(title), "\">", style,
             "<g font-weight=\"600\">", label(left, 18, title), "</g>");
}

/// Entry i of a legend from `y` on.
std::string legend(std::size_t i, double y, const std::string& fill, const std::string& text) {
  y += 20 * static_cast<double>(i);
  return cat("<rect x=\"", wide - right + 16, "\" y=\"", fixed(y - 9, 0),
             "\" width=\"12\" height=\"12\" fill=\"", fill, "\"/>", label(wide - right + 34, y + 2, text));
}

std::size_t width_of(const std::string& text) {  // on a terminal: bytes that begin a character
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f)
      out += "\xef\xbf\xbd";
    else
      out += c;
  }
  return out;
}

std::string colour(std::size_t i) { return cat("var(--c", i % 7, ')'); }

std::string as_markdown(const Grid& grid) {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < grid.head.size(); ++c) {
    widths.push_back(width_of(grid.head[c]));
    for (const auto& row : grid.rows) widths[c] = std::max(widths[c], width_of(row[c]));
  }
  std::string text;
  const auto add = [&](const std::vector<std::string>& cells) {
    text += '|';
    for (std::size_t c = 0; c < cells.size(); ++c)
      text += ' ' + cells[c] + std::string(widths[c] - width_of(cells[c]), ' ') + " |";
    text += '\n';
  };
  add(grid.head);
  std::vector<std::string> rule;
  for (const std::size_t w : widths) rule.emplace_back(w, '-');
  add(rule);
  for (const auto& row : grid.rows) add(row);
  return text;
}

std::string as_html(const Grid& grid) {
  std::string text = "<div class=\"wide\"><table><tr>";
  for (const auto& cell : grid.head) text += "<th>" + escaped(cell) + "</th>";
  text += "</tr>\n";
  for (const auto& row : grid.rows) {
    text += "<tr>";
    for (const auto& cell : row) text += "<td>" + escaped(cell) + "</td>";
    text += "</tr>\n";
  }
  return text + "</table></div>\n";
}

std::string as_page(const std::string& title, const std::string& body, const std::string& more_style) {
  return cat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>",
      escaped(title), "</title><style>", page_style, more_style, "</style></head><body>\n", body,
      "</body></html>\n");
}

Axis::Axis(double least, double most) {
  constexpr double huge = 1e300;
  if (!(least <= most)) return;
  least = std::clamp(least, -huge, huge);
  most = std::clamp(most, -huge, huge);
  // Numbers that differ in their last digits only are shown as one line, in the middle.
  const double size = std::max({std::abs(least), std::abs(most), 1e-300});
  if (most - least < 1e-9 * size) {
    const double room = least == 0 && most == 0 ? 1 : 0.1 * size;
    least -= least == 0 ? 0 : room;
    most += room;
  }
  const double span = (most - least) / 4;
  const double power = std::pow(10, std::floor(std::log10(span)));
  const double ratio = span / power;
  step = power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
  low = std::floor(least / step + 1e-9) * step;
  high = std::ceil(most / step - 1e-9) * step;
}

std::size_t Axis::lines() const { return static_cast<std::size_t>(std::lround((high - low) / step)) + 1; }
double Axis::line(std::size_t i) const { return low + static_cast<double>(i) * step; }

std::string Axis::text(double v) const {
  const int digits = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  if (digits <= 4 && std::max(std::abs(low), std::abs(high)) < 1e7) return fixed(v, digits);
  std::ostringstream text;
  text << std::setprecision(3) << (std::abs(v) < step / 2 ? 0 : v);
  return text.str();
}

std::string label(double x, double y, const std::string& text, const char* anchor) {
  return cat("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" text-anchor=\"", anchor, "\">",
             escaped(text), "</text>");
}

std::string line(double x0, double y0, double x1, double y1, const std::string& stroke) {
  return cat("<line x1=\"", fixed(x0, 1), "\" y1=\"", fixed(y0, 1), "\" x2=\"", fixed(x1, 1), "\" y2=\"",
             fixed(y1, 1), "\" stroke=\"", stroke, "\"/>");
}

std::string frame(const std::string& title, const Axis& axis, const std::vector<std::string>& names,
                  std::size_t first) {
  std::string svg = begin_drawing(title, high);
  for (std::size_t i = 0; i < axis.lines(); ++i) {
    const double v = axis.line(i);
    svg += line(left, axis.y(v), wide - right, axis.y(v), "var(--faint)");
    svg += label(left - 8, axis.y(v) + 4, axis.text(v), "end");
  }
  for (std::size_t i = 0; i < names.size(); ++i) svg += legend(i, top + 12, colour(first + i), names[i]);
  return svg + '\n';
}

std::string line_chart(const std::string& title, const Axis& x, const Axis& y,
                       const std::vector<Series>& lines, std::size_t first) {
  constexpr std::size_t dotted = 60;
  std::vector<std::string> names;
  for (const Series& s : lines) names.push_back(s.name);
  std::string svg = frame(title, y, names, first);
  for (std::size_t i = 0; i < x.lines(); ++i)
    svg += label(x.x(x.line(i)), high - bottom + 20, x.text(x.line(i)), "middle");
  svg += label((left + wide - right) / 2, high - 6, "step", "middle");
  const auto path = [&](const std::vector<std::pair<double, double>>& points) {
    std::string text;
    bool pen_down = false;
    for (const auto& [step, value] : points) {
      if (std::isfinite(value))
        text += cat(pen_down ? 'L' : 'M', fixed(x.x(step), 1), ' ', fixed(y.y(value), 1));
      pen_down = std::isfinite(value);
    }
    return text;
  };
  std::string behind, before;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto& [name, points, means] = lines[i];
    const std::string stroke = cat("fill=\"none\" stroke=\"", colour(first + i), "\" stroke-width=\"1.5\"");
    if (!means.empty()) behind += cat("<path d=\"", path(points), "\" ", stroke, " opacity=\"0.35\"/>\n");
    before += cat("<path d=\"", path(means.empty() ? points : means), "\" ", stroke, "/>\n");
    for (const auto& [step, value] : points) {
      if (points.size() > dotted || !std::isfinite(value)) continue;
      std::ostringstream number_of;
      number_of << std::setprecision(6) << value;
      before += cat("<circle cx=\"", fixed(x.x(step), 1), "\" cy=\"", fixed(y.y(value), 1),
                    "\" r=\"2.5\" fill=\"", colour(first + i), "\"><title>", escaped(name), ", step ",
                    fixed(step, 0), ": ", number_of.str(), "</title></circle>");
    }
  }
  return svg + behind + before + "</svg>\n";
}

std::string heat_map(const HeatMap& map) {
  // Bounds of a share over the balanced one; a tenth off is balanced enough.
  constexpr std::array<double, 8> bounds{0.25, 0.5, 0.75, 0.9, 1.1, 1.5, 2, 4};
  const auto rows = map.rows.size(), columns = std::max<std::size_t>(1, map.columns.size());
  const double cell = std::clamp(300 / static_cast<double>(std::max<std::size_t>(1, rows)), 2.0, 20.0);
  const double across = (wide - left - right) / static_cast<double>(columns);
  const double base = top + cell * static_cast<double>(rows);
  const double height = std::max(top + 20 * static_cast<double>(bounds.size() + 1), base + bottom);
  std::array<std::string, 9> paths;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < map.cells[r].size(); ++c) {
      const double v = map.cells[r][c];
      if (!std::isfinite(v)) continue;
      const auto level =
          static_cast<std::size_t>(std::upper_bound(bounds.begin(), bounds.end(), v) - bounds.begin());
      paths[level] += cat('M', fixed(left + across * static_cast<double>(c), 1), ' ',
                          fixed(top + cell * static_cast<double>(r), 1), 'h', fixed(across, 1), 'v',
                          fixed(cell, 1), 'h', fixed(-across, 1), 'z');
    }
  }
  std::string svg = begin_drawing(map.title, height);
  for (std::size_t level = 0; level < paths.size(); ++level) {
    const std::string fill = cat("var(--h", level, ')');
    const auto bound = [&](std::size_t i) {
      std::ostringstream text_of;
      text_of << bounds[i];
      return text_of.str();
    };
    const std::string text = level == 0   ? cat("below ", bound(0))
                             : level == 8 ? cat(bound(7), " and more")
                                          : cat(bound(level - 1), " - ", bound(level));
    if (!paths[level].empty()) svg += cat("<path fill=\"", fill, "\" d=\"", paths[level], "\"/>\n");
    svg += legend(8 - level, top + 12, fill, text);
  }
  const std::size_t every_row =
      (rows * 14) / static_cast<std::size_t>(cell * static_cast<double>(rows) + 1) + 1;
  for (std::size_t r = 0; r < rows; r += every_row)
    svg += label(left - 8, top + cell * (static_cast<double>(r) + 0.5) + 4, map.rows[r], "end");
  const std::size_t every_column = (map.columns.size() + 7) / 8;
  for (std::size_t c = 0; c < map.columns.size(); c += every_column)
    svg += label(left + across * (static_cast<double>(c) + 0.5), base + 18, map.columns[c], "middle");
  return svg + label((left + wide - right) / 2, base + 36, map.across, "middle") + "</svg>\n";
}

}  // namespace program
