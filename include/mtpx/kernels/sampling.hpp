#pragma once
// From logits to a token: temperature, top-k, top-p. What tokens race by, or are drawn from, and drafts are
// verified against. The functions are the host's; cuda/sample.cuh mirrors them.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include "formulas.hpp"
#include "noise.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace mtpx {

/// How a token is chosen from logits.
struct SamplingOptions {
  double temperature = 0;  ///< 0: greedy
  Index top_k = 0;         ///< keep the k most likely tokens; 0: all
  double top_p = 1;        ///< keep the smallest set of most likely tokens whose probability reaches this

  /// Whether the most likely token is taken, without a draw.
  constexpr bool greedy() const { return temperature == 0; }
  /// Whether only some tokens of a vocabulary may be drawn.
  constexpr bool cuts(Index vocab) const { return top_p < 1 || (top_k > 0 && top_k < vocab); }

  /// Throws ConfigError naming the option and its value.
  void validate() const {
    const auto check = [](bool holds, const char* name, const auto& value, const char* rule) {
      if (!holds) throw ConfigError(cat("[sampling] ", name, " = ", value, ": ", rule));
    };
    check(temperature >= 0 && std::isfinite(temperature), "temperature", temperature,
          "must be 0 (greedy) or positive");
    check(top_k >= 0, "top_k", top_k, "must be 0 (all tokens) or positive");
    check(top_p > 0 && top_p <= 1, "top_p", top_p, "must be above 0 and at most 1");
  }
};

/// How the token of one row is found. Kernels take an array of these from device memory: what a row draws by
/// may change from pass to pass, and from row to row, without anything being recorded anew.
struct Draw {
  SamplingOptions sampling{};  ///< how number or noise are used
  double number = 0;           ///< of sample(): u in [0, 1)
  Noise noise{};               ///< of race()
};

/// Where a kernel that draws tokens leaves the distributions: that of row r in row rows[r] of a table. Null:
/// nowhere.
struct Kept {
  double* table = nullptr;             ///< [.., V]
  const std::int32_t* rows = nullptr;  ///< one for each row drawn from
};

/// A token as kernels give it: its id or, where its logit is not finite, ~id, which is negative. Then no
/// logit is a number, or one is above all of them, and no token can be chosen.
template <typename A>
MTPX_ANYWHERE std::int32_t token_or_not(std::int32_t id, A logit) {
  return logit - logit == 0 ? id : ~id;
}

/// The most likely token, the lowest id on ties. NaN never wins.
template <typename A>
std::int32_t argmax(std::span<const A> logits) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || (logits[best] != logits[best] && logits[i] == logits[i])) best = i;
  }
  return static_cast<std::int32_t>(best);
}

/// p_i = e^((z_i - top) / temperature), where top is the largest of the logits z; 0 for NaN.
template <typename A>
void weights_of(std::span<const A> logits, double top, double temperature, std::span<double> p) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double z = static_cast<double>(logits[i]);
    p[i] = z == top ? 1.0 : z == z ? exact::exp((z - top) / temperature) : 0.0;
  }
}

/// The distribution that tokens are drawn from: softmax(logits / temperature), cut to the top_k, then to the
/// top_p of what is left, then normalised. Equally likely tokens are kept from the lowest id. Greedy:
/// one-hot. NaN has no chance beside a number; of NaN alone token 0 is drawn.
///
/// logits: [V]   p: [V], written   order: memory that is kept between calls
///
/// weigh(logits, top, temperature, p): weights_of() in the device's own way
template <typename A, typename Weigh>
void distribution(std::span<const A> logits, const SamplingOptions& options, std::span<double> p,
                  std::vector<std::int32_t>& order, const Weigh& weigh) {
  const auto best = static_cast<std::size_t>(argmax(logits));
  if (options.greedy()) {
    std::fill(p.begin(), p.end(), 0.0);
    p[best] = 1;
    return;
  }
  weigh(logits, static_cast<double>(logits[best]), options.temperature, p);
  p[best] = 1;

  const std::size_t all = p.size();
  const bool cut = options.top_k > 0 && options.top_k < static_cast<Index>(all);
  if (cut || options.top_p < 1) {
    order.resize(all);
    std::iota(order.begin(), order.end(), 0);
    const auto likelier = [&](std::int32_t a, std::int32_t b) {
      const double pa = p[static_cast<std::size_t>(a)], pb = p[static_cast<std::size_t>(b)];
      return pa != pb ? pa > pb : a < b;
    };
    const auto at = [&](std::size_t i) -> double& { return p[static_cast<std::size_t>(order[i])]; };
    const auto place = [&](std::size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
    std::size_t keep = cut ? static_cast<std::size_t>(options.top_k) : all;
    if (cut) std::nth_element(order.begin(), place(keep - 1), order.end(), likelier);
    if (options.top_p < 1) {
      double total = 0;
      for (std::size_t i = 0; i < keep; ++i) total += at(i);
      // Sorted only as far as needed, which is a few tokens of a large vocabulary.
      const std::size_t last = keep;
      double sum = 0;
      for (std::size_t i = 0, sorted = 0; i < last; ++i) {
        if (i == sorted) {
          sorted = std::min(last, std::max<std::size_t>(32, 4 * sorted));
          std::partial_sort(place(i), place(sorted), place(last), likelier);
        }
        sum += at(i);
        if (sum >= options.top_p * total) {
          keep = i + 1;
          break;
        }
      }
    }
    for (std::size_t i = keep; i < all; ++i) at(i) = 0;
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
}

/// The same as a vector of its own.
template <typename A>
std::vector<double> distribution(std::span<const A> logits, const SamplingOptions& options) {
  std::vector<double> p(logits.size());
  std::vector<std::int32_t> order;
  distribution(logits, options, std::span<double>(p), order, weights_of<A>);
  return p;
}

/// The token at which the cumulated weights weight(0), weight(1), .. pass u * sum, for u in [0, 1); never one
/// of weight 0. `sum` is that of all weights.
template <typename Weight>
std::int32_t sample(std::size_t count, const Weight& weight, double u, double sum) {
  double cumulated = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double w = weight(i);
    if (w <= 0) continue;
    last = i;
    cumulated += w;
    if (u * sum < cumulated) break;
  }
  return static_cast<std::int32_t>(last);
}

/// The same of a distribution.
inline std::int32_t sample(std::span<const double> p, double u) {
  return sample(
      p.size(), [&](std::size_t i) { return p[i]; }, u, 1);
}

/// What a token races with, against the others of its row that were not cut: the largest wins. A greedy row's
/// noise is nothing.
MTPX_ANYWHERE double race_score(double logit, const SamplingOptions& options, const Noise& noise, Index id) {
  return options.greedy() ? logit : logit / options.temperature + noise.of(id);
}

/// Whether a token that was not cut races: beside the likeliest, whose logit is `top`, it has a chance that a
/// double holds. Of a greedy row, any that is not forbidden.
MTPX_ANYWHERE bool may_race(double logit, double top, const SamplingOptions& options) {
  if (options.greedy()) return logit > -std::numeric_limits<double>::infinity();
  return logit == top || (logit - top) / options.temperature > -700;
}

/// What stands in a list of a race's best tokens where no further one has a chance.
inline constexpr std::int32_t no_token = -1;

/// The token x of largest log p_x + g_x, p being distribution() and g standard Gumbel noise of the place: the
/// same as the smallest e_x / p_x with exponential e ("Gumbel-max": Gumbel 1954; Maddison, Tarlow & Minka
/// 2014, arXiv 1411.0030). So it has the chances p, and it is a function of the place's noise and of p alone.
/// A draft that raced with the same noise, on another distribution q, is this token with the chance
///
///   sum_x 1 / sum_y max(p_y / p_x, q_y / q_x)  >=  (1 - TV) / (1 + TV),   TV = sum_x |p_x - q_x| / 2
///
/// (Daliri, Musco & Suresh 2024, arXiv 2408.07978). The lowest id wins among equals; NaN never does.
///
/// best: [m]; the m best of q's race, in their order: a list of drafts for one place. Its numbers behind the
/// first are no_token where fewer have a chance.
template <typename A>
void race(std::span<const A> logits, const SamplingOptions& options, const Noise& noise,
          std::span<std::int32_t> best) {
  const std::vector<double> p = distribution(logits, options);
  const auto top = static_cast<double>(logits[static_cast<std::size_t>(argmax(logits))]);
  const bool cuts = options.cuts(static_cast<Index>(p.size()));
  std::vector<std::pair<double, std::int32_t>> scores;
  for (std::size_t x = 0; x < p.size(); ++x) {
    const auto z = static_cast<double>(logits[x]);
    if (!may_race(z, top, options) || (!options.greedy() && cuts && p[x] <= 0)) continue;
    scores.emplace_back(race_score(z, options, noise, static_cast<Index>(x)), static_cast<std::int32_t>(x));
  }
  std::sort(scores.begin(), scores.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  for (std::size_t i = 0; i < best.size(); ++i) best[i] = i < scores.size() ? scores[i].second : no_token;
  if (scores.empty()) best[0] = argmax(logits);
}

/// The first of them.
template <typename A>
std::int32_t race(std::span<const A> logits, const SamplingOptions& options, const Noise& noise) {
  std::int32_t best = 0;
  race(logits, options, noise, std::span(&best, 1));
  return best;
}

}  // namespace mtpx
