// What runs of `mtpx compare` say together: figures over seeds, and which claims they decide.

#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <utility>

namespace program {
namespace {

using mtpx::Json;

/// Mean and standard deviation over seeds.
Json spread(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {{"mean", mean}, {"sd", n > 1 ? std::sqrt(squares / (n - 1)) : 0.0}};
}

using Figure = std::function<double(const Checked&)>;

std::vector<double> over_seeds(const Checked& design, const Figure& figure) {
  std::vector<double> values;
  for (const Checked& one : design["runs"].entries()) values.push_back(figure(one));
  return values;
}

const Figure main_loss = [](const Checked& r) { return r["curve"].back()["loss"][0].number(); };
const Figure mean_length = [](const Checked& r) { return r["sampled"]["mean_length"].number(); };

/// Same seed, same batches, same start: compared pair by pair.
std::vector<double> differences(const Checked& place, const std::vector<double>& from,
                                const std::vector<double>& taken) {
  if (from.size() != taken.size()) place.refuse("its designs must have as many runs as each other");
  std::vector<double> all;
  for (std::size_t i = 0; i < from.size(); ++i) all.push_back(from[i] - taken[i]);
  return all;
}

/// A claim about paired figures: holds, or not, if the mean difference is above twice its standard error.
Json claim(const std::string& text, const std::string& figure, const std::vector<double>& gain) {
  const Json s = spread(gain);
  const double mean = s["mean"].get<double>();
  const double error = s["sd"].get<double>() / std::sqrt(static_cast<double>(gain.size()));
  const std::string verdict = gain.size() < 2     ? "one seed decides nothing"
                              : mean > 2 * error  ? "holds at this size"
                              : mean < -2 * error ? "does not hold at this size: it is the other way round"
                                                  : "not decided by these seeds";
  return {{"claim", text}, {"figure", figure}, {"gain", s}, {"standard_error", error}, {"verdict", verdict}};
}

/// A design's figures over seeds: {mean, sd} of each.   baseline: what its main loss is compared with, or
/// null
Json summary(const Checked& design, const Checked* baseline) {
  const std::size_t depth = design["depth"].whole(deepest);
  Json all{{"main_loss", spread(over_seeds(design, main_loss))}};
  const auto per_depth = [&](const char* key, std::size_t first) {
    Json list = Json::array();
    for (std::size_t k = first; k <= depth; ++k)
      list.push_back(
          spread(over_seeds(design, [&](const Checked& r) { return r["curve"].back()[key][k].number(); })));
    return list;
  };
  all["loss"] = per_depth("loss", 0);
  all["accuracy"] = per_depth("accuracy", 0);
  all["agreement"] = per_depth("agreement", 1);
  for (const char* key : {"train_tokens_per_s", "peak_mib"})
    all[key] = spread(over_seeds(design, [&](const Checked& r) { return r[key].number(); }));
  for (const char* mode : decoding_modes) {
    if (!design["runs"][0].has(mode)) continue;  // a report of an earlier version
    Json& into = all[mode];
    for (const auto& [name, value] : design["runs"][0][mode].object().items()) {
      const std::string& key = name;
      if (value.is_number())
        into[key] = spread(over_seeds(design, [&](const Checked& r) { return r[mode][key].number(); }));
      for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) {
        into[key].push_back(
            spread(over_seeds(design, [&](const Checked& r) { return r[mode][key][i].number(); })));
      }
    }
  }
  if (baseline != nullptr) {
    const std::vector<double> without = over_seeds(*baseline, main_loss),
                              with = over_seeds(design, main_loss);
    all["main_loss_over_baseline"] = spread(differences(design, with, without));
  }
  return all;
}

}  // namespace

void summarise(Json& report, const std::string& place) {
  std::vector<Json> summaries;
  {
    const Checked tables = Checked(report, place)["tables"];
    std::optional<Checked> baseline;
    for (const Checked& design : tables[0]["designs"].entries()) {
      if (design["name"].text() == "baseline") baseline = design;
    }
    for (const Checked& table : tables.entries()) {
      for (const Checked& design : table["designs"].entries())
        summaries.push_back(summary(design, baseline ? &*baseline : nullptr));
    }
  }
  auto next = summaries.begin();
  for (Json& table : report["tables"]) {
    for (Json& design : table["designs"]) design["summary"] = std::move(*next++);
  }
}

Json claims(const Checked& table) {
  std::map<std::string, Checked> by_name;
  for (const Checked& design : table["designs"].entries())
    by_name.insert_or_assign(design["name"].text(), design);
  const auto has = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(), [&](const char* n) { return by_name.contains(n); });
  };
  const auto of = [&](const char* name, const Figure& f) { return over_seeds(by_name.at(name), f); };
  Json all = Json::array();
  const auto compare = [&](const char* text, const std::string& figure, const char* better, const char* worse,
                           const Figure& f) {
    const std::vector<double> without = of(worse, f), with = of(better, f);  // errors name the first
    all.push_back(claim(text, figure, differences(table, with, without)));
  };
  const Figure gain = [](const Checked& r) { return -main_loss(r); };
  if (has({"sequential", "parallel"})) {
    compare("Heads that read the depth before predict better than independent heads",
            "mean length of sampled drafts, sequential - parallel", "sequential", "parallel", mean_length);
  }
  if (has({"decay", "sequential"})) {
    const char* text = "Nearer depths deserve more weight";
    compare(text, "mean length of sampled drafts, decay - sequential", "decay", "sequential", mean_length);
    compare(text, "loss of the main head, sequential - decay", "decay", "sequential", gain);
  }
  for (const char* name : {"sequential", "parallel"}) {
    if (!has({"baseline", name})) continue;
    compare("Training on more tokens ahead helps the main head",
            mtpx::cat("loss of the main head, baseline - ", name), name, "baseline", gain);
  }
  for (const char* name : {"sequential", "parallel"}) {
    for (const char* mode : {"greedy", "sampled"}) {
      if (!has({name})) continue;
      const Figure faster = [mode](const Checked& r) { return r[mode]["speedup"].number() - 1; };
      all.push_back(claim("Drafts speed up decoding",
                          mtpx::cat("tokens/s drafted over plain - 1, ", mode, ", ", name),
                          of(name, faster)));
    }
  }
  return all;
}

}  // namespace program
