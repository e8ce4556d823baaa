#pragma once

#include "views.hpp"

#include <algorithm>
#include <span>

namespace mtpx {

/// out[i] = the sum of the squares of gradient i
template <typename T>
void sums_of_squares(const Reference&, std::span<const std::span<const T>> gradients, double* out) {
  for (const std::span<const T> g : gradients)
    *out++ = eigen::row(g.data(), static_cast<Index>(g.size())).template cast<double>().square().sum();
}

/// out[c] = the sum of the squares of chunk c of all gradients
template <typename T>
void squares_of_chunks(const Reference& device, std::span<const std::span<const T>> gradients, double* out) {
  for (std::span<const T> g : gradients) {
    for (; !g.empty(); ++out) {
      const std::span<const T> chunk = g.first(std::min<std::size_t>(g.size(), squares_chunk<T>));
      sums_of_squares<T>(device, std::span(&chunk, 1), out);
      g = g.subspan(chunk.size());
    }
  }
}

/// AdamW (Loshchilov & Hutter 2019, algorithm 2, lines 6-12), for every parameter:
///
///   g = scale grad;   m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
///   p = p - rate lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p)
///
/// rates: {lr, 1 - b1^t, 1 - b2^t}. A scale that is NaN changes nothing.
template <typename T>
void adamw_step(const Reference&, std::span<const AdamWTensor<T>> parameters, AdamWStep s,
                const double* rates, const double* scale) {
  using A = acc_t<T>;
  if (std::isnan(*scale)) return;
  const A b1 = static_cast<A>(s.beta1), b2 = static_cast<A>(s.beta2);
  for (const AdamWTensor<T>& t : parameters) {
    auto m = eigen::row(t.m, t.count), v = eigen::row(t.v, t.count), p = eigen::row(t.master, t.count);
    const eigen::RowArray<A> g = static_cast<A>(*scale) * eigen::row(t.grad, t.count);
    m = b1 * m + (1 - b1) * g;
    v = b2 * v + (1 - b2) * g.square();
    const auto m_hat = m / static_cast<A>(rates[1]);
    const auto v_hat = v / static_cast<A>(rates[2]);
    const A lr = static_cast<A>(rates[0] * t.rate), decay = static_cast<A>(t.weight_decay);
    p -= lr * (m_hat / (eigen::square_root(v_hat) + static_cast<A>(s.eps)) + decay * p);
    for (Index i = 0; !std::is_same_v<T, A> && i < t.count; ++i) t.p[i] = static_cast<T>(t.master[i]);
  }
}

}  // namespace mtpx
