// mtpx report: what trainings showed, as a page; several side by side, on the same axes.

#include "run_report.hpp"

#include "chart.hpp"

#include <mtpx/io/file.hpp>

#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <set>

namespace program {
namespace {

using mtpx::cat;

constexpr std::size_t buckets = 300;  // parts of the steps, of each of which the extremes are drawn
constexpr std::size_t most_samples = 40;
constexpr std::size_t most_text = 2000;  // bytes of a sample or a value

std::string clipped(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  const std::string_view front = std::string_view(text).substr(0, most);
  return cat(front.substr(0, mtpx::detail::utf8_prefix(front)), "…");
}

std::string head_name(std::size_t k) { return k == 0 ? "main head" : cat("depth ", k); }

/// What a legend calls run i.
std::string short_name(const std::vector<RunLog>& runs, std::size_t i) {
  const std::filesystem::path path(runs[i].name);
  const std::filesystem::path last = path.has_filename() ? path.filename() : path.parent_path().filename();
  return cat(i + 1, ' ', clipped(last.string(), 14));
}

/// One entry of each run beside each other, under their names where there are several.
std::string side_by_side(const std::vector<RunLog>& runs, const std::function<std::string(std::size_t)>& of) {
  std::string text = "<div class=\"side\">";
  for (std::size_t i = 0; i < runs.size(); ++i)
    text += cat("<div>", runs.size() > 1 ? "<h3>" + escaped(short_name(runs, i)) + "</h3>" : "", of(i),
                "</div>\n");
  return text + "</div>\n";
}

// ---- lines over steps ------------------------------------------------------------------------------------

/// Figures of one run over its steps.
struct Lines {
  std::vector<std::uint64_t> steps;
  std::vector<std::string> names;
  std::vector<std::vector<double>> values;  // [line][step]
};

/// The steps of a run, or of more than 2 * buckets those of `buckets` equal parts: [begin, end) of each.
std::vector<std::pair<std::size_t, std::size_t>> parts(const std::vector<std::uint64_t>& steps) {
  std::vector<std::pair<std::size_t, std::size_t>> all;
  if (steps.empty()) return all;
  const auto span = static_cast<double>(steps.back() - steps.front() + 1);
  const auto part = [&](std::size_t i) {
    return steps.size() <= 2 * buckets
               ? i
               : static_cast<std::size_t>(static_cast<double>(steps[i] - steps.front()) / span * buckets);
  };
  for (std::size_t begin = 0, end = 0; begin < steps.size(); begin = end) {
    while (end < steps.size() && part(end) == part(begin)) ++end;
    all.emplace_back(begin, end);
  }
  return all;
}

/// Which steps are shown: those where a line is lowest or highest, or not a number, within a part; and the
/// last.
std::vector<std::size_t> shown(const Lines& lines) {
  std::set<std::size_t> kept;
  if (!lines.steps.empty()) kept.insert(lines.steps.size() - 1);
  for (const auto& [begin, end] : parts(lines.steps)) {
    for (const std::vector<double>& line : lines.values) {
      std::size_t least = begin, most = begin, none = end;
      for (std::size_t i = begin; i < end; ++i) {
        if (std::isnan(line[i])) none = i;
        if (line[i] < line[least] || std::isnan(line[least])) least = i;
        if (line[i] > line[most] || std::isnan(line[most])) most = i;
      }
      kept.insert({least, most});
      if (none < end) kept.insert(none);
    }
  }
  return {kept.begin(), kept.end()};
}

/// A line as it is drawn: the steps that are shown and, of many, the mean of each part.
Series series_of(const Lines& lines, std::size_t line, const std::vector<std::size_t>& kept,
                 std::string name) {
  Series s{std::move(name), {}, {}};
  for (const std::size_t i : kept)
    s.points.emplace_back(static_cast<double>(lines.steps[i]), lines.values[line][i]);
  const auto all = parts(lines.steps);
  for (const auto& [begin, end] : all.size() < lines.steps.size() ? all : decltype(all)()) {
    double step = 0, mean = 0, count = 0;
    for (std::size_t i = begin; i < end; ++i) {
      if (std::isnan(lines.values[line][i])) continue;
      step += static_cast<double>(lines.steps[i]);
      mean += lines.values[line][i];
      ++count;
    }
    if (count > 0) s.means.emplace_back(step / count, mean / count);
  }
  return s;
}

/// A range of numbers that grows by what is put in.
struct Range {
  double least = std::numeric_limits<double>::infinity(), most = -least;

  void put(double v) {
    if (!std::isfinite(v)) return;
    least = std::min(least, v);
    most = std::max(most, v);
  }
  Axis axis() const { return {least, most}; }
};

Axis step_axis(const std::vector<RunLog>& runs) {
  Range range;
  range.put(0);
  for (const RunLog& run : runs) {
    if (!run.steps.empty()) range.put(static_cast<double>(run.steps.back().step));
    if (!run.evaluations.empty()) range.put(static_cast<double>(run.evaluations.back().step));
  }
  return range.axis();
}

/// The same figure of every run on the same axes, with its numbers.   y: what the axis holds at least
std::string figure(const std::vector<RunLog>& runs, const std::string& title,
                   const std::function<Lines(const RunLog&)>& of, Range y = {}) {
  std::vector<Lines> all;
  for (const RunLog& run : runs) {
    for (const auto& line : all.emplace_back(of(run)).values) {
      for (const double v : line) y.put(v);
    }
  }
  const Axis steps = step_axis(runs);
  return side_by_side(runs, [&](std::size_t r) {
    const Lines& lines = all[r];
    if (lines.steps.empty()) return cat("<p>", escaped(title), ": none</p>");
    const std::vector<std::size_t> kept = shown(lines);
    std::vector<Series> series;
    Grid grid{{"step"}, {}};
    for (const std::size_t i : kept) grid.rows.push_back({cat(lines.steps[i])});
    for (std::size_t l = 0; l < lines.names.size(); ++l) {
      grid.head.push_back(lines.names[l]);
      series.push_back(series_of(lines, l, kept, lines.names[l]));
      for (std::size_t row = 0; row < kept.size(); ++row)
        grid.rows[row].push_back(number(lines.values[l][kept[row]]));
    }
    return line_chart(title, steps, y.axis(), series) +
           details(cat(title, ": numbers of ", kept.size(), " of ", lines.steps.size(), " steps"), grid);
  });
}

Lines of_steps(const RunLog& run, const std::vector<std::string>& names,
               const std::function<double(const LoggedStep&, std::size_t)>& value) {
  Lines lines{{}, names, std::vector<std::vector<double>>(names.size())};
  for (const LoggedStep& step : run.steps) {
    lines.steps.push_back(step.step);
    for (std::size_t l = 0; l < names.size(); ++l) lines.values[l].push_back(value(step, l));
  }
  return lines;
}

Lines of_evaluations(const RunLog& run, const std::vector<std::string>& names,
                     const std::function<double(const LoggedEvaluation&, std::size_t)>& value) {
  Lines lines{{}, names, std::vector<std::vector<double>>(names.size())};
  for (const LoggedEvaluation& e : run.evaluations) {
    lines.steps.push_back(e.step);
    for (std::size_t l = 0; l < names.size(); ++l) lines.values[l].push_back(value(e, l));
  }
  return lines;
}

std::vector<std::string> heads_in(const RunLog& run) {
  std::vector<std::string> names;
  for (std::size_t k = 0; k < run.heads(); ++k) names.push_back(head_name(k));
  return names;
}

/// One line of every run in one drawing; the numbers stand below those of each.
std::string overlay(const std::vector<RunLog>& runs, const std::string& title,
                    const std::function<Lines(const RunLog&)>& of) {
  std::vector<Series> series;
  Range y;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const Lines lines = of(runs[r]);
    const std::vector<std::size_t> kept = shown(lines);
    series.push_back(series_of(lines, 0, kept, short_name(runs, r)));
    for (const std::size_t i : kept) y.put(lines.values[0][i]);
  }
  return cat("<div>", line_chart(title, step_axis(runs), y.axis(), series), "</div>\n");
}

std::string lines_html(const std::vector<RunLog>& runs) {
  std::string page;
  if (runs.size() > 1) {
    page += "<h2>Compared</h2>\n<div class=\"side\">";
    std::size_t heads = 0;
    for (const RunLog& run : runs) heads = std::max(heads, run.heads());
    page += overlay(runs, "Training loss of the main head, nats a token", [](const RunLog& run) {
      return of_steps(run, {"loss"}, [](const auto& s, std::size_t) { return s.loss[0]; });
    });
    page += overlay(runs, "Bits a byte", [](const RunLog& run) {
      return of_evaluations(run, {"bits"}, [](const auto& e, std::size_t) { return e.bits_per_byte; });
    });
    for (std::size_t k = 0; k < std::min<std::size_t>(heads, 5); ++k) {
      const auto at = [k](const std::vector<double>& list) {
        return k < list.size() ? list[k] : std::nan("");
      };
      page += overlay(runs, cat("Validation loss, ", head_name(k), ", nats a token"), [&](const RunLog& run) {
        return of_evaluations(run, {"loss"}, [&](const auto& e, std::size_t) { return at(e.loss); });
      });
      page += overlay(runs, cat("Acceptance, ", head_name(k), ", share of labels"), [&](const RunLog& run) {
        return of_evaluations(run, {"right"}, [&](const auto& e, std::size_t) { return at(e.acceptance); });
      });
    }
    page += "</div>\n";
  }
  page += "<h2>Training</h2>\n";
  page += figure(runs, "Training loss, nats a token", [](const RunLog& run) {
    return of_steps(run, heads_in(run), [](const auto& s, std::size_t k) { return s.loss[k]; });
  });
  page += figure(runs, "Gradient norm before clipping", [](const RunLog& run) {
    return of_steps(run, {"norm"}, [](const auto& s, std::size_t) { return s.gradient_norm; });
  });
  page += figure(runs, "Learning rate", [](const RunLog& run) {
    return of_steps(run, {"lr"}, [](const auto& s, std::size_t) { return s.lr; });
  });
  page += figure(runs, "Total loss that was minimised, weight of the depths",
                 [](const RunLog& run) {
                   return of_steps(run, {"total", "lambda"},
                                   [](const auto& s, std::size_t l) { return l == 0 ? s.total : s.lambda; });
                 },
                 {0, 0});
  page += figure(runs, "Tokens a second",
                 [](const RunLog& run) {
                   Lines lines{{}, {"tokens/s"}, {{}}};
                   for (const auto& [step, rate] : run.tokens_per_s) {
                     lines.steps.push_back(step);
                     lines.values[0].push_back(rate);
                   }
                   return lines;
                 },
                 {0, 0});
  page += "<h2>Validation</h2>\n";
  page += figure(runs, "Validation loss, nats a token", [](const RunLog& run) {
    return of_evaluations(run, heads_in(run), [](const auto& e, std::size_t k) { return e.loss[k]; });
  });
  page += figure(runs, "Acceptance: share of labels that a head has right",
                 [](const RunLog& run) {
                   return of_evaluations(run, heads_in(run),
                                         [](const auto& e, std::size_t k) { return e.acceptance[k]; });
                 },
                 {0, 0});
  page += figure(runs, "Agreement: share of the main head's choices that a head has",
                 [](const RunLog& run) {
                   return of_evaluations(run, heads_in(run),
                                         [](const auto& e, std::size_t k) { return e.agreement[k]; });
                 },
                 {0, 0});
  page += figure(runs, "Bits a byte, main head", [](const RunLog& run) {
    return of_evaluations(run, {"bits a byte"}, [](const auto& e, std::size_t) { return e.bits_per_byte; });
  });
  return page;
}

// ---- samples, configuration
// -----------------------------------------------------------------------

std::string samples_html(const RunLog& run) {
  std::vector<const LoggedEvaluation*> all;
  for (const LoggedEvaluation& e : run.evaluations) {
    if (!e.sample.empty()) all.push_back(&e);
  }
  if (all.empty()) return "<p>none</p>";
  std::string text = "<dl>";
  for (const LoggedEvaluation* e : some_of(all, most_samples))
    text +=
        cat("<dt>step ", e->step, "</dt><dd><pre>", escaped(clipped(e->sample, most_text)), "</pre></dd>\n");
  return text + "</dl>";
}

/// Every key of any run, in the order of the first that has it; where runs differ, marked.
std::string configuration_html(const std::vector<RunLog>& runs) {
  std::vector<std::string> keys;
  std::map<std::string, std::vector<std::string>> values;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (const auto& [key, value] : runs[r].configuration) {
      auto [place, added] = values.try_emplace(key, runs.size(), "-");
      if (added) keys.push_back(key);
      place->second[r] = value;
    }
  }
  std::string text = "<div class=\"wide\"><table><tr><th>key</th>";
  for (std::size_t r = 0; r < runs.size(); ++r) text += "<th>" + escaped(short_name(runs, r)) + "</th>";
  text += "</tr>\n";
  for (const std::string& key : keys) {
    const std::vector<std::string>& row = values[key];
    const bool same = std::all_of(row.begin(), row.end(), [&](const std::string& v) { return v == row[0]; });
    text += cat("<tr", same ? "" : " class=\"differs\"", "><td>", same ? "" : "≠ ", escaped(key), "</td>");
    for (const std::string& value : row) text += "<td>" + escaped(clipped(value, most_text / 10)) + "</td>";
    text += "</tr>\n";
  }
  return text + "</table></div>\n";
}

std::string summary_html(const std::vector<RunLog>& runs) {
  Grid grid{{"run", "last step", "training loss", "validation loss", "best", "acceptance by depth",
             "bits a byte", "tokens/s"},
            {}};
  const auto at = [](const std::vector<double>& list, std::size_t k) { return fixed(list[k], 4); };
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunLog& run = runs[r];
    std::vector<std::string>& row = grid.rows.emplace_back(8, "-");
    row[0] = cat(runs.size() > 1 ? cat(r + 1, ' ') : "", run.name);
    if (!run.steps.empty()) {
      row[1] = cat(run.steps.back().step);
      row[2] = at(run.steps.back().loss, 0);
    }
    if (!run.evaluations.empty()) {
      const LoggedEvaluation& last = run.evaluations.back();
      const auto best = std::min_element(run.evaluations.begin(), run.evaluations.end(),
                                         [](const auto& a, const auto& b) { return a.loss[0] < b.loss[0]; });
      row[3] = at(last.loss, 0);
      row[4] = cat(at(best->loss, 0), " at ", best->step);
      std::string accepted;
      for (std::size_t k = 1; k < last.acceptance.size(); ++k)
        accepted += cat(k > 1 ? ", " : "", fixed(100 * last.acceptance[k], 1), " %");
      if (!accepted.empty()) row[5] = accepted;
      row[6] = fixed(last.bits_per_byte, 4);
    }
    std::vector<double> rates;
    for (const auto& [step, rate] : run.tokens_per_s) rates.push_back(rate);
    if (!rates.empty()) {
      std::nth_element(rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2),
                       rates.end());
      row[7] = fixed(rates[rates.size() / 2], 0);
    }
  }
  return as_html(grid);
}

}  // namespace

std::string number(double value) { return mtpx::Json(value).dump(); }

std::string details(const std::string& summary, const Grid& grid) {
  return cat("<details><summary>", escaped(summary), "</summary>", as_html(grid), "</details>\n");
}

std::string runs_html(const std::vector<RunLog>& runs) {
  const bool several = runs.size() > 1;
  std::string page = several ? "<h1>Trainings, side by side</h1>\n" : "<h1>A training</h1>\n";
  page += summary_html(runs);
  for (const RunLog& run : runs) {
    for (const std::string& notice : run.notices)
      page += cat("<p><b>Notice.</b> ", escaped(run.name), ": ", escaped(notice), "</p>\n");
  }
  page += lines_html(runs);
  page += "<h2>Load of the experts</h2>\n" +
          side_by_side(runs, [&](std::size_t r) { return loads_html(runs[r]); });
  page += "<h2>Samples</h2>\n" + side_by_side(runs, [&](std::size_t r) { return samples_html(runs[r]); });
  page += "<h2>Configuration</h2>\n";
  if (several) page += "<p>≠ marks what differs.</p>\n";
  page += configuration_html(runs);
  page += cat(
      "<p>Tokens/s above are medians. Of a run of more than ", 2 * buckets, " steps, each of ", buckets,
      " equal parts is drawn, and has numbers, where a line is lowest and highest in it; the last step is "
      "there, too, and the line before these is the mean of each part. Of more than ",
      most_columns, " validations with loads, or ", most_samples,
      " with samples, every n-th is, and the last. Balanced is a share of one over the number of "
      "experts.</p>\n");
  return as_page(
      "mtpx report", page,
      cat("body{max-width:", several ? 44 * runs.size() : 60,
          "rem}.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,34rem),1fr));"
          "gap:0 2rem}.side>div{min-width:0}details .wide{max-height:24rem;overflow:auto}"
          "summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}"
          "dd{margin-left:1rem}.differs{background:#f0883e33;font-weight:600}"));
}

void add_report(CLI::App& app) {
  struct Flags {
    std::vector<std::string> folders;
    std::string file;
  };
  auto options = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "report",
      "Show what trainings did as a page: losses, acceptance, load of experts, samples, configuration");
  command
      ->add_option("DIR", options->folders, "Folders that `mtpx train` wrote; several are shown side by side")
      ->required();
  command->add_option("-o,--output", options->file, "The page; default: report.html in the first folder");
  command->callback([options] {
    std::vector<RunLog> runs;
    for (const std::string& folder : options->folders) {
      runs.push_back(read_run(folder));
      for (const std::string& notice : runs.back().notices)
        std::cerr << "notice: " << folder << ": " << notice << '\n';
    }
    const std::filesystem::path path = options->file.empty()
                                           ? std::filesystem::path(options->folders[0]) / "report.html"
                                           : std::filesystem::path(options->file);
    write_output([&] {
      mtpx::OutputFile file("report", path);
      file.write(runs_html(runs));
      file.commit();
    });
    std::cout << "report: " << path.string() << std::endl;
    written();
  });
}

}  // namespace program
