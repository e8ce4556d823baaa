#include <mtpx/train/pipeline.hpp>

#include <doctest/doctest.h>

#include <mtpx/train/layout.hpp>

#include <numeric>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/train/pipeline.hpp");

namespace {

using ActionKind = Action::Kind;
using Lists = std::vector<std::vector<Action>>;

Lists lists_of(Index stages, Index micros) {
  Lists all;
  for (Index s = 0; s < stages; ++s) all.push_back(one_f_one_b(s, stages, micros));
  return all;
}

SimulatedPipeline followed(const Lists& lists) {
  return simulate(lists, std::vector<StageTime>(lists.size()));
}

std::vector<Index> order_of(const std::vector<Action>& list, ActionKind kind) {
  std::vector<Index> micros;
  for (const Action& action : list) {
    if (action.kind == kind) micros.push_back(action.micro);
  }
  return micros;
}

}  // namespace

TEST_CASE("one_f_one_b: the first of three stages, four micro-batches") {
  std::string text;
  for (const Action& action : one_f_one_b(0, 3, 4)) text += to_text(action) + '\n';
  CHECK(text ==
        "forward 0\nsend_state 0 to stage 1\nforward 1\nsend_state 1 to stage 1\nforward 2\n"
        "send_state 2 to stage 1\nreceive_gradient 0 from stage 1\nbackward 0\nforward 3\n"
        "send_state 3 to stage 1\nreceive_gradient 1 from stage 1\nbackward 1\n"
        "receive_gradient 2 from stage 1\nbackward 2\nreceive_gradient 3 from stage 1\nbackward 3\n");
}

TEST_CASE("one_f_one_b: up to 8 stages and 64 micro-batches it ends, with as few tapes and in order") {
  for (Index stages = 1; stages <= 8; ++stages) {
    for (Index micros = 1; micros <= 64; ++micros) {
      CAPTURE(stages);
      CAPTURE(micros);
      const Lists lists = lists_of(stages, micros);
      const SimulatedPipeline run = followed(lists);
      REQUIRE(run.stuck == "");
      std::vector<Index> in_order(static_cast<std::size_t>(micros));
      std::iota(in_order.begin(), in_order.end(), Index{0});
      for (Index s = 0; s < stages; ++s) {
        const auto at = static_cast<std::size_t>(s);
        REQUIRE(run.tapes[at] == std::min(stages - s, micros));
        REQUIRE(order_of(lists[at], ActionKind::forward) == in_order);
        REQUIRE(order_of(lists[at], ActionKind::backward) == in_order);
      }
      // Equal stages: the bubble is (stages - 1) (forward + backward).
      REQUIRE(run.time == 3.0 * static_cast<double>(micros + stages - 1));
    }
  }
}

TEST_CASE("simulate: one send left out is found, whichever it is") {
  for (const auto& [stages, micros] : {std::pair<Index, Index>{2, 1}, {2, 5}, {4, 3}, {4, 9}, {8, 12}}) {
    const Lists whole = lists_of(stages, micros);
    Index mutants = 0;
    for (std::size_t s = 0; s < whole.size(); ++s) {
      for (std::size_t i = 0; i < whole[s].size(); ++i) {
        if (!whole[s][i].sends()) continue;
        Lists mutant = whole;
        mutant[s].erase(mutant[s].begin() + static_cast<std::ptrdiff_t>(i));
        ++mutants;
        CHECK(followed(mutant).stuck != "");
      }
    }
    CHECK(mutants == 2 * (stages - 1) * micros);
  }
}

TEST_CASE("simulate: what is stuck is named") {
  const auto stuck = [](Index stage, std::size_t place, const auto& change) {
    Lists lists = lists_of(2, 2);
    auto& list = lists[static_cast<std::size_t>(stage)];
    change(list, list.begin() + static_cast<std::ptrdiff_t>(place));
    return followed(lists).stuck;
  };
  const auto left_out = [](auto& list, auto at) { list.erase(at); };
  // Stage 0: forward 0, send_state 0, forward 1, send_state 1, receive_gradient 0, backward 0, ..
  CHECK(stuck(0, 1, left_out) ==
        "stage 0 does send_state 1 to stage 1, which does receive_state 0 from stage 0");
  CHECK(stuck(0, 0, left_out) == "stage 0 has nothing for send_state 0 to stage 1");
  CHECK(stuck(0, 5, left_out) == "stage 0 never takes micro-batch 0 back");
  CHECK(stuck(0, 4, left_out) == "stage 0 has no gradient for backward 0");
  // Stage 1: receive_state 0, forward 0, backward 0, send_gradient 0, receive_state 1, ..
  CHECK(stuck(1, 0, left_out) == "stage 1 has no state for forward 0");
  CHECK(stuck(1, 1, left_out) == "stage 1 has no tape for backward 0");
  CHECK(stuck(1, 7, left_out) == "stage 0 waits for ever in receive_gradient 1 from stage 1");
  CHECK_THROWS_WITH_AS(simulate(lists_of(3, 1), std::vector<StageTime>(2)), "[pipeline] 2 times of 3 stages",
                       Error);
}

TEST_CASE("simulate: uneven stages take at least m t_max, at most that and the others' times once") {
  struct Case {
    std::vector<double> costs;
    Index micros;
  };
  // Layers of 1, a head of 1.7, a module with its head of 3.4: Etttt|tttt|tttt|mL, Ettt|ttt|ttt|tttmL, ..
  for (const Case& one :
       {Case{{4, 4, 4, 5.1}, 16}, {{3, 3, 3, 8.1}, 16}, {{8, 9.1}, 32}, {{2, 5, 3, 4, 1}, 7}}) {
    std::vector<StageTime> times;
    double sum = 0, most = 0;
    for (const double cost : one.costs) {
      times.push_back({cost / 3, 2 * cost / 3});
      sum += cost;
      most = std::max(most, cost);
    }
    const SimulatedPipeline run = simulate_one_f_one_b(one.micros, times);
    const double longest = static_cast<double>(one.micros) * most + (sum - most);
    CHECK(run.stuck == "");
    CHECK(run.time >= static_cast<double>(one.micros) * most * (1 - 1e-12));
    CHECK(run.time <= longest * (1 + 1e-12));
    CHECK(run.efficiency() == doctest::Approx(static_cast<double>(one.micros) * sum /
                                              (run.time * static_cast<double>(one.costs.size()))));
  }
}
