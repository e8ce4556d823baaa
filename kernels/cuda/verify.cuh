#pragma once
// Twin of cpu/verify.hpp: rounds of drafts settled on the device, by the rules of ../verify.hpp: no
// distribution leaves it. A block a round; all of its threads follow the rule together, with the same
// numbers, and share the sums over the vocabulary.

#include "../verify.hpp"
#include "sample.cuh"

namespace mtpx {

namespace cuda {

/// A round that a block settles.
struct BlockRound : DraftRound {
  DrawShared& shared;

  /// The sum of f(x) over the vocabulary.
  template <typename F>
  __device__ double sum(const F& f) const {
    double sums[1] = {};
#pragma unroll 4
    for (Index x = threadIdx.x; x < vocab; x += draw_threads) sums[0] += f(x);
    add_over_block(shared, sums);
    return shared.totals[0];
  }
  __device__ double left(Index i, double r) const {
    return sum([&](Index x) { return residual(i, r, x); });
  }
  __device__ std::int32_t rest(Index i, double r, double) const {
    return draw_of_block(
        shared, vocab, [&](Index x) { return residual(i, r, x); }, draws[i]);
  }
  __device__ double entropy(Index i) const {
    return sum([&](Index x) {
      const double px = p(i, x);
      return px > 0 ? -px * exact::log(px) : 0.0;
    });
  }
  __device__ std::int32_t next(Index i) const {
    return draw_of_block(
        shared, vocab, [&](Index x) { return p(i, x); }, draws[i]);
  }
};

template <int threads>
__global__ void __launch_bounds__(threads)
    verify_block_of_round(const VerifyRule rule, const DraftRounds rounds, std::int32_t* verdicts) {
  __shared__ DrawShared shared;
  const Verdict verdict = verify(rule, BlockRound{rounds[blockIdx.x], shared});
  if (threadIdx.x != 0) return;
  verdicts[2 * blockIdx.x] = static_cast<std::int32_t>(verdict.accepted);
  verdicts[2 * blockIdx.x + 1] = verdict.next;
}

}  // namespace cuda

/// Settles rounds by a rule of ../verify.hpp.   verdicts: [count, 2]: how many drafts stand, and what follows
inline void verify_rounds(const Cuda& device, const VerifyRule& rule, const DraftRounds& rounds,
                          std::int32_t* verdicts) {
  cuda::launch(device, "verify", cuda::verify_block_of_round<cuda::draw_threads>,
               static_cast<unsigned>(rounds.count), cuda::draw_threads, 0, rule, rounds, verdicts);
}

}  // namespace mtpx
