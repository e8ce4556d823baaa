#pragma once

#include "views.hpp"

#include "../sampling.hpp"
#include "../verify.hpp"

namespace mtpx {

namespace eigen {

/// A round of drafts as the rules of ../verify.hpp ask about it.
struct Round : DraftRound {
  auto main(Index i) const { return row(p_rows + i * vocab, vocab); }
  /// max(0, r p_i - q_i), of every token
  RowArray<double> rest_of(Index i, double r) const {
    RowArray<double> draft = RowArray<double>::Zero(vocab);
    if (q_rows != nullptr) draft = row(q_rows + i * vocab, vocab);
    if (q_rows == nullptr) draft(drafts[i]) = 1;
    return (r * main(i) - draft).max(0.0);
  }
  double left(Index i, double r) const { return rest_of(i, r).sum(); }
  std::int32_t rest(Index i, double r, double left) const {
    const RowArray<double> weights = rest_of(i, r) / left;
    return sample(std::span<const double>(weights.data(), static_cast<std::size_t>(vocab)), draws[i]);
  }
  double entropy(Index i) const {
    return -main(i).unaryExpr([](double p) { return p > 0 ? p * std::log(p) : 0.0; }).sum();
  }
  std::int32_t next(Index i) const {
    return sample(std::span<const double>(p_rows + i * vocab, static_cast<std::size_t>(vocab)), draws[i]);
  }
};

}  // namespace eigen

/// How many drafts of every round stand, and what follows them.   verdicts: [count]
inline void verify_rounds(const Reference&, const VerifyRule& rule, const DraftRounds& rounds,
                          Verdict* verdicts) {
  for (Index s = 0; s < rounds.count; ++s) verdicts[s] = verify(rule, eigen::Round{rounds[s]});
}

}  // namespace mtpx
