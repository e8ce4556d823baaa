#pragma once
// Which drafted tokens stand, and what comes after them. Each rule reads a round (rounds.hpp): the
// distributions of the main model and of the drafts, both as tokens are drawn from them (after temperature,
// top-k and top-p), and random numbers; none of them knows a model, so that tests can enumerate what they do.
// Written once for every device: a thread of the host settles a round, or all threads of a GPU's block
// together.
//
// In all of them: x_0 .. x_{K-1} were drafted; p(i) is the main model's distribution of the token at place i,
// given x_0 .. x_{i-1}, for i = 0 .. K; q(i) is the one that x_i was drawn from.

#include "rounds.hpp"

#include <cstdint>
#include <span>

namespace mtpx {

/// How drafts are checked. The first two change nothing about what is generated, only how fast.
enum class Verification {
  exact,         ///< token by token
  block,         ///< all drafts of a pass together: accepts more of them, on average
  lossy_typical  ///< LOSSY: also accepts drafts that the main model finds likely enough
};

/// A way to check drafts, with its numbers.
struct VerifyRule {
  Verification verification = Verification::exact;  ///< which way
  double typical_epsilon = 0.09;                    ///< of lossy_typical
  double typical_delta = 0.3;                       ///< of lossy_typical, see verify_typical()
};

/// The token of every place is the one that plain decoding picks there: its most likely one, or the one that
/// wins the race with the place's noise (sampling.hpp). A draft stands if it is that token: so the text is
/// that of plain decoding, token by token, whatever was drafted, and however many candidates a place has.
/// Drafts race with the same noise, which makes them likely to be it; `race` says how likely.
///
/// pick(node): the token that plain decoding picks behind a node of a tree of drafts, 0 being what is known
/// child(node, token): the node that drafted it there; negative: none did
template <typename Pick, typename Child>
Verdict verify_equal(const Pick& pick, const Child& child) {
  Index node = 0;
  for (Index accepted = 0;; ++accepted) {
    const std::int32_t token = pick(node);
    node = child(node, token);
    if (node < 0) return {accepted, token};
  }
}

/// Whether a drafted token stays (Leviathan et al. 2023, arXiv 2211.17192): u < p / q, strictly, so that a
/// token of probability 0 never does, not even at u = 0.
MTPX_OF_KERNELS bool accepts(double p, double q, double u) { return q > 0 && u * q < p; }

/// A token drawn from p_i; negative where draw_rows() found that no token can be chosen, and left NaN.
template <typename At>
MTPX_OF_KERNELS std::int32_t draw_next(const At& at, Index i) {
  return at.p(i, 0) == at.p(i, 0) ? at.next(i) : -1;
}

/// What replaces draft i: a token drawn from norm(max(0, r p_i - q_i)). Where nothing is left (p == q but for
/// rounding): from p_i itself.
template <typename At>
MTPX_OF_KERNELS std::int32_t replace_draft(const At& at, Index i, double r) {
  const double left = at.left(i, r);
  return left > 0 ? at.rest(i, r, left) : draw_next(at, i);
}

/// Token by token (Leviathan et al. 2023, algorithm 1; Chen et al. 2023, arXiv 2302.01318): x_i stands with
/// probability min(1, p(x_i) / q(x_i)); the first that does not is replaced from norm(max(0, p - q)). What
/// comes out is distributed as p, exactly.
template <typename At>
MTPX_OF_KERNELS Verdict verify_tokens(const At& at) {
  for (Index i = 0; i < at.count; ++i) {
    const Index x = at.drafts[i];
    if (!accepts(at.p(i, x), at.q(i, x), at.keeps[i])) return {i, replace_draft(at, i, 1)};
  }
  return {at.count, draw_next(at, at.count)};
}

/// All drafts together (Sun et al. 2024, arXiv 2403.10444, algorithm 2): as exact, and never accepts fewer on
/// average. With r_0 = 1 and r_i = min(1, r_{i-1} p(x_{i-1}) / q(x_{i-1})), the first i drafts are good with
/// probability
///
///   h_i = S_i / (S_i + 1 - r_i),  S_i = sum_x max(0, r_i p_i(x) - q_i(x)),   h_K = r_K;
///
/// the longest good prefix stands, and norm(max(0, r_i p_i - q_i)) follows it (p_K after all K).
template <typename At>
MTPX_OF_KERNELS Verdict verify_block(const At& at) {
  Index good = 0;
  double r = 1, good_r = 1;
  for (Index i = 1; i <= at.count; ++i) {
    const Index x = at.drafts[i - 1];
    const double px = at.p(i - 1, x), qx = at.q(i - 1, x);
    r = qx > 0 ? r * px / qx : 0;
    r = r > 1 ? 1 : r;  // NaN stays, and no draft behind it is good
    double chance = r;
    if (i < at.count) {
      const double left = at.left(i, r), all = left + 1 - r;
      chance = all > 0 ? left / all : 1;  // r_i = 1 and p = q: the next draft is good for certain
    }
    if (at.keeps[i - 1] < chance) {
      good = i;
      good_r = r;
    }
  }
  return {good, good == at.count ? draw_next(at, good) : replace_draft(at, good, good_r)};
}

/// LOSSY: changes what is generated. Typical acceptance (Cai et al. 2024, arXiv 2401.10774, sec. 2.3.1): x_i
/// stands if p(x_i) > min(epsilon, delta e^-H(p)), H the entropy in nats.
template <typename At>
MTPX_OF_KERNELS Verdict verify_typical(const At& at, double epsilon, double delta) {
  for (Index i = 0; i < at.count; ++i) {
    const double by_entropy = delta * exact::exp(-at.entropy(i));
    const bool likely = at.p(i, at.drafts[i]) > (by_entropy < epsilon ? by_entropy : epsilon);
    if (!likely) return {i, draw_next(at, i)};
  }
  return {at.count, draw_next(at, at.count)};
}

/// By the rule that is asked for.
template <typename At>
MTPX_OF_KERNELS Verdict verify(const VerifyRule& rule, const At& at) {
  if (rule.verification == Verification::lossy_typical)
    return verify_typical(at, rule.typical_epsilon, rule.typical_delta);
  return rule.verification == Verification::block ? verify_block(at) : verify_tokens(at);
}

}  // namespace mtpx
