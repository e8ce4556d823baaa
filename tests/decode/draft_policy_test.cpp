#include <mtpx/decode/draft_policy.hpp>
#include <mtpx/decode/options.hpp>

#include <mtpx/core/rng.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/decode/draft_policy.hpp");

namespace {

/// A machine with given costs, and modules whose drafts stand with given chances; noise on all of it.
struct Machine {
  std::vector<double> cost;    // [K]
  std::vector<double> chance;  // [place]
  std::uint64_t at = 0;

  double uniform() { return Philox::uniform(3, 1, at++); }

  /// Tokens a second over `passes` passes, with the policy's choice or a fixed one; how often each K ran.
  double run(DraftPolicy& policy, int passes, std::vector<int>& chosen, Index fixed = -1) {
    double tokens = 0, seconds = 0;
    policy.share(1);
    for (int i = 0; i < passes; ++i) {
      const Index k = fixed >= 0 ? fixed : policy.choose();
      ++chosen[static_cast<std::size_t>(k)];
      double took = cost[static_cast<std::size_t>(k)] * (0.97 + 0.06 * uniform());
      if (uniform() < 0.05) took *= 3;  // somebody else's turn
      Index stood = 0;
      while (stood < k && uniform() < chance[static_cast<std::size_t>(stood)]) ++stood;
      policy.took(k, took);
      policy.stood(k, stood);
      tokens += static_cast<double>(stood) + 1;
      seconds += took;
    }
    return tokens / seconds;
  }
};

}  // namespace

TEST_CASE("DraftPolicy: comes close to the best fixed K, and never much below plain decoding") {
  struct Case {
    Machine machine;
    Index best;
  };
  const std::vector<Case> cases{
      {{{1, 1.2, 1.3, 1.4, 1.5}, {0.9, 0.9, 0.9, 0.9}}, 4},  // drafts are cheap and good
      {{{1, 1.2, 1.4, 1.9, 2.5}, {0.9, 0.2, 0.1, 0.1}}, 1},  // only the first is any good
      {{{1, 1.2, 1.35, 1.9, 2.5}, {0.9, 0.7, 0.1, 0.1}}, 2},
      {{{1, 1.6, 2.2, 2.8, 3.4}, {0.3, 0.2, 0.1, 0.1}}, 0},  // they do not pay
      {{{1, 1.5, 2.0, 2.5, 3.0}, {0.0, 0.0, 0.0, 0.0}}, 0}};
  for (const Case& c : cases) {
    const Index best = c.best;
    std::vector<int> chosen(5, 0), ignored(5, 0);
    DraftPolicy policy(4), unused(4);
    Machine a = c.machine, b = c.machine;
    const double automatic = a.run(policy, 4000, chosen);
    const double fixed = b.run(unused, 4000, ignored, best);
    INFO("best " << best << ", chosen " << chosen[0] << ", " << chosen[1] << ", " << chosen[2] << ' '
                 << chosen[3] << ", " << chosen[4] << ", " << automatic << " against " << fixed);
    CHECK(automatic > 0.96 * fixed);
    CHECK(chosen[static_cast<std::size_t>(best)] > 3000);
    CHECK(policy.begin_sequence() == (best > 0));
  }
}

TEST_CASE("DraftPolicy: over tables of costs and chances, within 3 % of the best fixed K in 1000 passes") {
  // More rows of a pass cost `row` each, a draft `draft`; drafts stand less and less, by `fades` a place.
  constexpr auto most = static_cast<std::size_t>(GenerateOptions::longest_automatic);
  double worst = 2, worst_of_worthless = 2;
  for (const double row : {0.02, 0.13, 0.3}) {
    for (const double draft : {0.03, 0.2, 0.4}) {
      for (const double first : {0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.75, 0.95}) {
        for (const double fades : {1.0, 0.8}) {
          Machine machine{{1}, {}};
          double chance = first, best = 1, all = 1, tokens = 1;
          for (std::size_t k = 1; k <= most; ++k, chance *= fades) {
            machine.chance.push_back(chance);
            machine.cost.push_back(1 + static_cast<double>(k) * (row + draft));
            tokens += all *= chance;
            best = std::max(best, tokens / machine.cost.back());
          }
          double sum = 0;
          constexpr int runs = 12;
          for (std::uint64_t run = 0; run < runs; ++run) {
            machine.at = run << 32;
            std::vector<int> chosen(most + 1, 0);
            DraftPolicy policy(most);
            machine.run(policy, 1000, chosen);
            // By the table, not by the noise: what these passes give on average over what the best K does.
            double gave = 0, took = 0;
            for (std::size_t k = 0; k <= most; ++k) {
              double of_pass = 1, together = 1;
              for (std::size_t i = 0; i < k; ++i) of_pass += together *= machine.chance[i];
              gave += chosen[k] * of_pass;
              took += chosen[k] * machine.cost[k];
            }
            sum += gave / took / best;
            if (first <= 0.1 && best == 1) worst_of_worthless = std::min(worst_of_worthless, gave / took);
          }
          INFO("row " << row << ", draft " << draft << ", first " << first << ", fades " << fades << ": "
                      << sum / runs);
          CHECK(sum / runs > 0.97);
          worst = std::min(worst, sum / runs);
        }
      }
    }
  }
  INFO("worst " << worst << ", of single runs where drafts are worthless " << worst_of_worthless);
  CHECK(worst_of_worthless > 0.99);
}

TEST_CASE(
    "DraftPolicy: cut by their leads, drafts give what the best fixed K gives, or more; nothing is lost on "
    "bad ones") {
  // A lead is exponential; the draft stands with a chance that grows with it by `tells`, or (0) not at all.
  constexpr Index most = GenerateOptions::longest_automatic;
  struct Text {
    std::uint64_t at;
    double first, tells;

    double uniform() { return Philox::uniform(5, 2, at++); }
    /// A lead, and whether the draft stands.
    std::pair<double, bool> draft() {
      const double lead = -2 * std::log(1 - uniform());
      const double chance = tells > 0 ? 1 - (1 - first) * (1 + 2 * tells) * std::exp(-tells * lead) : first;
      return {lead, uniform() < chance};
    }
  };
  // Tokens and seconds of 1000 passes, by the table: no noise is in them.
  const auto run = [&](Text text, const std::vector<double>& cost) {
    DraftPolicy policy(most, false, true);
    policy.share(1);
    double tokens = 0, seconds = 0;
    for (int pass = 0; pass < 1000; ++pass) {
      Index want = policy.choose(), stood = 0;
      double all_stand = 1;
      std::vector<double> leads;
      bool stands = true;
      for (Index k = 1; k <= want; ++k) {
        const auto [lead, right] = text.draft();
        leads.push_back(lead);
        stands = stands && right;
        stood += stands ? 1 : 0;
        all_stand *= policy.chance(lead);
        if (!policy.go_on(all_stand)) want = k;
      }
      const double of_pass = cost[static_cast<std::size_t>(want)];
      tokens += static_cast<double>(stood) + 1;
      seconds += of_pass;
      double took = of_pass * (0.97 + 0.06 * text.uniform());
      if (text.uniform() < 0.05) took *= 3;  // somebody else's turn
      policy.stood(want, stood);
      policy.led(leads, stood);
      policy.took(want, took);
      policy.gave(want, static_cast<double>(stood) + 1);
    }
    return tokens / seconds;
  };
  double least = 9, least_told = 9, worst_of_worthless = 9;
  for (const double step : {0.12, 0.3, 0.6}) {
    std::vector<double> cost{1};
    for (Index k = 1; k <= most; ++k) cost.push_back(1 + step * static_cast<double>(k));
    for (const double first : {0.02, 0.5, 0.8}) {
      for (const double tells : {0.0, 1.0}) {
        if (tells > 0 && first < 0.1) continue;
        double best = 1, all = 1, tokens = 1;  // of a fixed K: leads are no matter to it
        for (std::size_t k = 1; k < cost.size(); ++k)
          best = std::max(best, (tokens += all *= first) / cost[k]);
        double sum = 0, lowest = 9;
        constexpr int runs = 24;
        for (std::uint64_t i = 0; i < runs; ++i) {
          const double share = run({(i + 1) << 32, first, tells}, cost) / best;
          sum += share;
          lowest = std::min(lowest, share);
        }
        INFO("step " << step << ", first " << first << ", tells " << tells << ": " << sum / runs
                     << ", lowest " << lowest);
        CHECK(sum / runs > 0.97);
        least = std::min(least, sum / runs);
        if (tells > 0 && best > 1.1 && step > 0.2) least_told = std::min(least_told, sum / runs);
        if (first < 0.1) worst_of_worthless = std::min(worst_of_worthless, lowest);
      }
    }
  }
  INFO("least " << least << ", where leads tell " << least_told << ", single runs of worthless drafts "
                << worst_of_worthless);
  CHECK(least_told > 1.005);
  CHECK(worst_of_worthless > 0.99);
}

TEST_CASE("DraftLeads: learns what leads are worth, and expects of few what smaller ones gave") {
  DraftLeads leads;
  CHECK(leads.chance(3) == doctest::Approx(0.5));
  std::uint64_t at = 0;
  const auto uniform = [&] { return Philox::uniform(1, 9, at++); };
  for (int i = 0; i < 3000; ++i) {
    const double lead = 4 * uniform();
    leads.saw(lead, uniform() < (lead < 1 ? 0.4 : 0.95));
  }
  CHECK(std::abs(leads.chance(0.3) - 0.4) < 0.12);
  CHECK(std::abs(leads.chance(2) - 0.95) < 0.05);
  CHECK(leads.chance(100) == doctest::Approx(leads.chance(4)));  // none was seen
  CHECK(leads.chance(std::numeric_limits<double>::infinity()) == doctest::Approx(leads.chance(4)));
  CHECK(std::abs(leads.chance() - 0.8125) < 0.06);
}

TEST_CASE("DraftPolicy: passes that are being recorded tell nothing, unless all are") {
  const std::vector<double> cost{1, 1.1, 1.2, 1.3, 1.4};
  for (const bool always : {false, true}) {
    std::vector<int> chosen(5, 0);
    DraftPolicy policy(4);
    policy.share(1);
    for (int pass = 0; pass < 400; ++pass) {
      const Index k = policy.choose();
      const auto i = static_cast<std::size_t>(k);
      const bool recording = always || chosen[i] < (k < 2 ? 2 : 8);
      policy.took(k, cost[i] * (recording ? 8 : 1), !recording);
      policy.stood(k, k);
      ++chosen[i];
    }
    INFO("always " << always << ": " << chosen[0] << ", " << chosen[1] << ", " << chosen[2] << ", "
                   << chosen[3] << ", " << chosen[4]);
    CHECK(chosen[4] > 280);
  }
}

TEST_CASE("DraftPolicy: a machine that becomes slow for everyone does not end drafting that pays") {
  for (const bool leads : {false, true}) {
    const std::vector<double> cost{1, 1.1, 1.2, 1.3, 1.4};
    std::uint64_t at = 0;
    DraftPolicy policy(4, false, leads);
    policy.share(1);
    int drafted = 0;
    for (int pass = 0; pass < 900; ++pass) {
      const Index k = policy.choose();
      Index stood = 0;
      while (stood < k && Philox::uniform(4, 4, at++) < 0.9) ++stood;
      policy.stood(k, stood);
      policy.led(std::vector<double>(static_cast<std::size_t>(k), 1.0), stood);
      policy.took(
          k, cost[static_cast<std::size_t>(k)] * (pass < 300 ? 1 : 4));  // plain passes were not seen since
      policy.gave(k, static_cast<double>(stood) + 1);
      drafted += pass >= 300 && k > 0 ? 1 : 0;
    }
    INFO("leads " << leads << ": " << drafted);
    CHECK(drafted > 560);
  }
}

TEST_CASE("DraftPolicy: takes trees where they pay, and chains where not") {
  // A tree's rows cost `row` times the chain's; its first place stands more often.
  const std::vector<double> chain{0.7, 0.7, 0.6}, tree{0.92, 0.88, 0.8};
  for (const double row : {0.01, 0.2}) {
    std::vector<double> cost{1};
    for (int k = 1; k <= 3; ++k) cost.push_back(1 + 0.05 * k + row * k);
    for (int k = 1; k <= 3; ++k) cost.push_back(1 + 0.08 * k + 4 * row * k);
    std::uint64_t at = 0;
    DraftPolicy policy(3, true);
    policy.share(1);
    std::vector<int> chosen(7, 0);
    for (int pass = 0; pass < 1500; ++pass) {
      const Index plan = policy.choose();
      if (pass >= 500) ++chosen[static_cast<std::size_t>(plan)];
      const auto& chances = policy.is_tree(plan) ? tree : chain;
      Index stood = 0;
      while (stood < policy.places_of(plan) &&
             Philox::uniform(8, 1, at++) < chances[static_cast<std::size_t>(stood)])
        ++stood;
      policy.took(plan, cost[static_cast<std::size_t>(plan)]);
      policy.stood(policy.places_of(plan), stood, policy.is_tree(plan));
    }
    INFO("row " << row << ": " << chosen[1] << ' ' << chosen[2] << ' ' << chosen[3] << ", trees " << chosen[4]
                << ' ' << chosen[5] << ' ' << chosen[6]);
    if (row < 0.1) CHECK(chosen[6] > 900);
    if (row > 0.1) CHECK(chosen[1] + chosen[2] + chosen[3] > 900);
  }
}

TEST_CASE("DraftPolicy: notices that drafts have become worthless, and that they pay again") {
  Machine machine{{1, 1.2, 1.5, 2, 2.5}, {0.9, 0.2, 0.1, 0.1}};
  DraftPolicy policy(4);
  std::vector<int> chosen(5, 0);
  machine.run(policy, 500, chosen);
  CHECK(chosen[1] > 400);
  machine.chance = {0.05, 0, 0, 0};
  machine.run(policy, 300, chosen);
  chosen.assign(5, 0);
  machine.run(policy, 500, chosen);
  CHECK(chosen[0] > 450);
  machine.chance = {0.95, 0.2, 0.1, 0.1};
  machine.run(policy, 40000, chosen);
  chosen.assign(5, 0);
  machine.run(policy, 500, chosen);
  CHECK(chosen[1] > 400);
}

TEST_CASE(
    "DraftPolicy: in one long sequence, what modules read to be tried again costs no more than it may") {
  // A row costs `row` of a pass; one that costs next to nothing lets drafts be tried again.
  for (const double row : {0.0005, 0.05}) {
    Machine machine{{1, 1.6, 2.2}, {0.02, 0.02}};
    DraftPolicy policy(2);
    policy.share(1);
    policy.read(100, 100 * row);
    double seconds = 0;
    int tries = 0;
    constexpr int passes = 40000;
    for (Index i = 0, ready = 0; i < passes; ++i) {
      const Index behind = i - ready, k = policy.choose(behind);
      double took = machine.cost[static_cast<std::size_t>(k)];
      if (k > 0) {
        took += row * static_cast<double>(behind);
        ready = i + 1;
      }
      tries += k > 0 && behind > 0 ? 1 : 0;
      if (k == 0 || behind < 16) policy.took(k, took);
      policy.stood(k, 0);
      seconds += took;
    }
    INFO("row " << row << ": " << tries << " tries, " << seconds / passes << " a pass");
    CHECK(seconds < 1.006 * passes);
    if (row < 0.01) CHECK(tries >= 2);
  }
}

TEST_CASE("DraftPolicy: where drafts do not pay, few sequences read their prompts for them") {
  Machine machine{{1, 1.6, 2.2}, {0.1, 0.1}};
  DraftPolicy policy(2);
  std::vector<int> chosen(3, 0);
  int read = 0;
  for (int sequence = 0; sequence < 160; ++sequence) {
    read += policy.begin_sequence() ? 1 : 0;
    machine.run(policy, 50, chosen);
  }
  CHECK(read >= 10);
  CHECK(read <= 12);
  CHECK(chosen[0] > 7900);
}

TEST_CASE("DraftPolicy: where drafts just about pay, it does not go back and forth") {
  // Each time that drafting is taken up again, modules first read what was decoded without them.
  int taken_up = 0;
  for (std::uint64_t start = 0; start < 20; ++start) {
    Machine machine{{1, 1.48, 2.2}, {0.5, 0.3}, start << 32};
    DraftPolicy policy(2);
    bool drafted = false;
    for (int pass = 0; pass < 6000; ++pass) {
      std::vector<int> chosen(3, 0);
      machine.run(policy, 1, chosen);
      taken_up += !drafted && chosen[0] == 0 ? 1 : 0;
      drafted = chosen[0] == 0;
    }
  }
  CHECK(taken_up <= 60);  // three times a run: at the start, and twice to see whether things have changed
}

TEST_CASE("DraftPolicy: other sequences beside it, other costs") {
  Machine machine{{1, 1.2}, {0.9}};
  DraftPolicy policy(1);
  std::vector<int> chosen(2, 0);
  machine.run(policy, 100, chosen);
  CHECK(policy.choose() == 1);
  policy.share(8);
  CHECK(policy.begin_sequence());
  CHECK(policy.choose() == 0);  // everything is measured again
}

TEST_CASE("DraftPolicy: without modules there is nothing to choose") {
  DraftPolicy policy(0);
  policy.share(1);
  for (int i = 0; i < 100; ++i) {
    CHECK(policy.choose() == 0);
    policy.took(0, 1);
  }
  CHECK_FALSE(policy.begin_sequence());
}

TEST_SUITE_END();
