#pragma once
// From logits to a token: temperature, top-k, top-p, and the exact acceptance rule of speculative sampling.

#include <mtpx/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

namespace mtpx {

struct SamplingOptions {
  double temperature = 0;  ///< 0: greedy
  Index top_k = 0;         ///< keep the k most likely tokens; 0: all
  double top_p = 1;        ///< keep the smallest set of most likely tokens whose probability reaches this

  bool greedy() const { return temperature == 0; }

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

/// The most likely token, the lowest id on ties. NaN never wins.
template <typename A>
std::int32_t argmax(std::span<const A> logits) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || (logits[best] != logits[best] && logits[i] == logits[i])) best = i;
  }
  return static_cast<std::int32_t>(best);
}

/// The distribution that tokens are drawn from: softmax(logits / temperature), cut to the top_k, then to the
/// top_p of what is left, then normalised. Equally likely tokens are kept from the lowest id. Greedy:
/// one-hot.
template <typename A>
std::vector<double> distribution(std::span<const A> logits, const SamplingOptions& options) {
  std::vector<double> p(logits.size(), 0.0);
  if (options.greedy()) {
    p[static_cast<std::size_t>(argmax(logits))] = 1;
    return p;
  }
  const double top = static_cast<double>(logits[static_cast<std::size_t>(argmax(logits))]);
  for (std::size_t i = 0; i < p.size(); ++i)
    p[i] = std::exp((static_cast<double>(logits[i]) - top) / options.temperature);

  const auto all = static_cast<Index>(p.size());
  if ((options.top_k > 0 && options.top_k < all) || options.top_p < 1) {
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
    auto keep = static_cast<std::size_t>(options.top_k > 0 ? std::min(options.top_k, all) : all);
    double total = 0;
    for (std::size_t i = 0; i < keep; ++i) total += p[order[i]];
    double sum = 0;
    for (std::size_t i = 0; i < keep; ++i) {
      sum += p[order[i]];
      if (sum >= options.top_p * total) keep = i + 1;
    }
    for (std::size_t i = keep; i < order.size(); ++i) p[order[i]] = 0;
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}

/// The token at which the cumulated probability passes u in [0, 1); never one of probability 0.
inline std::int32_t sample(std::span<const double> p, double u) {
  double sum = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] <= 0) continue;
    last = i;
    sum += p[i];
    if (u < sum) break;
  }
  return static_cast<std::int32_t>(last);
}

/// Whether a drafted token stays (Leviathan et al. 2023, arXiv 2211.17192): u < p / q, strictly, so that a
/// token of probability 0 never does, not even at u = 0.
inline bool accepts(double p, double q, double u) { return q > 0 && u * q < p; }

/// What a refused draft is replaced from: max(0, p - q), normalised; p itself when nothing is left of it.
inline std::vector<double> residual(std::span<const double> p, std::span<const double> q) {
  std::vector<double> rest(p.size());
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) total += rest[i] = std::max(0.0, p[i] - q[i]);
  if (total <= 0) return {p.begin(), p.end()};
  for (double& x : rest) x /= total;
  return rest;
}

}  // namespace mtpx
