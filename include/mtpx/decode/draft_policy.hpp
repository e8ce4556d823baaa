#pragma once

#include <mtpx/core/clock.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
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
  /// choice, too: with costs and shares of its own
  explicit DraftPolicy(Index most, bool trees = false)
      : most_(static_cast<std::size_t>(most)),
        costs_(1 + (trees ? 2 : 1) * most_),
        places_(2 * (most_ + 1)) {}

  /// The plan for the next pass: K; or most + K for trees of K places.
  /// behind: rows that modules would have to read first, of all sequences
  Index choose(Index behind = 0) {
    ++passes_;
    for (std::size_t k = 0; k < 2 && k < costs_.size(); ++k) {
      if (costs_[k].count < warm) return static_cast<Index>(k);
    }
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
    // A longer draft is worth a try where it would win at the price of its neighbour's step.
    if (best > 0 && places(best) < most_ && costs_[best + 1].count < warm) {
      const double step = std::max(0.0, cost(best) - cost(shorter(best)));
      if (tokens(best + 1) / (cost(best) + step) > rate(best)) return static_cast<Index>(best + 1);
    }
    // So is a tree as deep, until it is known what it costs, and that luck does not hide what it is worth.
    if (best > 0 && !in_tree(best) && costs_.size() > 1 + most_) {
      const std::size_t tree = best + most_;
      if (costs_[tree].count < warm || (place(tree, 1).seen < 20 && hoped(tree) > rate(best)))
        return static_cast<Index>(tree);
    }
    if (best == 0) {
      if (costs_.size() < 2 || passes_ - last_probe_ < rest_ || dear(behind)) return 0;
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

  /// What modules took to read `rows` rows of a prompt.
  void read(Index rows, double seconds) {
    if (rows > 0) row_ = seconds / static_cast<double>(rows);
  }

  /// `drafted` places were drafted for a sequence, the first `accepted` of them stood.
  void stood(Index drafted, Index accepted, bool tree = false) {
    if (drafted == 0) return;
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

  /// The same if the first place stood as often as it may, by 1.4 standard errors.
  double hoped(std::size_t plan) const {
    const Place& first = place(plan, 1);
    const double share = (first.stood + 0.5) / (first.seen + 1);
    const double more = 1 + 1.4 * std::sqrt((1 - share) / share / (first.seen + 1));
    return (1 + (tokens(plan) - 1) * more) / cost(plan);
  }

  /// The best plan of those that would pay if so; 0: none.
  std::size_t might_pay() const {
    std::size_t best = 0;
    for (std::size_t plan = 1; plan < costs_.size(); ++plan) {
      if (costs_[plan].count == 0 || hoped(plan) <= rate(0) * worthwhile) continue;
      if (best == 0 || rate(plan) > rate(best)) best = plan;
    }
    return best;
  }

  /// Whether it costs too much to let modules read so many rows, beside what was decoded without them.
  bool dear(Index rows) const {
    return static_cast<double>(rows) * row_ >
           affordable * static_cast<double>(passes_ - last_probe_) * cost(0);
  }

  /// What drafts were worth before a rest says little of what they are worth now.
  void forget() {
    costs_[1].count = 0;
    for (Place& p : places_) {
      p.seen *= 0.3;
      p.stood *= 0.3;
    }
  }

  std::size_t fastest() const {
    const double margin = resting_ ? promising : worthwhile;
    std::size_t best = 0;
    for (std::size_t k = 1; k < costs_.size(); ++k) {
      if (costs_[k].count == 0) continue;
      if (rate(k) > rate(best) * (best == 0 ? margin : 1)) best = k;
    }
    return best;
  }

  std::size_t most_;
  std::vector<Cost> costs_;    // of plans: [most + 1], or [2 most + 1] with trees
  std::vector<Place> places_;  // [most + 1] of chains, from 1; of trees
  Index sequences_ = 0;
  Index passes_ = 0;
  Index interval_ = first_interval;
  Index rest_ = first_rest;
  Index last_probe_ = 0;
  double row_ = 0;        // seconds of a row that modules read to catch up
  bool resting_ = false;  // drafting was given up
  Index rested_ = 0;      // sequences begun while drafting rested
  int probe_ = 0;         // what was tried last: a shorter one, a longer one, the other kind
  std::size_t last_best_ = 0;
};

}  // namespace mtpx
