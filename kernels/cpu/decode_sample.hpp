#pragma once

#include "core/parallel.hpp"

#include "../sampling.hpp"
#include "../shapes.hpp"
#include "../verify.hpp"

namespace mtpx {

/// ids[r] = the place of the largest of logits [rows, width], the lowest among equals. NaN never wins.
template <typename A>
void argmax_rows(const Cpu&, Rows rows, const A* logits, std::int32_t* ids) {
  for (Index r = 0; r < rows.count; ++r)
    ids[r] = argmax(std::span<const A>(logits + r * rows.stride, static_cast<std::size_t>(rows.width)));
}

/// ids[r] = a token drawn from distribution() of row r: that at which the cumulated probabilities pass u[r]
/// in [0, 1). The distributions can be kept.   logits: [rows, width]   u, ids: [rows]
template <typename A>
void draw_rows(const Cpu& cpu, Rows rows, const A* logits, const SamplingOptions& options, const double* u,
               std::int32_t* ids, const Kept& kept = {}) {
  const auto width = static_cast<std::size_t>(rows.width);
  cpu::parallel_for(cpu, rows.count, [&](Index r) {
    thread_local std::vector<std::int32_t> order;  // kept, so that decoding allocates nothing
    double* const to =
        kept.table != nullptr ? kept.table + kept.rows[r] * rows.width : cpu::scratch<double>(rows.width, 2);
    const std::span<double> p(to, width);
    distribution(std::span<const A>(logits + r * rows.stride, width), options, p, order);
    ids[r] = sample(p, u[r]);
  });
}

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

/// Settles rounds by a rule of ../verify.hpp.   verdicts: [count, 2]: how many drafts stand, and what follows
inline void verify_rounds(const Cpu& cpu, const VerifyRule& rule, const DraftRounds& rounds,
                          std::int32_t* verdicts) {
  cpu::parallel_for(cpu, rounds.count, [&](Index s) {
    const Verdict verdict = verify(rule, cpu::HostRound{rounds[s]});
    verdicts[2 * s] = static_cast<std::int32_t>(verdict.accepted);
    verdicts[2 * s + 1] = verdict.next;
  });
}

}  // namespace mtpx
