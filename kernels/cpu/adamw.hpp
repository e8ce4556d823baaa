#pragma once

#include "parallel.hpp"
#include "simd.hpp"

#include "../shapes.hpp"

namespace mtpx {

/// out = sum of x^2, in fixed blocks added in order.
template <typename A>
void sum_of_squares(const Cpu& cpu, Index count, const A* x, double* out) {
  constexpr Index block = 16384;
  const Index blocks = (count + block - 1) / block;
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(blocks) * sizeof(double));
  double* const parts = static_cast<double*>(buffer.data());  // [blocks]
  cpu::parallel_for(cpu, blocks, [&](Index b) {
    double lane[8] = {};
    const Index end = std::min(count, (b + 1) * block);
    for (Index i = b * block; i < end; ++i) {
      lane[i % 8] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    parts[b] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  });
  *out = 0;
  for (Index b = 0; b < blocks; ++b) *out += parts[b];
}

/// norm = sqrt(sum of the parts), scale = min(1, max_norm / norm); max_norm <= 0: scale 1.
inline void clip_scale(const Cpu&, Index parts, const double* squares, double max_norm, double* norm,
                       double* scale) {
  double total = 0;
  for (Index i = 0; i < parts; ++i) total += squares[i];
  *norm = std::sqrt(total);
  *scale = max_norm > 0 && *norm > max_norm ? max_norm / *norm : 1.0;
}

/// g = scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
/// p -= lr (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay p), decay decoupled from the gradient.
/// `master` holds p in the accumulation type; for T == acc_t<T> it is p itself.
template <typename T>
void adamw_step(const Cpu& cpu, Index count, AdamWStep s, const double* scale, const acc_t<T>* grad,
                acc_t<T>* m, acc_t<T>* v, acc_t<T>* master, T* p) {
  using A = acc_t<T>;
  const auto b1 = static_cast<A>(s.beta1);
  const auto b2 = static_cast<A>(s.beta2);
  const auto rate = static_cast<A>(s.lr / s.bias1);
  const auto keep = static_cast<A>(1.0 - s.lr * s.weight_decay);
  const auto root = static_cast<A>(1.0 / std::sqrt(s.bias2));
  const auto eps = static_cast<A>(s.eps);
  const auto clip = static_cast<A>(*scale);
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, 16 * step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      const Index left = count - i;
      const cpu::Vec<A> g = clip * cpu::load_up_to(grad + i, left);
      const cpu::Vec<A> mi = b1 * cpu::load_up_to(m + i, left) + (A(1) - b1) * g;
      const cpu::Vec<A> vi = b2 * cpu::load_up_to(v + i, left) + (A(1) - b2) * g * g;
      const cpu::Vec<A> pi =
          keep * cpu::load_up_to(master + i, left) - rate * mi / (cpu::sqrt<A>(vi) * root + eps);
      cpu::store_up_to(m + i, mi, left);
      cpu::store_up_to(v + i, vi, left);
      cpu::store_up_to(master + i, pi, left);
      if constexpr (!std::is_same_v<T, A>) cpu::store_up_to(p + i, pi, left);
    }
  });
}

}  // namespace mtpx
