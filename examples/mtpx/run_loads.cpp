// The heat maps of `mtpx report`: how busy experts were, over layers and steps.

#include "metrics.hpp"
#include "run_report.hpp"

#include <algorithm>
#include <set>

namespace program {

namespace {
using mtpx::cat;
}  // namespace

std::string loads_html(const RunLog& run) {
  constexpr std::size_t most_rows = 128;     // of the map that has one for every expert
  constexpr std::size_t most_experts = 256;  // columns of the map over experts
  std::vector<const LoggedEvaluation*> all;
  std::set<std::size_t> layers;
  std::size_t experts = 0, most = 0;
  for (const LoggedEvaluation& e : run.evaluations) {
    if (!e.loads.empty()) all.push_back(&e);
    for (std::size_t i = 0; i < e.loads.size(); ++i) {
      if (!e.loads[i].empty()) layers.insert(i);
      most = std::max(most, e.loads[i].size());
    }
  }
  if (layers.empty()) return "<p>none</p>";
  experts = layers.size() * most;
  const std::vector<const LoggedEvaluation*> kept = some_of(all, most_columns);
  const LoggedEvaluation& last = *kept.back();
  const auto of = [](const LoggedEvaluation& e, std::size_t layer) {
    return layer < e.loads.size() ? e.loads[layer] : std::vector<double>();
  };

  HeatMap over_steps{"The busiest expert's load over the balanced one", "step", {}, {}, {}};
  HeatMap now{cat("Load of the experts at step ", last.step, " over the balanced one"), "expert", {}, {}, {}};
  HeatMap each{"Load of each expert over the balanced one", "step; rows: layer.expert", {}, {}, {}};
  const std::size_t group = (most + most_experts - 1) / most_experts;
  for (std::size_t x = 0; x < most; x += group) now.columns.push_back(cat(x));
  for (const LoggedEvaluation* e : kept) over_steps.columns.push_back(cat(e->step));
  each.columns = over_steps.columns;
  Grid busiest{{"step"}, {}}, shares{{"step", "layer"}, {}};
  for (const LoggedEvaluation* e : kept) busiest.rows.push_back({cat(e->step)});
  for (const std::size_t layer : layers) {
    const std::string name = cat("layer ", layer);
    over_steps.rows.push_back(name);
    busiest.head.push_back(name);
    std::vector<double>& cells = over_steps.cells.emplace_back();
    for (std::size_t c = 0; c < kept.size(); ++c) {
      const std::vector<double> load = of(*kept[c], layer);
      cells.push_back(load.empty() ? std::nan("") : largest_over_balanced(load));
      busiest.rows[c].push_back(number(cells.back()));
    }
    const std::vector<double> load = of(last, layer);
    now.rows.push_back(name);
    std::vector<double>& row = now.cells.emplace_back();
    for (std::size_t x = 0; x < load.size(); x += group) {
      const auto from = load.begin() + static_cast<std::ptrdiff_t>(x);
      row.push_back(
          *std::max_element(from, from + static_cast<std::ptrdiff_t>(std::min(group, load.size() - x))) *
          static_cast<double>(load.size()));
    }
    for (std::size_t x = 0; experts <= most_rows && x < most; ++x) {
      each.rows.push_back(cat(layer, '.', x));
      std::vector<double>& line = each.cells.emplace_back();
      for (const LoggedEvaluation* e : kept) {
        const std::vector<double> then = of(*e, layer);
        line.push_back(x < then.size() ? then[x] * static_cast<double>(then.size()) : std::nan(""));
      }
    }
  }
  for (std::size_t x = 0; x < most; ++x) shares.head.push_back(cat("expert ", x));
  for (const LoggedEvaluation* e : kept) {
    if (experts > most_rows && e != &last) continue;
    for (const std::size_t layer : layers) {
      std::vector<std::string>& row =
          shares.rows.emplace_back(std::vector<std::string>{cat(e->step), cat(layer)});
      for (const double share : of(*e, layer)) row.push_back(number(share));
      row.resize(shares.head.size());
    }
  }
  return cat(heat_map(over_steps), heat_map(now), each.rows.empty() ? "" : heat_map(each),
             details(cat("The busiest expert: numbers of ", kept.size(), " of ", all.size(), " validations"),
                     busiest),
             details(experts > most_rows
                         ? cat("Share of each expert at step ", last.step)
                         : cat("Share of each expert at ", kept.size(), " of ", all.size(), " validations"),
                     shares));
}

}  // namespace program
