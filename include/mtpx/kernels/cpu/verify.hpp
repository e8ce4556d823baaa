#pragma once

#include "core/parallel.hpp"

#include "../sampling.hpp"
#include "../verify.hpp"

namespace mtpx {

namespace cpu {

/// A round that one thread settles.
struct HostRound : DraftRound {
  double left(Index i, double r) const {
    double sum = 0;
    for (Index x = 0; x < vocab; ++x) sum += residual(i, r, x);
    return sum;
  }
  std::int32_t rest(Index i, double r, double left) const {
    return sample(
        static_cast<std::size_t>(vocab), [&](std::size_t x) { return residual(i, r, static_cast<Index>(x)); },
        draws[i], left);
  }
  double entropy(Index i) const {
    double sum = 0;
    for (Index x = 0; x < vocab; ++x) {
      const double px = p(i, x);
      sum -= px > 0 ? exact::product(px, exact::log(px)) : 0.0;
    }
    return sum;
  }
  std::int32_t next(Index i) const {
    return sample(std::span(p_rows + i * vocab, static_cast<std::size_t>(vocab)), draws[i]);
  }
};

}  // namespace cpu

/// Settles rounds by a rule of ../verify.hpp.   verdicts: [count]
inline void verify_rounds(const Cpu& cpu, const VerifyRule& rule, const DraftRounds& rounds,
                          Verdict* verdicts) {
  cpu::parallel_for(cpu, rounds.count,
                    [&](Index s) { verdicts[s] = verify(rule, cpu::HostRound{rounds[s]}); });
}

}  // namespace mtpx
