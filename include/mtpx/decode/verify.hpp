#pragma once
// Which drafted tokens stand, and what comes after them. Each rule reads the distributions of the main model
// and of the drafts, both as tokens are drawn from them (after temperature, top-k and top-p), and random
// numbers; none of them knows a model, so that tests can enumerate what they do.
//
// In all of them: x_0 .. x_{K-1} were drafted; p(i) is the main model's distribution of the token at place i,
// given x_0 .. x_{i-1}, for i = 0 .. K; q(i) is the one that x_i was drawn from.

#include <mtpx/kernels.hpp>

namespace mtpx {

/// The first `accepted` drafts stand, and `next` comes after them.
struct Verdict {
  Index accepted = 0;
  std::int32_t next = 0;

  friend bool operator==(const Verdict&, const Verdict&) = default;
};

/// For drafts that were not drawn but chosen (q puts everything on x_i): the token of every place is drawn
/// from the main model, or is its most likely one, as in plain decoding; a draft stands if it is that token.
/// Its chance is p(x_i) = sum_x min(p, q): no rule accepts more often. And the text is that of plain
/// decoding, token by token, whatever was drafted.
///
/// pick(i): the token of place i
template <typename Pick>
Verdict verify_chosen(std::span<const std::int32_t> drafts, const Pick& pick) {
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    const std::int32_t token = pick(i);
    if (token != drafts[i]) return {static_cast<Index>(i), token};
  }
  return {static_cast<Index>(drafts.size()), pick(drafts.size())};
}

/// Whether a drafted token stays (Leviathan et al. 2023, arXiv 2211.17192): u < p / q, strictly, so that a
/// token of probability 0 never does, not even at u = 0.
inline bool accepts(double p, double q, double u) { return q > 0 && u * q < p; }

/// What a refused draft is replaced from: max(0, scale p - q), not normalised, into `rest`; returns the sum.
/// Where nothing is left (p == q but for rounding): p itself.
inline double residual(std::span<const double> p, std::span<const double> q, double scale,
                       std::span<double> rest) {
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) total += rest[i] = std::max(0.0, scale * p[i] - q[i]);
  if (total > 0) return total;
  std::copy(p.begin(), p.end(), rest.begin());
  return 1;
}

/// Token by token (Leviathan et al. 2023, algorithm 1; Chen et al. 2023, arXiv 2302.01318): x_i stands with
/// probability min(1, p(x_i) / q(x_i)); the first that does not is replaced from norm(max(0, p - q)). What
/// comes out is distributed as p, exactly.
///
/// keep(i), draw(i): numbers in [0, 1), independent of each other   rest: [V], scratch
template <typename P, typename Q, typename Keep, typename Draw>
Verdict verify_tokens(std::span<const std::int32_t> drafts, const P& p, const Q& q, const Keep& keep,
                      const Draw& draw, std::span<double> rest) {
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    const std::span<const double> pi = p(i), qi = q(i);
    const auto x = static_cast<std::size_t>(drafts[i]);
    if (accepts(pi[x], qi[x], keep(i))) continue;
    const double total = residual(pi, qi, 1, rest);
    return {static_cast<Index>(i), sample(rest, draw(i), total)};
  }
  return {static_cast<Index>(drafts.size()), sample(p(drafts.size()), draw(drafts.size()))};
}

/// All drafts together (Sun et al. 2024, arXiv 2403.10444, algorithm 2): as exact, and never accepts fewer on
/// average. With r_0 = 1 and r_i = min(1, r_{i-1} p(x_{i-1}) / q(x_{i-1})), the first i drafts are good with
/// probability
///
///   h_i = S_i / (S_i + 1 - r_i),  S_i = sum_x max(0, r_i p_i(x) - q_i(x)),   h_K = r_K;
///
/// the longest good prefix stands, and norm(max(0, r_i p_i - q_i)) follows it (p_K after all K).
template <typename P, typename Q, typename Keep, typename Draw>
Verdict verify_block(std::span<const std::int32_t> drafts, const P& p, const Q& q, const Keep& keep,
                     const Draw& draw, std::span<double> rest) {
  const std::size_t count = drafts.size();
  std::size_t good = 0;
  double ratio = 1, good_ratio = 1;
  for (std::size_t i = 1; i <= count; ++i) {
    const auto x = static_cast<std::size_t>(drafts[i - 1]);
    const double px = p(i - 1)[x], qx = q(i - 1)[x];
    ratio = qx > 0 ? std::min(1.0, ratio * px / qx) : 0.0;
    double chance = ratio;
    if (i < count) {
      const std::span<const double> pi = p(i), qi = q(i);
      double left = 0;
      for (std::size_t t = 0; t < pi.size(); ++t) left += std::max(0.0, ratio * pi[t] - qi[t]);
      const double all = left + 1 - ratio;
      chance = all > 0 ? left / all : 1.0;  // r_i = 1 and p = q: the next draft is good for certain
    }
    if (keep(i - 1) < chance) {
      good = i;
      good_ratio = ratio;
    }
  }
  if (good == count) return {static_cast<Index>(count), sample(p(count), draw(count))};
  const double total = residual(p(good), q(good), good_ratio, rest);
  return {static_cast<Index>(good), sample(rest, draw(good), total)};
}

/// LOSSY: changes what is generated. Typical acceptance (Cai et al. 2024, arXiv 2401.10774, sec. 2.3.1): x_i
/// stands if p(x_i) > min(epsilon, delta e^-H(p)), H the entropy in nats.
template <typename P, typename Draw>
Verdict verify_typical(std::span<const std::int32_t> drafts, const P& p, double epsilon, double delta,
                       const Draw& draw) {
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    const std::span<const double> pi = p(i);
    double entropy = 0;
    for (const double x : pi) entropy -= x > 0 ? x * std::log(x) : 0;
    if (pi[static_cast<std::size_t>(drafts[i])] > std::min(epsilon, delta * std::exp(-entropy))) continue;
    return {static_cast<Index>(i), sample(pi, draw(i))};
  }
  return {static_cast<Index>(drafts.size()), sample(p(drafts.size()), draw(drafts.size()))};
}

}  // namespace mtpx
