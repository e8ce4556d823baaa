#include <mtpx/train/layout_costs.hpp>

#include <doctest/doctest.h>

#include <mtpx/core/rng.hpp>

#include <functional>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/train/layout_costs.hpp");

namespace {

/// The largest stage, then the sum of squares: what best_layout() makes least.
std::pair<double, double> price(const std::vector<double>& stages) {
  double most = 0, squares = 0;
  for (const double cost : stages) {
    most = std::max(most, cost);
    squares += cost * cost;
  }
  return {most, squares};
}

/// Every layout of layers to stages that is one.
void each_layout(const ModelCosts& costs, Index stages, Index last_layers, std::vector<Index>& counts,
                 Index left, const std::function<void(const Layout&)>& visit) {
  const auto stage = static_cast<Index>(counts.size());
  if (stage + 1 == stages) {
    if (left < last_layers) return;
    counts.push_back(left);
    visit(Layout::of_counts(counts, static_cast<Index>(costs.depths.size())));
    counts.pop_back();
    return;
  }
  for (Index layers = stage == 0 ? 0 : 1; layers <= left; ++layers) {
    counts.push_back(layers);
    each_layout(costs, stages, last_layers, counts, left - layers, visit);
    counts.pop_back();
  }
}

}  // namespace

TEST_CASE("best_layout: the best of all that there are") {
  std::uint64_t place = 0;
  const auto random = [&] { return static_cast<double>(1 + Philox::block(9, 1, ++place)[0] % 7); };
  Index seen = 0;
  for (Index layers = 1; layers <= 9; ++layers) {
    for (Index stages = 1; stages <= 5; ++stages) {
      for (const Index last : {0, 2}) {
        ModelCosts costs{random() / 4, {}, {random(), random()}, random()};
        for (Index i = 0; i < layers; ++i) costs.layers.push_back(random());
        std::optional<std::pair<double, double>> least;
        std::vector<Index> counts;
        each_layout(costs, stages, last, counts, layers, [&](const Layout& layout) {
          const auto one = price(stage_costs(layout, costs));
          if (!least || one < *least) least = one;
        });
        const std::optional<Layout> best = best_layout(costs, stages, last);
        REQUIRE(best.has_value() == least.has_value());
        if (!best) continue;
        ++seen;
        CHECK(best->stages() == stages);
        CHECK(best->layers() == layers);
        CHECK(best->stage(stages - 1).layers >= last);
        CHECK(price(stage_costs(*best, costs)) == *least);
        CHECK(Layout::parse(best->text()) == *best);
      }
    }
  }
  CHECK(seen > 60);
}

TEST_CASE("stage costs: twelve layers, a head of 1.7 and a module of 3.4 on four stages and on two") {
  const ModelCosts costs{0, std::vector<double>(12, 1.0), {3.4}, 1.7};
  const auto balance = [&](const char* text) { return balance_of(stage_costs(Layout::parse(text), costs)); };
  CHECK(balance("Etttt|tttt|tttt|mL") == doctest::Approx(17.1 / (4 * 5.1)));
  CHECK(balance("Ettt|ttt|ttt|tttmL") == doctest::Approx(17.1 / (4 * 8.1)));
  CHECK(best_layout(costs, 4)->text() == "Etttt|tttt|tttt|mL");
  CHECK(best_layout(costs, 2)->text() == "Et*9|tttmL");
  CHECK(best_layout(costs, 1)->text() == "Et*12mL");
  CHECK_FALSE(best_layout(costs, 15).has_value());
  // The last stage is the largest: the formula is what the schedule takes.
  const auto stages = stage_costs(Layout::parse("Etttt|tttt|tttt|mL"), costs);
  for (const Index micros : {4, 16, 32}) {
    const auto m = static_cast<double>(micros);
    CHECK(simulate_costs(stages, micros).efficiency() ==
          doctest::Approx(m * 17.1 / (4 * (m * 5.1 + 12))).epsilon(1e-12));
  }
}
