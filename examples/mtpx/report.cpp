// The report of `mtpx compare`: text, drawings and a page, all from its JSON.

#include "report.hpp"

#include "chart.hpp"
#include "repetition.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

namespace program {
namespace {

using mtpx::cat;

/// "1.234 ± 0.005"
std::string with_spread(const Checked& s, int digits, double unit = 1) {
  return cat(fixed(s["mean"].number() * unit, digits), " ± ", fixed(s["sd"].number() * unit, digits));
}

double mean_of(const Checked& s) { return s["mean"].number(); }

// ---- tables --------------------------------------------------------------------------------------------

/// A figure of every depth from `first` on: "2.10, 2.35".
std::string list(const Checked& all, int digits, double unit = 1, std::size_t first = 0) {
  std::string text;
  for (std::size_t k = first; k < all.size(); ++k)
    text += (text.empty() ? "" : ", ") + fixed(mean_of(all[k]) * unit, digits);
  return text.empty() ? "-" : text;
}

Grid quality(const Checked& table) {
  Grid grid{{"design", "layers", "parameters", "main loss, nats", "over baseline", "losses of depths",
             "right, % by depth", "as main, %"},
            {}};
  for (const Checked& d : table["designs"].entries()) {
    const Checked s = d["summary"];
    grid.rows.push_back({d["name"].text(), d["num_hidden_layers"].dump(), d["parameters"].dump(),
                         with_spread(s["main_loss"], 4),
                         s.has("main_loss_over_baseline") && d["name"].text() != "baseline"
                             ? with_spread(s["main_loss_over_baseline"], 4)
                             : "-",
                         list(s["loss"], 3, 1, 1), list(s["accuracy"], 1, 100),
                         list(s["agreement"], 1, 100)});
  }
  return grid;
}

/// The share of what was generated that repeats; marked where it is so much that the figures beside say
/// little.
std::string repeated(const Checked& mode) {
  if (!mode.has("repeated_8grams")) return "-";
  const double share = mean_of(mode["repeated_8grams"]);
  return fixed(100 * share, 0) + (share > repeats_above ? " repeats" : "");
}

Grid speed(const Checked& table) {
  Grid grid{{"design", "greedy: accepted, % by place", "mean length", "speed-up", "repeated, %",
             "sampled: accepted", "mean length", "speed-up", "repeated, %", "temperature 1: accepted",
             "mean length", "speed-up", "repeated, %", "sum min(p, q), % by depth", "plain, tokens/s",
             "prompts, tokens/s", "training, tokens/s", "peak, MiB"},
            {}};
  for (const Checked& d : table["designs"].entries()) {
    const Checked s = d["summary"];
    std::vector<std::string>& row = grid.rows.emplace_back();
    row.push_back(d["name"].text());
    for (const char* mode : decoding_modes) {
      if (!s.has(mode)) {  // a report of an earlier version
        row.insert(row.end(), 4, "-");
        continue;
      }
      const Checked m = s[mode];
      row.push_back(m.has("acceptance") ? list(m["acceptance"], 1, 100) : "-");
      for (const char* key : {"mean_length", "speedup"})
        row.push_back(m.has(key) ? with_spread(m[key], 3) : "-");
      row.push_back(repeated(m));
    }
    const Checked sampled = s["sampled"];
    row.push_back(sampled.has("sum_min_p_q") ? list(sampled["sum_min_p_q"], 1, 100) : "-");
    row.push_back(with_spread(sampled["plain_tokens_per_s"], 0));
    row.push_back(sampled.has("prompt_tokens_per_s") ? with_spread(sampled["prompt_tokens_per_s"], 0) : "-");
    row.push_back(with_spread(s["train_tokens_per_s"], 0));
    row.push_back(fixed(mean_of(s["peak_mib"]), 0));
  }
  return grid;
}

// ---- drawings ------------------------------------------------------------------------------------------

std::vector<std::string> names_of(const Checked& table) {
  std::vector<std::string> names;
  for (const Checked& d : table["designs"].entries()) names.push_back(d["name"].text());
  return names;
}

/// A figure of depth k over steps: the mean over seeds as a line, their range behind it. Designs without that
/// depth have no line.
std::string curves(const Checked& table, const char* key, std::size_t k, double unit,
                   const std::string& title) {
  struct Point {
    double step, mean = 0, least = 1e300, most = -1e300;
  };
  std::vector<std::vector<Point>> lines;  // [design]
  double least = 1e300, most = -1e300, steps = 1;
  for (const Checked& d : table["designs"].entries()) {
    std::vector<Point>& points = lines.emplace_back();
    if (k > d["depth"].whole(deepest)) continue;
    const std::vector<Checked> runs = d["runs"].entries();
    const Checked curve = d["runs"][0]["curve"];
    // The first of many points would flatten all others.
    for (std::size_t i = curve.size() > 2 ? 1 : 0; i < curve.size(); ++i) {
      Point& point = points.emplace_back(Point{curve[i]["step"].number()});
      for (const Checked& run : runs) {
        const double value = run["curve"][i][key][k].number() * unit;
        point.mean += value / static_cast<double>(runs.size());
        point.least = std::min(point.least, value);
        point.most = std::max(point.most, value);
      }
      least = std::min(least, point.least);
      most = std::max(most, point.most);
      steps = std::max(steps, point.step);
    }
  }
  const Axis axis(least, most);
  std::string svg = frame(title, axis, names_of(table));
  const Axis across(0, steps);
  for (std::size_t i = 0; i < across.lines(); ++i)
    svg += label(across.x(across.line(i)), high - bottom + 20, across.text(across.line(i)), "middle");
  for (std::size_t design = 0; design < lines.size(); ++design) {
    if (lines[design].empty()) continue;
    std::string points, above, below;
    for (const Point& point : lines[design]) {
      const std::string here = fixed(across.x(point.step), 1);
      points += cat(here, ',', fixed(axis.y(point.mean), 1), ' ');
      above += cat(here, ',', fixed(axis.y(point.most), 1), ' ');
      below = cat(here, ',', fixed(axis.y(point.least), 1), ' ') + below;
    }
    svg += cat("<polygon points=\"", above, below, "\" fill=\"", colour(design), "\" opacity=\"0.18\"/>");
    svg += cat("<polyline points=\"", points, "\" fill=\"none\" stroke=\"", colour(design),
               "\" stroke-width=\"2\"/>\n");
  }
  return svg + "</svg>\n";
}

struct Bar {
  double mean, sd;
};

/// A group of bars: one of each design, where it has one.
struct Group {
  std::string name;
  std::vector<std::optional<Bar>> bars;

  void add(const std::optional<Checked>& s) {
    bars.push_back(s ? std::optional<Bar>({(*s)["mean"].number(), (*s)["sd"].number()}) : std::nullopt);
  }
};

/// Bars side by side, a group for each place, with one standard deviation up and down.
std::string bars(const std::string& title, const std::vector<std::string>& names,
                 const std::vector<Group>& groups, double unit) {
  double least = 0, most = 0;
  for (const Group& g : groups) {
    for (const auto& bar : g.bars) {
      if (!bar) continue;
      least = std::min(least, bar->mean * unit);
      most = std::max(most, (bar->mean + bar->sd) * unit);
    }
  }
  const Axis axis(least, most);
  std::string svg = frame(title, axis, names);
  const double room = (wide - left - right) / static_cast<double>(groups.size());
  const double width = room * 0.8 / static_cast<double>(names.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const double begin = left + room * (static_cast<double>(g) + 0.1);
    svg += label(begin + room * 0.4, high - bottom + 20, groups[g].name, "middle");
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (!groups[g].bars[i]) continue;
      const double mean = groups[g].bars[i]->mean * unit, sd = groups[g].bars[i]->sd * unit;
      const double x = begin + width * static_cast<double>(i);
      svg += cat("<rect x=\"", fixed(x + 1, 1), "\" y=\"", fixed(axis.y(std::max(mean, 0.0)), 1),
                 "\" width=\"", fixed(std::max(width - 2, 0.5), 1), "\" height=\"",
                 fixed(std::abs(axis.y(0) - axis.y(mean)), 1), "\" fill=\"", colour(i), "\"><title>",
                 escaped(names[i]), ": ", fixed(mean, 3), "</title></rect>",
                 line(x + width / 2, axis.y(mean - sd), x + width / 2, axis.y(mean + sd), "var(--ink)"));
    }
    svg += '\n';
  }
  return svg + "</svg>\n";
}

}  // namespace

std::vector<std::pair<std::string, std::string>> report_figures(const Checked& report) {
  const Checked table = report["tables"][0];
  const auto names = names_of(table);
  const auto depth = static_cast<std::size_t>(report["settings"]["depth"].whole(deepest));
  std::vector<Group> places, rates{{"plain", {}}, {"drafted, greedy", {}}, {"drafted, sampled", {}}};
  for (std::size_t i = 0; i < depth; ++i) places.push_back({cat("draft ", i + 1), {}});
  for (const Checked& d : table["designs"].entries()) {
    const Checked greedy = d["summary"]["greedy"], sampled = d["summary"]["sampled"];
    const auto find = [](const Checked& mode, const char* key) {
      return mode.has(key) ? std::optional<Checked>(mode[key]) : std::nullopt;
    };
    rates[0].add(find(sampled, "plain_tokens_per_s"));
    rates[1].add(find(greedy, "drafted_tokens_per_s"));
    rates[2].add(find(sampled, "drafted_tokens_per_s"));
    const std::optional<Checked> accepted = find(sampled, "acceptance");
    for (std::size_t i = 0; i < depth; ++i)
      places[i].add(accepted && i < accepted->size() ? std::optional<Checked>((*accepted)[i]) : std::nullopt);
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
  figures.emplace_back("acceptance", bars("Drafts accepted by place, %, sampled", names, places, 100));
  figures.emplace_back("decoding", bars("Decoding, tokens/s", names, rates, 1));
  return figures;
}

std::string report_text(const Checked& report) {
  std::string text;
  for (const Checked& table : report["tables"].entries()) {
    text += cat(table["name"].text(), ", mean ± standard deviation of ", report["settings"]["seeds"].dump(),
                " seeds\n\n", as_markdown(quality(table)), '\n', as_markdown(speed(table)), '\n');
  }
  for (const Checked& c : report["claims"].entries()) {
    text += cat(c["claim"].text(), ": ", c["verdict"].text(), ". ", c["figure"].text(), ": ",
                with_spread(c["gain"], 4), '\n');
  }
  return text;
}

std::string report_html(const Checked& report) {
  std::string page =
      "<h1>Designs of multi-token prediction, compared</h1>\n<p>Every design has the same start, the same "
      "batches and the same validation text for a seed. ";
  for (const auto& [key, value] : report["settings"].object().items())
    page += cat(escaped(key), " = ", escaped(value.dump()), key == "seconds" ? "" : ", ");
  page += ". Numbers are means &plusmn; standard deviations over seeds.</p>\n<h2>The claims</h2><dl>\n";
  for (const Checked& c : report["claims"].entries()) {
    page += cat("<dt>", escaped(c["claim"].text()), "</dt><dd><b>", escaped(c["verdict"].text()), ".</b> ",
                escaped(c["figure"].text()), ": ", with_spread(c["gain"], 4), "</dd>\n");
  }
  page += "</dl>\n";
  for (const auto& [name, svg] : report_figures(report)) page += svg;
  for (const Checked& table : report["tables"].entries()) {
    page +=
        cat("<h2>", escaped(table["name"].text()), "</h2>\n", as_html(quality(table)), as_html(speed(table)));
  }
  page += "<h2>What the designs are</h2><dl>\n";
  for (const Checked& d : report["tables"][0]["designs"].entries())
    page += cat("<dt>", escaped(d["name"].text()), "</dt><dd>", escaped(d["what"].text()), "</dd>\n");
  page +=
      "</dl>\n<p>Losses and accuracies are over validation text, each depth given true tokens: a sequential "
      "depth k reads k tokens more than a parallel one. What drafts are worth shows in decoding, where every "
      "depth reads the drafts before it. Speed-ups are with as many drafts as depths. Text that runs in "
      "circles "
      "flatters drafts: where more than " +
      fixed(100 * repeats_above, 0) +
      " % of the 8-grams that were generated stood in their text before, figures are marked "
      "&quot;repeats&quot;. Sum min(p, q) is the most drafts that any exact rule lets stand, given true "
      "tokens, at the temperature of the settings.</p>\n";
  return as_page("mtpx compare", page);
}

}  // namespace program
