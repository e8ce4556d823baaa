#pragma once
// Every op once more, as the loop that its docstring's equation says, in double, on dense rows. Nothing here
// is shared with the kernels.

#include <mtpx/core/shape.hpp>

#include "../../kernels/shapes.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace mtpx::naive {

using Numbers = std::vector<double>;
using Ints = std::vector<std::int32_t>;

/// Index arithmetic without casts everywhere.
template <typename V>
auto& at(V& values, Index i) {
  return values[static_cast<std::size_t>(i)];
}
inline Numbers zeros(Index size) { return Numbers(static_cast<std::size_t>(size), 0.0); }
inline Index length(const Numbers& x) { return static_cast<Index>(x.size()); }

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }

/// y = x W^T.   w: [out, in]
inline Numbers linear(const Numbers& x, const Numbers& w, Index in, Index out) {
  const Index rows = length(x) / in;
  Numbers y = zeros(rows * out);
  for (Index r = 0; r < rows; ++r) {
    for (Index o = 0; o < out; ++o) {
      for (Index i = 0; i < in; ++i) at(y, r * out + o) += at(x, r * in + i) * at(w, o * in + i);
    }
  }
  return y;
}

/// y_rj = x_rj / sqrt(mean_k x_rk^2 + eps) * gain_j
inline Numbers rms_norm(const Numbers& x, const Numbers& gain, double eps) {
  const Index width = length(gain);
  Numbers y = x;
  for (Index r = 0; r < length(x) / width; ++r) {
    double squares = 0;
    for (Index c = 0; c < width; ++c) squares += at(x, r * width + c) * at(x, r * width + c);
    const double root = std::sqrt(squares / static_cast<double>(width) + eps);
    for (Index c = 0; c < width; ++c) at(y, r * width + c) = at(x, r * width + c) / root * at(gain, c);
  }
  return y;
}

/// (y_2j, y_2j+1) = R(position * base^(-2j / rope)) (x_2j, x_2j+1) on the last `rope` numbers of each head.
inline Numbers rope(const Numbers& x, Index heads, Index width, Index rope, const Ints& positions,
                    double base) {
  Numbers y = x;
  for (Index r = 0; r < length(x) / (heads * width); ++r) {
    for (Index h = 0; h < heads; ++h) {
      for (Index j = 0; j < rope / 2; ++j) {
        const double angle =
            at(positions, r) * std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(rope));
        const Index i = (r * heads + h) * width + width - rope + 2 * j;
        at(y, i) = at(x, i) * std::cos(angle) - at(x, i + 1) * std::sin(angle);
        at(y, i + 1) = at(x, i) * std::sin(angle) + at(x, i + 1) * std::cos(angle);
      }
    }
  }
  return y;
}

/// Attention over a materialised [T, T] matrix of scores per head, and its gradients.
struct Attention {
  Numbers o, dq, dkv, dk_rope;

  /// positions: empty = causal only   d_o: empty = no gradients
  Attention(AttentionShape s, const Numbers& q, const Numbers& kv, const Numbers& k_rope,
            const Ints& positions, double scale, const Numbers& d_o = {})
      : o(zeros(s.batch * s.time * s.heads * s.v)),
        dq(zeros(length(q))),
        dkv(zeros(length(kv))),
        dk_rope(zeros(length(k_rope))) {
    const Index width = s.nope + s.rope;
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.time; ++i) {
          const Index row = b * s.time + i;
          const Index qi = (row * s.heads + h) * width;
          const auto key = [&](Index j) { return ((b * s.time + j) * s.heads + h) * (s.nope + s.v); };
          const Index first = positions.empty() ? 0 : std::max<Index>(0, i - at(positions, row));
          Numbers p = zeros(s.time);
          double total = 0;
          double top = -std::numeric_limits<double>::infinity();
          for (Index j = first; j <= i; ++j) {
            for (Index c = 0; c < s.nope; ++c) at(p, j) += at(q, qi + c) * at(kv, key(j) + c);
            for (Index c = 0; c < s.rope; ++c) {
              at(p, j) += at(q, qi + s.nope + c) * at(k_rope, (b * s.time + j) * s.rope + c);
            }
            at(p, j) *= scale;
            top = std::max(top, at(p, j));
          }
          for (Index j = first; j <= i; ++j) total += at(p, j) = std::exp(at(p, j) - top);
          for (Index j = first; j <= i; ++j) at(p, j) /= total;
          const Index oi = (row * s.heads + h) * s.v;
          for (Index j = first; j <= i; ++j) {
            for (Index c = 0; c < s.v; ++c) at(o, oi + c) += at(p, j) * at(kv, key(j) + s.nope + c);
          }
          if (d_o.empty()) continue;
          Numbers dp = zeros(s.time);  // do_i . v_j
          double mean = 0;
          for (Index j = first; j <= i; ++j) {
            for (Index c = 0; c < s.v; ++c) {
              at(dp, j) += at(d_o, oi + c) * at(kv, key(j) + s.nope + c);
              at(dkv, key(j) + s.nope + c) += at(p, j) * at(d_o, oi + c);
            }
            mean += at(p, j) * at(dp, j);
          }
          for (Index j = first; j <= i; ++j) {
            const double ds = at(p, j) * (at(dp, j) - mean) * scale;
            for (Index c = 0; c < s.nope; ++c) {
              at(dq, qi + c) += ds * at(kv, key(j) + c);
              at(dkv, key(j) + c) += ds * at(q, qi + c);
            }
            for (Index c = 0; c < s.rope; ++c) {
              at(dq, qi + s.nope + c) += ds * at(k_rope, (b * s.time + j) * s.rope + c);
              at(dk_rope, (b * s.time + j) * s.rope + c) += ds * at(q, qi + s.nope + c);
            }
          }
        }
      }
    }
  }
};

/// Cross-entropy of whole rows of logits, and its gradients for dloss = 1.
struct CrossEntropy {
  double loss = 0;
  Numbers row_loss, dx, dw;
  Ints argmax;

  CrossEntropy(const Numbers& x, const Numbers& w, const Ints& labels, Index width, Index fixed_divisor = 0)
      : row_loss(zeros(length(x) / width)), dx(zeros(length(x))), dw(zeros(length(w))) {
    const Index rows = length(x) / width;
    const Index vocab = length(w) / width;
    const Numbers logits = linear(x, w, width, vocab);
    const auto valid =
        std::count_if(labels.begin(), labels.end(), [](std::int32_t label) { return label >= 0; });
    const double divisor = static_cast<double>(fixed_divisor > 0 ? fixed_divisor : valid);
    for (Index r = 0; r < rows; ++r) {
      const auto begin = logits.begin() + r * vocab;
      const auto top = std::max_element(begin, begin + vocab);  // the first one
      argmax.push_back(static_cast<std::int32_t>(top - begin));
      if (at(labels, r) < 0) continue;
      double total = 0;
      for (Index v = 0; v < vocab; ++v) total += std::exp(at(logits, r * vocab + v) - *top);
      at(row_loss, r) = *top + std::log(total) - at(logits, r * vocab + at(labels, r));
      loss += at(row_loss, r) / divisor;
      for (Index v = 0; v < vocab; ++v) {
        const double p = std::exp(at(logits, r * vocab + v) - *top) / total;
        const double dz = (p - (v == at(labels, r) ? 1 : 0)) / divisor;
        for (Index c = 0; c < width; ++c) {
          at(dx, r * width + c) += dz * at(w, v * width + c);
          at(dw, v * width + c) += dz * at(x, r * width + c);
        }
      }
    }
  }
};

/// Indices by descending value, the lowest first among equals.
inline Ints by_value(const Numbers& values) {
  Ints order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return at(values, a) > at(values, b); });
  return order;
}

/// The router's order of work (DeepSeek-V3 Eq. 13-16), with real -inf in the masked groups.
struct Route {
  Ints ids;
  Numbers weights;

  Route(const Numbers& scores, const Numbers& bias, const Routing& r) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    const Index in_group = r.n_experts / r.n_group;
    for (Index t = 0; t < length(scores) / r.n_experts; ++t) {
      const Numbers s(scores.begin() + t * r.n_experts, scores.begin() + (t + 1) * r.n_experts);
      Numbers biased = s;
      for (Index e = 0; e < r.n_experts; ++e) at(biased, e) += at(bias, e);
      Numbers worth;
      for (Index g = 0; g < r.n_group; ++g) {
        Numbers members(biased.begin() + g * in_group, biased.begin() + (g + 1) * in_group);
        std::sort(members.rbegin(), members.rend());
        worth.push_back(members[0] + (in_group > 1 ? members[1] : 0));
      }
      const Ints groups = by_value(worth);
      for (Index g = r.topk_group; g < r.n_group; ++g) {
        std::fill_n(biased.begin() + at(groups, g) * in_group, in_group, -inf);
      }
      Ints chosen = by_value(biased);
      chosen.resize(static_cast<std::size_t>(r.top_k));
      double total = 1e-20;
      for (const std::int32_t e : chosen) total += at(s, e);
      for (const std::int32_t e : chosen) {
        weights.push_back(at(s, e) / (r.norm_topk_prob ? total : 1) * r.scaling_factor);
      }
      ids.insert(ids.end(), chosen.begin(), chosen.end());
    }
  }
};

/// alpha sum_i f_i P_i, averaged over sequences (DeepSeek-V3 Eq. 17-20).
inline double balance_loss(const Numbers& scores, Index batch, Index time, Index experts, Index top_k,
                           double alpha) {
  double loss = 0;
  for (Index b = 0; b < batch; ++b) {
    Numbers chosen = zeros(experts);
    Numbers share = zeros(experts);
    for (Index t = 0; t < time; ++t) {
      const auto begin = scores.begin() + (b * time + t) * experts;
      const Numbers s(begin, begin + experts);
      const Ints order = by_value(s);
      for (Index k = 0; k < top_k; ++k) at(chosen, at(order, k)) += 1;
      const double total = std::accumulate(s.begin(), s.end(), 0.0);
      for (Index e = 0; e < experts; ++e) at(share, e) += at(s, e) / total / static_cast<double>(time);
    }
    for (Index e = 0; e < experts; ++e) {
      const double f = at(chosen, e) * static_cast<double>(experts) / static_cast<double>(top_k * time);
      loss += alpha * f * at(share, e) / static_cast<double>(batch);
    }
  }
  return loss;
}

/// y_n = sum_k weight_nk E_e(x_n), token by token.   gate, up: [E, F, D]   down: [E, D, F]
inline Numbers experts(ExpertsShape s, const Numbers& x, const Numbers& weights, const Ints& ids,
                       const Numbers& gate, const Numbers& up, const Numbers& down) {
  Numbers y = zeros(s.tokens * s.width);
  const Index block = s.inner * s.width;
  const auto part = [](const Numbers& of, Index begin, Index count) {
    return Numbers(of.begin() + begin, of.begin() + begin + count);
  };
  for (Index n = 0; n < s.tokens; ++n) {
    const Numbers token = part(x, n * s.width, s.width);
    for (Index k = 0; k < s.top_k; ++k) {
      const Index e = at(ids, n * s.top_k + k);
      Numbers hidden = linear(token, part(gate, e * block, block), s.width, s.inner);
      const Numbers other = linear(token, part(up, e * block, block), s.width, s.inner);
      for (Index f = 0; f < s.inner; ++f) at(hidden, f) = silu(at(hidden, f)) * at(other, f);
      const Numbers out = linear(hidden, part(down, e * block, block), s.inner, s.width);
      for (Index c = 0; c < s.width; ++c) at(y, n * s.width + c) += at(weights, n * s.top_k + k) * at(out, c);
    }
  }
  return y;
}

}  // namespace mtpx::naive
