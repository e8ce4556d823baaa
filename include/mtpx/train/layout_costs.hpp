#pragma once
// What a layout costs, and which one costs least.

#include <mtpx/train/layout.hpp>
#include <mtpx/train/pipeline.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

namespace mtpx {

/// The work of one micro-batch, forward and backward, in any unit: operations, or time that was measured.
struct ModelCosts {
  double embedding = 0;          ///< E
  std::vector<double> layers{};  ///< each t
  std::vector<double> depths{};  ///< each m, with its use of the output head
  double head = 0;               ///< L
};

/// The cost of each stage.
inline std::vector<double> stage_costs(const Layout& layout, const ModelCosts& costs) {
  std::vector<double> all;
  const double depths = std::accumulate(costs.depths.begin(), costs.depths.end(), 0.0);
  for (Index s = 0; s < layout.stages(); ++s) {
    const ModelSlice slice = layout.slice(s);
    double cost = (slice.embedding ? costs.embedding : 0) + (slice.head ? costs.head + depths : 0);
    for (Index layer = slice.begin; layer < slice.end; ++layer)
      cost += costs.layers[static_cast<std::size_t>(layer)];
    all.push_back(cost);
  }
  return all;
}

/// How evenly it is spread: the mean stage over the largest.
inline double balance_of(const std::vector<double>& stages) {
  const double most = *std::max_element(stages.begin(), stages.end());
  const double sum = std::accumulate(stages.begin(), stages.end(), 0.0);
  return most > 0 ? sum / (most * static_cast<double>(stages.size())) : 1;
}

/// The share of the time in which a 1F1B step's stages compute, transfers left out, by following its
/// schedule. A backward takes two thirds of a cost: two products for each of the forward.
///
/// Where the last stage is the largest, m micro-batches on p stages of costs t take
///
///   efficiency = m sum t / (p (m t_max + sum of the other t))
///
/// Elsewhere the largest stage begins its backwards earlier, and it is a little more.
inline SimulatedPipeline simulate_costs(const std::vector<double>& stages, Index micros) {
  std::vector<StageTime> times;
  for (const double cost : stages) times.push_back({cost / 3, 2 * cost / 3});
  return simulate_one_f_one_b(micros, times);
}

/// The layout of so many stages whose largest one is least; of these, the one whose sum of squares is. No
/// stage is empty, and the last has at least `last_layers` layers (MtpDesign::own_layers, of depths that do
/// not chain). Nothing where there are not enough layers.
inline std::optional<Layout> best_layout(const ModelCosts& costs, Index stages, Index last_layers = 0) {
  const auto count = static_cast<Index>(costs.layers.size());
  std::vector<double> before{0};  // of the layers in front of each
  for (const double layer : costs.layers) before.push_back(before.back() + layer);
  const double depths = std::accumulate(costs.depths.begin(), costs.depths.end(), 0.0);
  constexpr double never = std::numeric_limits<double>::infinity();
  // Of a stage with layers begin .. end - 1.
  const auto cost = [&](Index stage, Index begin, Index end) {
    const bool first = stage == 0, last = stage + 1 == stages;
    if ((last && (end != count || end - begin < last_layers)) || (!first && !last && begin == end))
      return never;
    return before[static_cast<std::size_t>(end)] - before[static_cast<std::size_t>(begin)] +
           (first ? costs.embedding : 0) + (last ? costs.head + depths : 0);
  };
  // best[end]: over the stages so far, with layers 0 .. end - 1; from[stage][end]: where its last one begins.
  std::vector<std::vector<Index>> from;
  const auto fill = [&](const auto& join) {
    from.assign(static_cast<std::size_t>(stages), std::vector<Index>(static_cast<std::size_t>(count) + 1, 0));
    std::vector<double> best(static_cast<std::size_t>(count) + 1, never);
    best[0] = 0;
    for (Index stage = 0; stage < stages; ++stage) {
      std::vector<double> next(best.size(), never);
      for (Index end = 0; end <= count; ++end) {
        const auto at = static_cast<std::size_t>(end);
        for (Index begin = 0; begin <= end; ++begin) {
          const double so_far = best[static_cast<std::size_t>(begin)];
          if (so_far == never) continue;
          const double joined = join(so_far, cost(stage, begin, end));
          if (joined < next[at]) {
            next[at] = joined;
            from[static_cast<std::size_t>(stage)][at] = begin;
          }
        }
      }
      best = next;
    }
    return best.back();
  };
  const double most = fill([](double so_far, double stage) { return std::max(so_far, stage); });
  if (most == never) return {};
  fill([&](double so_far, double stage) { return stage > most ? never : so_far + stage * stage; });
  std::vector<Index> layers(static_cast<std::size_t>(stages));
  Index end = count;
  for (Index stage = stages; stage-- > 0;) {
    const Index begin = from[static_cast<std::size_t>(stage)][static_cast<std::size_t>(end)];
    layers[static_cast<std::size_t>(stage)] = end - begin;
    end = begin;
  }
  return Layout::of_counts(layers, static_cast<Index>(costs.depths.size()));
}

}  // namespace mtpx
