#pragma once

#include <mtpx/core/clock.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/decode/draft_leads.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace mtpx {

/// Seconds since it was made.
class Stopwatch {
 public:
  /// So far.
  double seconds() const { return 1e-9 * static_cast<double>(nanoseconds_now() - start_); }

 private:
  std::int64_t start_ = nanoseconds_now();
};

/// How many tokens to draft, from what passes were seen to cost and how many drafts stood. With c(K) the time
/// of a pass with K drafts and a_i the share of drafts at place i that stood where all before them did, a
/// pass emits
///
///   (1 + a_1 + a_1 a_2 + ... + a_1 ... a_K) / c(K)   tokens a second,
///
/// and the K that emits most is chosen: 0, plain decoding, where drafting does not pay. Only the speed
/// depends on it, never the text.
///
/// Places and costs that were not seen yet are tried a few times; others again now and then, ever more rarely
/// while nothing changes. Drafting is given up only when luck does not explain any more that it seems not to
/// pay. Then it rests: modules would have to read all that was decoded without them, so it must promise more
/// to be taken up again than it must give to go on, and is tried only when that reading costs little beside
/// what was decoded since.
class DraftPolicy {
 public:
  /// most: the largest K to consider   trees: whether places can have several candidates, which is then a
  /// choice, too: with costs and shares of its own   leads: whether drafts have leads, by which they are cut
  explicit DraftPolicy(Index most, bool trees = false, bool leads = false)
      : most_(static_cast<std::size_t>(most)),
        led_(leads),
        costs_(1 + (trees ? 2 : 1) * most_),
        places_(2 * (most_ + 1)),
        led_passes_(most_ + 1) {}

  /// The plan for the next pass: K; or most + K for trees of K places.
  /// behind: rows that modules would have to read first, of all sequences
  Index choose(Index behind = 0) {
    ++passes_;
    for (std::size_t k = 0; k < 2 && k < costs_.size(); ++k) {
      if (costs_[k].count < warm) return static_cast<Index>(k);
    }
    // A choice costs as much as a hundredth of a short pass: it is not made anew where nothing was learnt,
    // and plain passes take what they took.
    if (resting_ && !std::exchange(news_, false) && cost(0) < 1.05 * chosen_at_ && too_early(behind))
      return 0;
    chosen_at_ = cost(0);
    if (led_) of_a_step_ = std::max(rate(0), led_rate()) * step();
    const std::size_t best = fastest();
    if (best != last_best_) {
      last_best_ = best;
      interval_ = first_interval;
      last_probe_ = passes_;
    }
    // Not given up as long as luck may explain what drafts told.
    if (best == 0 && costs_.size() > 1 && !resting_) {
      if (const std::size_t k = might_pay(); k > 0) return static_cast<Index>(k);
      resting_ = true;
    }
    if (best > 0) resting_ = false;
    if (led_ && best > 0) return static_cast<Index>(probes_plain() ? 0 : best);
    // Longer drafts are worth a try where they would win at the price of as many more steps.
    if (const std::size_t longer = worth_a_try(best); longer > 0) return static_cast<Index>(longer);
    // So is a tree as deep, until it is known what it costs, and that luck does not hide what it is worth.
    if (best > 0 && !in_tree(best) && costs_.size() > 1 + most_) {
      const std::size_t tree = best + most_;
      if (costs_[tree].count < warm || (place(tree, 1).seen < 20 && hoped(tree) > rate(best)))
        return static_cast<Index>(tree);
    }
    if (best == 0) {
      if (costs_.size() < 2 || too_early(behind)) return 0;
      rest_ *= 8;  // most of what is decoded while drafting rests is never read by the modules
      last_probe_ = passes_;
      forget();
      return 1;
    }
    if (passes_ - last_probe_ >= interval_) {
      interval_ = std::min<Index>(2 * interval_, 1024);
      last_probe_ = passes_;
      const bool trees = costs_.size() > 1 + most_;
      probe_ = (probe_ + 1) % (trees ? 3 : 2);
      if (probe_ == 2) return static_cast<Index>(in_tree(best) ? best - most_ : best + most_);
      return static_cast<Index>(probe_ == 1 && places(best) < most_ ? best + 1 : shorter(best));
    }
    return static_cast<Index>(best);
  }

  /// A new sequence begins: whether its modules should read the prompt, since drafts pay, or nothing is known
  /// yet, or it is time to see again whether they do.
  bool begin_sequence() {
    if (costs_.size() < 2) return false;
    if (costs_[1].count < warm || fastest() > 0) return true;
    if (++rested_ % 16 != 0) return false;
    forget();
    return true;
  }

  /// What a plan is: so many drafted places,
  Index places_of(Index plan) const { return static_cast<Index>(places(static_cast<std::size_t>(plan))); }
  /// ... and whether with several candidates.
  bool is_tree(Index plan) const { return in_tree(static_cast<std::size_t>(plan)); }

  /// What a pass of a plan took, all sequences together; for each sequence call stood() too.
  /// as_later: whether such passes take as long later. Others are not counted, unless there is no end of
  /// them.
  void took(Index plan, double seconds, bool as_later = true) {
    Cost& c = costs_[static_cast<std::size_t>(plan)];
    if (!as_later && ++c.left_out <= most_left_out) return;
    c.recent[c.count++ % c.recent.size()] = seconds;
  }

  /// Whether a sequence is drafted for further in this pass, whose drafts so far all stand with this chance:
  /// as long as what one more adds is worth more than the time that it takes is otherwise.
  bool go_on(double all_stand) const { return all_stand * leads_.chance() > of_a_step_; }
  /// The chance of a draft of this lead, if all before it stand.
  double chance(double lead) const { return leads_.chance(lead); }

  /// After stood(): the leads of a sequence's drafts, of which the first `accepted` stood.
  void led(std::span<const double> leads, Index accepted) {
    const auto stood = static_cast<std::size_t>(accepted);
    for (std::size_t i = 0; i < leads.size() && i <= stood; ++i) leads_.saw(leads[i], i < stood);
  }
  /// After took(): what a pass gave each sequence on average, whose longest drafts were so long.
  void gave(Index longest, double tokens) {
    if (longest == 0) return;
    for (double& passes : led_passes_) passes *= memory;
    led_passes_[static_cast<std::size_t>(longest)] += 1;
    given_ = given_ * memory + tokens;
  }

  /// What modules took to read `rows` rows of a prompt.
  void read(Index rows, double seconds) {
    if (rows > 0) row_ = seconds / static_cast<double>(rows);
  }

  /// `drafted` places were drafted for a sequence, the first `accepted` of them stood.
  void stood(Index drafted, Index accepted, bool tree = false) {
    if (drafted == 0) return;
    news_ = true;
    for (Place& p : places_) {  // what was seen long ago counts less
      p.seen *= staleness;
      p.stood *= staleness;
    }
    const auto last = std::min(static_cast<std::size_t>(drafted), most_);
    for (std::size_t i = 1; i <= last; ++i) {
      if (accepted + 1 < static_cast<Index>(i)) break;  // an earlier one fell: nothing is known of this one
      places_[i + (tree ? most_ + 1 : 0)].add(accepted >= static_cast<Index>(i));
    }
  }

  /// Before choose(): how many sequences share the pass. Another number has other costs.
  void share(Index sequences) {
    if (sequences == sequences_) return;
    sequences_ = sequences;
    for (Cost& c : costs_) c.count = 0;
    std::fill(led_passes_.begin(), led_passes_.end(), 0.0);
    given_ = 0;
    interval_ = first_interval;
    rest_ = first_rest;
    last_probe_ = passes_;
  }

 private:
  static constexpr std::size_t warm = 3;
  static constexpr double memory = 0.995;      // half of an estimate is younger than 140 drafts
  static constexpr double recently = 0.9;      // ... and of what tells of changes, than 7
  static constexpr double staleness = 0.995;   // ... and than 140, where they were shorter
  static constexpr double worthwhile = 1.01;   // drafting must win by this much to go on
  static constexpr double promising = 1.1;     // ... and by this much to be taken up again
  static constexpr double affordable = 0.005;  // of the time since drafting was tried last, for catching up
  static constexpr Index first_interval = 32;
  static constexpr Index first_rest = 1024;  // passes
  static constexpr Index most_left_out = 16;

  struct Cost {
    std::array<double, 5> recent{};
    std::size_t count = 0;
    Index left_out = 0;
  };
  /// How often drafts of a place stood: by all that are remembered, and by the last ten alone, which tell
  /// when something has changed.
  struct Place {
    double seen = 0, stood = 0, lately = 0;

    void add(bool stands) {
      const double now = stands ? 1 : 0;
      lately = seen == 0 ? now : lately + (now - lately) * (1 - recently);
      seen = seen * memory + 1;
      stood = stood * memory + now;
      const double share = (stood + 0.5) / (seen + 1);
      const double error = std::sqrt(share * (1 - share) * (1 - recently) / (1 + recently));
      if (seen < 30 || std::abs(lately - share) < 4 * error) return;
      seen = 10;
      stood = lately * seen;
    }
  };

  /// The shortest of the last passes: others on the machine only ever make them longer.
  double cost(std::size_t k) const {
    const Cost& c = costs_[k];
    const auto count = static_cast<std::ptrdiff_t>(std::min(c.count, c.recent.size()));
    return *std::min_element(c.recent.begin(), c.recent.begin() + count);
  }

  bool in_tree(std::size_t plan) const { return plan > most_; }
  std::size_t places(std::size_t plan) const { return in_tree(plan) ? plan - most_ : plan; }
  std::size_t shorter(std::size_t plan) const { return places(plan) == 1 ? 0 : plan - 1; }
  const Place& place(std::size_t plan, std::size_t i) const {
    return places_[i + (in_tree(plan) ? most_ + 1 : 0)];
  }

  /// Emitted per pass of a plan. As long as little is known of a place, it stands as often as the one before
  /// it, so that longer drafts are tried again after a run of bad luck; that of a tree, as the chain's.
  double tokens(std::size_t plan) const {
    double total = 1, all = 1, before = 0.5;
    for (std::size_t i = 1; i <= places(plan); ++i) {
      const auto share_of = [&](const Place& p, double guess) { return (p.stood + guess) / (p.seen + 1); };
      const double chain = share_of(places_[i], before);
      before = in_tree(plan) ? share_of(place(plan, i), chain) : chain;
      all *= before;
      total += all;
    }
    return total;
  }

  double rate(std::size_t plan) const { return tokens(plan) / cost(plan); }

  /// The same if the first place stood as often as it may, by 1.4 standard errors; of leads, by 2: there is
  /// but one way to draft, which luck must not end.
  double hoped(std::size_t plan) const {
    const Place& first = place(plan, 1);
    const double share = (first.stood + 0.5) / (first.seen + 1);
    const double more = 1 + (led_ ? 2 : 1.4) * std::sqrt((1 - share) / share / (first.seen + 1));
    return led_ ? led_rate(more) : (1 + (tokens(plan) - 1) * more) / cost(plan);
  }

  /// What passes gave whose drafts were cut by their leads; if what stood had been `more` times as much.
  double led_rate(double more = 1) const {
    double passes = 0, seconds = 0;
    const double further = step();
    for (std::size_t k = 1; k < led_passes_.size(); ++k) {
      if (led_passes_[k] == 0) continue;
      // Few passes say little: others on the machine may have had part of all of them.
      const double by_others = cost(0) + static_cast<double>(k) * further;
      passes += led_passes_[k];
      seconds += led_passes_[k] * (costs_[k].count < warm ? by_others : cost(k));
    }
    if (passes == 0) return 0;
    const double stood = (given_ - passes + 0.5) / (passes + 1);
    return (1 + stood * more) * passes / seconds;
  }
  /// What a further draft costs: the slope of the line through what 0, 1, 2, .. drafts cost, as far as that
  /// is known.
  double step() const {
    double n = 0, sum_k = 0, sum_c = 0, sum_kk = 0, sum_kc = 0;
    for (std::size_t plan = 0; plan <= most_; ++plan) {
      if (costs_[plan].count < warm) continue;
      const auto k = static_cast<double>(plan);
      n += 1;
      sum_k += k;
      sum_c += cost(plan);
      sum_kk += k * k;
      sum_kc += k * cost(plan);
    }
    return n < 2 ? 0 : std::max(0.0, (n * sum_kc - sum_k * sum_c) / (n * sum_kk - sum_k * sum_k));
  }
  /// Whether it is time to see what plain decoding costs: where that could change something.
  bool probes_plain() {
    if (passes_ - last_probe_ < interval_ || led_rate() > 1.5 * rate(0)) return false;
    interval_ = std::min<Index>(2 * interval_, 1024);
    last_probe_ = passes_;
    return true;
  }

  /// The best plan of those that would pay if so; 0: none.
  std::size_t might_pay() const {
    std::size_t best = 0;
    if (led_) return hoped(most_) > rate(0) * worthwhile ? most_ : 0;
    for (std::size_t plan = 1; plan < costs_.size(); ++plan) {
      if (costs_[plan].count == 0 || hoped(plan) <= rate(0) * worthwhile) continue;
      if (best == 0 || rate(plan) > rate(best)) best = plan;
    }
    return best;
  }

  /// Where a longer draft than `best` would give more, if each further place cost what those of `best` cost
  /// on average: the next one on the way there whose cost is not known; 0: none would.
  std::size_t worth_a_try(std::size_t best) const {
    if (best == 0) return 0;
    const double step = std::max(0.0, cost(best) - cost(0)) / static_cast<double>(places(best));
    std::size_t next = 0;
    for (std::size_t plan = best + 1; plan <= (in_tree(best) ? 2 * most_ : most_); ++plan) {
      if (costs_[plan].count >= warm) continue;
      if (next == 0) next = plan;
      if (tokens(plan) / (cost(best) + step * static_cast<double>(plan - best)) > rate(best)) return next;
    }
    return 0;
  }

  /// Whether drafting goes on resting: it was tried not long ago, or it costs too much to let modules read so
  /// many rows, beside what was decoded without them.
  bool too_early(Index rows) const {
    const Index since = passes_ - last_probe_;
    return since < rest_ ||
           static_cast<double>(rows) * row_ > affordable * static_cast<double>(since) * cost(0);
  }

  /// What drafts were worth before a rest says little of what they are worth now.
  void forget() {
    costs_[1].count = 0;
    for (Place& p : places_) {
      p.seen *= 0.3;
      p.stood *= 0.3;
    }
    for (double& passes : led_passes_) passes *= 0.3;
    given_ *= 0.3;
  }

  std::size_t fastest() const {
    const double margin = resting_ ? promising : worthwhile;
    if (led_) return led_rate() > rate(0) * margin ? most_ : 0;
    std::size_t best = 0;
    for (std::size_t k = 1; k < costs_.size(); ++k) {
      if (costs_[k].count == 0) continue;
      if (rate(k) > rate(best) * (best == 0 ? margin : 1)) best = k;
    }
    return best;
  }

  std::size_t most_;
  bool led_;
  std::vector<Cost> costs_;    // of plans: [most + 1], or [2 most + 1] with trees
  std::vector<Place> places_;  // [most + 1] of chains, from 1; of trees
  DraftLeads leads_;
  std::vector<double> led_passes_;  // [most + 1], by the longest draft: passes whose drafts were cut by leads
  double given_ = 0;                // by them, tokens
  double of_a_step_ = 0;            // tokens that the time of a further draft is worth
  Index sequences_ = 0;
  Index passes_ = 0;
  Index interval_ = first_interval;
  Index rest_ = first_rest;
  Index last_probe_ = 0;
  double row_ = 0;        // seconds of a row that modules read to catch up
  bool resting_ = false;  // drafting was given up
  bool news_ = false;     // something was drafted since the last choice
  double chosen_at_ = 0;  // what a plain pass took then
  Index rested_ = 0;      // sequences begun while drafting rested
  int probe_ = 0;         // what was tried last: a shorter one, a longer one, the other kind
  std::size_t last_best_ = 0;
};

}  // namespace mtpx
