// The report of `mtpx compare`: text, drawings and a page, all from its JSON.

#include "report.hpp"

#include <algorithm>
#include <cmath>

namespace program {
namespace {

using mtpx::cat;
using mtpx::Json;

/// One set of colours for light grounds and one for dark ones; a drawing carries them itself.
constexpr const char* style =
    "<style>.m{--ink:#1f2328;--faint:#d0d7de;--c0:#57606a;--c1:#0969da;--c2:#bc4c00;--c3:#1a7f37;--c4:#"
    "8250df;"
    "--c5:#cf222e;--c6:#9a6700;font:13px system-ui,sans-serif;fill:var(--ink)}"
    "@media(prefers-color-scheme:dark){.m{--ink:#e6edf3;--faint:#3d444d;--c0:#9198a1;--c1:#58a6ff;--c2:#"
    "f0883e;"
    "--c3:#3fb950;--c4:#bc8cff;--c5:#ff7b72;--c6:#d29922}}</style>";

std::string colour(std::size_t i) { return cat("var(--c", i % 7, ')'); }

/// "1.234 ± 0.005"
std::string with_spread(const Json& s, int digits, double unit = 1) {
  return cat(fixed(s["mean"].get<double>() * unit, digits), " ± ",
             fixed(s["sd"].get<double>() * unit, digits));
}

double mean_of(const Json& s) { return s["mean"].get<double>(); }

// ---- tables --------------------------------------------------------------------------------------------

struct Grid {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
};

/// A figure of every depth: "2.10, 2.35".
std::string list(const Json& all, int digits, double unit = 1) {
  std::string text;
  for (const Json& s : all) text += (text.empty() ? "" : ", ") + fixed(mean_of(s) * unit, digits);
  return text.empty() ? "-" : text;
}

Grid quality(const Json& table) {
  Grid grid{{"design", "layers", "parameters", "main loss, nats", "over baseline", "losses of depths",
             "right, % by depth", "as main, %"},
            {}};
  for (const Json& d : table["designs"]) {
    const Json& s = d["summary"];
    Json depths = Json::array();
    for (std::size_t k = 1; k < s["loss"].size(); ++k) depths.push_back(s["loss"][k]);
    grid.rows.push_back({d["name"].get<std::string>(), d["num_hidden_layers"].dump(), d["parameters"].dump(),
                         with_spread(s["main_loss"], 4),
                         s.contains("main_loss_over_baseline") && d["name"] != "baseline"
                             ? with_spread(s["main_loss_over_baseline"], 4)
                             : "-",
                         list(depths, 3), list(s["accuracy"], 1, 100), list(s["agreement"], 1, 100)});
  }
  return grid;
}

Grid speed(const Json& table) {
  Grid grid{{"design", "greedy: accepted, % by place", "mean length", "speed-up", "sampled: accepted",
             "mean length", "speed-up", "plain, tokens/s", "training, tokens/s", "peak, MiB"},
            {}};
  for (const Json& d : table["designs"]) {
    const Json& s = d["summary"];
    std::vector<std::string>& row = grid.rows.emplace_back();
    row.push_back(d["name"].get<std::string>());
    for (const char* mode : {"greedy", "sampled"}) {
      const Json& m = s[mode];
      row.push_back(m.contains("acceptance") ? list(m["acceptance"], 1, 100) : "-");
      for (const char* key : {"mean_length", "speedup"})
        row.push_back(m.contains(key) ? with_spread(m[key], 3) : "-");
    }
    row.push_back(with_spread(s["sampled"]["plain_tokens_per_s"], 0));
    row.push_back(with_spread(s["train_tokens_per_s"], 0));
    row.push_back(fixed(mean_of(s["peak_mib"]), 0));
  }
  return grid;
}

/// Width on a terminal: bytes that begin a character.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string as_markdown(const Grid& grid) {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < grid.head.size(); ++c) {
    widths.push_back(width_of(grid.head[c]));
    for (const auto& row : grid.rows) widths[c] = std::max(widths[c], width_of(row[c]));
  }
  std::string text;
  const auto line = [&](const std::vector<std::string>& cells) {
    text += '|';
    for (std::size_t c = 0; c < cells.size(); ++c)
      text += ' ' + cells[c] + std::string(widths[c] - width_of(cells[c]), ' ') + " |";
    text += '\n';
  };
  line(grid.head);
  std::vector<std::string> rule;
  for (const std::size_t w : widths) rule.emplace_back(w, '-');
  line(rule);
  for (const auto& row : grid.rows) line(row);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
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

// ---- drawings ------------------------------------------------------------------------------------------

constexpr double wide = 720, high = 320, left = 60, right = 150, top = 34, bottom = 44;

/// A number line: a range with round steps.
struct Axis {
  double low, high, step;

  Axis(double least, double most) {
    const double span = std::max(most - least, 1e-9);
    const double power = std::pow(10, std::floor(std::log10(span / 4)));
    const double ratio = span / 4 / power;
    step = power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
    low = std::floor(least / step + 1e-9) * step;
    high = std::ceil(most / step - 1e-9) * step;
  }
  double y(double value) const {
    return top + (1 - (value - low) / (high - low)) * (program::high - top - bottom);
  }
  int digits() const { return std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9))); }
};

std::string label(double x, double y, const std::string& text, const char* anchor = "start") {
  return cat("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" text-anchor=\"", anchor, "\">",
             escaped(text), "</text>");
}

std::string line(double x0, double y0, double x1, double y1, const std::string& stroke) {
  return cat("<line x1=\"", fixed(x0, 1), "\" y1=\"", fixed(y0, 1), "\" x2=\"", fixed(x1, 1), "\" y2=\"",
             fixed(y1, 1), "\" stroke=\"", stroke, "\"/>");
}

/// Frame, title, horizontal lines with numbers, and the legend.
std::string frame(const std::string& title, const Axis& axis, const std::vector<std::string>& names) {
  std::string svg = cat("<svg class=\"m\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", wide, ' ',
                        high, "\" role=\"img\" aria-label=\"", escaped(title), "\">", style);
  svg += cat("<g font-weight=\"600\">", label(left, 18, title), "</g>");
  for (double v = axis.low; v < axis.high + axis.step / 2; v += axis.step) {
    svg += line(left, axis.y(v), wide - right, axis.y(v), "var(--faint)");
    svg += label(left - 8, axis.y(v) + 4, fixed(v, axis.digits()), "end");
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double y = top + 12 + 20 * static_cast<double>(i);
    svg += cat("<rect x=\"", wide - right + 16, "\" y=\"", y - 9, "\" width=\"12\" height=\"12\" fill=\"",
               colour(i), "\"/>", label(wide - right + 34, y + 2, names[i]));
  }
  return svg + '\n';
}

std::vector<std::string> names_of(const Json& table) {
  std::vector<std::string> names;
  for (const Json& d : table["designs"]) names.push_back(d["name"].get<std::string>());
  return names;
}

/// A figure of depth k over steps: the mean over seeds as a line, their range behind it. Designs without that
/// depth have no line.
std::string curves(const Json& table, const char* key, std::size_t k, double unit, const std::string& title) {
  const auto has = [&](const Json& design) { return k <= design["depth"].get<std::size_t>(); };
  const auto at = [&](const Json& run, std::size_t i) {
    return run["curve"][i][key][k].get<double>() * unit;
  };
  // The first of many points would flatten all others.
  const std::size_t first = table["designs"][0]["runs"][0]["curve"].size() > 2 ? 1 : 0;
  double least = 1e9, most = 0, steps = 0;
  for (const Json& d : table["designs"]) {
    if (!has(d)) continue;
    for (const Json& run : d["runs"]) {
      for (std::size_t i = first; i < run["curve"].size(); ++i) {
        least = std::min(least, at(run, i));
        most = std::max(most, at(run, i));
        steps = std::max(steps, run["curve"][i]["step"].get<double>());
      }
    }
  }
  const Axis axis(least, most);
  std::string svg = frame(title, axis, names_of(table));
  const auto x = [&](double step) { return left + step / steps * (wide - left - right); };
  for (std::size_t i = 1; i <= 4; ++i) {
    const double step = steps * static_cast<double>(i) / 4;
    svg += label(x(step), high - bottom + 20, fixed(step, 0), "middle");
  }
  std::size_t index = 0;
  for (const Json& d : table["designs"]) {
    const std::string stroke = colour(index++);
    if (!has(d)) continue;
    const Json& runs = d["runs"];
    std::string points, above, below;
    for (std::size_t i = first; i < runs[0]["curve"].size(); ++i) {
      double mean = 0, lowest = 1e9, highest = 0;
      for (const Json& run : runs) {
        mean += at(run, i) / static_cast<double>(runs.size());
        lowest = std::min(lowest, at(run, i));
        highest = std::max(highest, at(run, i));
      }
      const std::string here = fixed(x(runs[0]["curve"][i]["step"].get<double>()), 1);
      points += cat(here, ',', fixed(axis.y(mean), 1), ' ');
      above += cat(here, ',', fixed(axis.y(highest), 1), ' ');
      below = cat(here, ',', fixed(axis.y(lowest), 1), ' ') + below;
    }
    svg += cat("<polygon points=\"", above, below, "\" fill=\"", stroke, "\" opacity=\"0.18\"/>");
    svg +=
        cat("<polyline points=\"", points, "\" fill=\"none\" stroke=\"", stroke, "\" stroke-width=\"2\"/>\n");
  }
  return svg + "</svg>\n";
}

struct Group {
  std::string name;
  std::vector<const Json*> values;  // [design]: {mean, sd}, or null
};

/// Bars side by side, a group for each place, with one standard deviation up and down.
std::string bars(const std::string& title, const std::vector<std::string>& names,
                 const std::vector<Group>& groups, double unit) {
  double most = 0;
  for (const Group& g : groups) {
    for (const Json* s : g.values) {
      if (s != nullptr) most = std::max(most, ((*s)["mean"].get<double>() + (*s)["sd"].get<double>()) * unit);
    }
  }
  const Axis axis(0, most);
  std::string svg = frame(title, axis, names);
  const double room = (wide - left - right) / static_cast<double>(groups.size());
  const double bar = room * 0.8 / static_cast<double>(names.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const double begin = left + room * (static_cast<double>(g) + 0.1);
    svg += label(begin + room * 0.4, high - bottom + 20, groups[g].name, "middle");
    for (std::size_t i = 0; i < names.size(); ++i) {
      const Json* s = groups[g].values[i];
      if (s == nullptr) continue;
      const double mean = (*s)["mean"].get<double>() * unit, sd = (*s)["sd"].get<double>() * unit;
      const double x = begin + bar * static_cast<double>(i);
      svg += cat("<rect x=\"", fixed(x + 1, 1), "\" y=\"", fixed(axis.y(mean), 1), "\" width=\"",
                 fixed(bar - 2, 1), "\" height=\"", fixed(axis.y(0) - axis.y(mean), 1), "\" fill=\"",
                 colour(i), "\"><title>", names[i], ": ", fixed(mean, 3), "</title></rect>",
                 line(x + bar / 2, axis.y(mean - sd), x + bar / 2, axis.y(mean + sd), "var(--ink)"));
    }
    svg += '\n';
  }
  return svg + "</svg>\n";
}

/// A group for each of the first `count` of a list in every design's summary, where it has that many.
std::vector<Group> by_place(const Json& table, const char* pointer, std::size_t count,
                            const std::string& name) {
  std::vector<Group> groups;
  const Json::json_pointer at(pointer);
  for (std::size_t i = 0; i < count; ++i) {
    Group& group = groups.emplace_back(Group{cat(name, ' ', i + 1), {}});
    for (const Json& d : table["designs"]) {
      const Json& s = d["summary"];
      group.values.push_back(s.contains(at) && i < s[at].size() ? &s[at][i] : nullptr);
    }
  }
  return groups;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> report_figures(const Json& report) {
  const Json& table = report["tables"][0];
  const auto names = names_of(table);
  const auto depth = report["settings"]["depth"].get<std::size_t>();
  std::vector<Group> rates{{"plain", {}}, {"drafted, greedy", {}}, {"drafted, sampled", {}}};
  for (const Json& d : table["designs"]) {
    const auto find = [&d](const char* mode, const char* key) {
      const Json& m = d["summary"][mode];
      return m.contains(key) ? &m[key] : nullptr;
    };
    rates[0].values.push_back(find("sampled", "plain_tokens_per_s"));
    rates[1].values.push_back(find("greedy", "drafted_tokens_per_s"));
    rates[2].values.push_back(find("sampled", "drafted_tokens_per_s"));
  }
  std::vector<std::pair<std::string, std::string>> figures;
  for (std::size_t k = 0; k <= depth; ++k) {
    const std::string who = k == 0 ? "the main head" : cat("depth ", k);
    figures.emplace_back(
        cat("loss_", k),
        curves(table, "loss", k, 1, cat("Validation loss of ", who, ", nats a token, over steps")));
    figures.emplace_back(cat("accuracy_", k), curves(table, "accuracy", k, 100,
                                                     cat("Tokens that ", who, " has right, %, over steps")));
  }
  figures.emplace_back("acceptance", bars("Drafts accepted by place, %, sampled", names,
                                          by_place(table, "/sampled/acceptance", depth, "draft"), 100));
  figures.emplace_back("decoding", bars("Decoding, tokens/s", names, rates, 1));
  return figures;
}

std::string report_text(const Json& report) {
  std::string text;
  for (const Json& table : report["tables"]) {
    text += cat(table["name"].get<std::string>(), ", mean ± standard deviation of ",
                report["settings"]["seeds"].dump(), " seeds\n\n", as_markdown(quality(table)), '\n',
                as_markdown(speed(table)), '\n');
  }
  for (const Json& c : report["claims"]) {
    text += cat(c["claim"].get<std::string>(), ": ", c["verdict"].get<std::string>(), ". ",
                c["figure"].get<std::string>(), ": ", with_spread(c["gain"], 4), '\n');
  }
  return text;
}

std::string report_html(const Json& report) {
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>mtpx compare</title><style>:root{color-scheme:light "
      "dark}body{font:15px/"
      "1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 "
      "1rem}table{border-collapse:collapse;"
      "font-size:13px;font-variant-numeric:tabular-nums}th,td{padding:.3rem "
      ".6rem;text-align:right;border-bottom:1px "
      "solid "
      "#8884;white-space:nowrap}th:first-child,td:first-child{text-align:left}.wide{overflow-x:auto}svg{"
      "width:"
      "100%;height:auto;margin:1rem 0}dt{font-weight:600;margin-top:.8rem}</style></head><body>\n<h1>Designs "
      "of "
      "multi-token prediction, compared</h1>\n";
  page += "<p>Every design has the same start, the same batches and the same validation text for a seed. ";
  for (const auto& [key, value] : report["settings"].items())
    page += cat(escaped(key), " = ", escaped(value.dump()), key == "seconds" ? "" : ", ");
  page += ". Numbers are means &plusmn; standard deviations over seeds.</p>\n<h2>The claims</h2><dl>\n";
  for (const Json& c : report["claims"]) {
    page += cat("<dt>", escaped(c["claim"].get<std::string>()), "</dt><dd><b>",
                escaped(c["verdict"].get<std::string>()), ".</b> ", escaped(c["figure"].get<std::string>()),
                ": ", with_spread(c["gain"], 4), "</dd>\n");
  }
  page += "</dl>\n";
  const auto figures = report_figures(report);
  for (const auto& [name, svg] : figures) page += svg;
  for (const Json& table : report["tables"]) {
    page += cat("<h2>", escaped(table["name"].get<std::string>()), "</h2>\n", as_html(quality(table)),
                as_html(speed(table)));
  }
  page += "<h2>What the designs are</h2><dl>\n";
  for (const Json& d : report["tables"][0]["designs"]) {
    page += cat("<dt>", escaped(d["name"].get<std::string>()), "</dt><dd>",
                escaped(d["what"].get<std::string>()), "</dd>\n");
  }
  page +=
      "</dl>\n<p>Losses and accuracies are over validation text, each depth given true tokens: a sequential "
      "depth "
      "k reads k tokens more than a parallel one. What drafts are worth shows in decoding, where every depth "
      "reads "
      "the drafts before it. Speed-ups are with as many drafts as depths; greedy text of small models runs "
      "in circles, which flatters drafts.</p>\n</body></html>\n";
  return page;
}

}  // namespace program
