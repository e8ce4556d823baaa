#pragma once

#include "parallel.hpp"
#include "simd.hpp"

#include "../shapes.hpp"

#include <span>

namespace mtpx {

/// out[i] = sum of the squares of gradient i, in fixed blocks added in order.
template <typename A>
void sums_of_squares(const Cpu& cpu, std::span<const std::span<const A>> gradients, double* out) {
  constexpr Index block = 16384;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const A* const x = gradients[i].data();
    const auto count = static_cast<Index>(gradients[i].size());
    const Index blocks = (count + block - 1) / block;
    const Buffer buffer(cpu.pool(), static_cast<std::size_t>(blocks) * sizeof(double));
    double* const parts = static_cast<double*>(buffer.data());  // [blocks]
    cpu::parallel_for(cpu, blocks, [&](Index b) {
      double lane[8] = {};
      const Index end = std::min(count, (b + 1) * block);
      for (Index j = b * block; j < end; ++j) {
        lane[j % 8] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
      }
      parts[b] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    });
    out[i] = 0;
    for (Index b = 0; b < blocks; ++b) out[i] += parts[b];
  }
}

/// norm = sqrt(sum of the parts), scale = min(1, max_norm / norm); max_norm <= 0: scale 1. Where the norm is
/// not finite, scale is NaN: nothing may change then. `halted`, unless null, remembers that: once it is not
/// 0, scale stays NaN, so that steps queued behind a bad one change nothing either.
inline void clip_scale(const Cpu&, Index parts, const double* squares, double max_norm, double* norm,
                       double* scale, double* halted) {
  double total = 0;
  for (Index i = 0; i < parts; ++i) total += squares[i];
  *norm = std::sqrt(total);
  const bool bad = !std::isfinite(*norm);
  if (bad && halted != nullptr) *halted = 1;
  const bool stop = bad || (halted != nullptr && *halted != 0);
  *scale = stop                               ? std::numeric_limits<double>::quiet_NaN()
           : max_norm > 0 && *norm > max_norm ? max_norm / *norm
                                              : 1.0;
}

/// g = scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
/// p -= lr (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay p), decay decoupled from the gradient.
/// rates: {lr, bias1, bias2}, bias = 1 - beta^t. A scale that is NaN changes nothing.
template <typename T>
void adamw_step(const Cpu& cpu, std::span<const AdamWTensor<T>> parameters, AdamWStep s, const double* rates,
                const double* scale) {
  using A = acc_t<T>;
  if (std::isnan(*scale)) return;
  const auto b1 = static_cast<A>(s.beta1);
  const auto b2 = static_cast<A>(s.beta2);
  const auto rate = static_cast<A>(rates[0] / rates[1]);
  const auto root = static_cast<A>(1.0 / std::sqrt(rates[2]));
  const auto eps = static_cast<A>(s.eps);
  const auto clip = static_cast<A>(*scale);
  constexpr Index step = cpu::lanes<A>;
  for (const AdamWTensor<T>& t : parameters) {
    const auto keep = static_cast<A>(1.0 - rates[0] * (t.decays ? s.weight_decay : 0.0));
    cpu::parallel_chunks(cpu, (t.count + step - 1) / step, 16 * step, [&](Index begin, Index end) {
      for (Index i = begin * step; i < std::min(t.count, end * step); i += step) {
        const Index left = t.count - i;
        const cpu::Vec<A> g = clip * cpu::load_up_to(t.grad + i, left);
        const cpu::Vec<A> mi = b1 * cpu::load_up_to(t.m + i, left) + (A(1) - b1) * g;
        const cpu::Vec<A> vi = b2 * cpu::load_up_to(t.v + i, left) + (A(1) - b2) * g * g;
        const cpu::Vec<A> pi =
            keep * cpu::load_up_to(t.master + i, left) - rate * mi / (cpu::sqrt<A>(vi) * root + eps);
        cpu::store_up_to(t.m + i, mi, left);
        cpu::store_up_to(t.v + i, vi, left);
        cpu::store_up_to(t.master + i, pi, left);
        if constexpr (!std::is_same_v<T, A>) cpu::store_up_to(t.p + i, pi, left);
      }
    });
  }
}

}  // namespace mtpx
