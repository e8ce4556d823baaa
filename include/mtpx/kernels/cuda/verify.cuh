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
    verify_block_of_round(const VerifyRule rule, const DraftRounds rounds, Verdict* verdicts) {
  __shared__ DrawShared shared;
  const Verdict verdict = verify(rule, BlockRound{rounds[blockIdx.x], shared});
  if (threadIdx.x == 0) verdicts[blockIdx.x] = verdict;
}

}  // namespace cuda

/// Settles rounds by a rule of ../verify.hpp.   verdicts: [count]
inline void verify_rounds(const Cuda& device, const VerifyRule& rule, const DraftRounds& rounds,
                          Verdict* verdicts) {
  cuda::launch(device, "verify", cuda::verify_block_of_round<cuda::draw_threads>,
               static_cast<unsigned>(rounds.count), cuda::draw_threads, 0, rule, rounds, verdicts);
}

}  // namespace mtpx
