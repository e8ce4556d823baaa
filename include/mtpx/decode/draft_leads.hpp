#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace mtpx {

/// How often drafts stand, by their leads. A draft's lead is how far it won its race by (race_for_leads() in
/// ops/next_token.hpp): logits that differ by less between the module and the main model cannot let another
/// token win, so a draft of a large lead stands nearly always, one of a small lead about as often as not.
/// That is true of sampled drafts and of greedy ones, and needs nothing to be trained; what a lead is worth
/// is learnt from the drafts themselves.
class DraftLeads {
 public:
  /// The chance of a draft of this lead, if all before it stand. As long as little is known of such leads, it
  /// is that of smaller ones; of the smallest, one half.
  double chance(double lead) const {
    double of_smaller = 0.5;
    for (std::size_t i = 0;; ++i) {
      of_smaller = counts_[i].share(of_smaller);
      if (i == kind(lead)) return of_smaller;
    }
  }
  /// ... of one that was not made yet.
  double chance() const { return all_.share(0.5); }

  /// A draft stood or fell, behind others that stood.
  void saw(double lead, bool stood) {
    counts_[kind(lead)].add(stood);
    all_.add(stood);
  }

 private:
  static constexpr std::size_t kinds = 10;
  static constexpr double memory = 0.998;  // half of a share is younger than 350 drafts

  struct Count {
    double seen = 0, stood = 0;

    void add(bool stands) {
      seen = seen * memory + 1;
      stood = stood * memory + (stands ? 1 : 0);
    }
    double share(double guess) const { return (stood + 4 * guess) / (seen + 4); }
  };

  /// Leads of 0 .. infinity by l / (1 + l), which parts those of some tenths as finely as those of some
  /// units.
  static std::size_t kind(double lead) {
    if (!(lead < 1e6)) return kinds - 1;  // no other token had a chance
    return std::min(kinds - 1, static_cast<std::size_t>(kinds * std::max(0.0, lead) / (1 + lead)));
  }

  std::array<Count, kinds> counts_{};
  Count all_;
};

}  // namespace mtpx
