#pragma once

#include "clip_scale.hpp"
#include "core/parallel.hpp"
#include "core/simd.hpp"

#include "../shapes.hpp"

#include <span>

namespace mtpx {

namespace cpu {

/// The sum of squares of one chunk as a block of squares_threads adds it, each thread its own numbers: packs
/// of 16 bytes in a whole chunk, single ones in the last.
template <typename A>
double squares_of_chunk(Index count, const A* x) {
  constexpr Index threads = squares_threads, pack = 16 / static_cast<Index>(sizeof(A));
  double sums[threads] = {};
  const auto add = [&](Index thread, A number) {
    const auto wide = static_cast<double>(number);
    sums[thread] = exact::fma(wide, wide, sums[thread]);
  };
  if (count == squares_chunk<A>) {
    for (Index begin = 0; begin < count; begin += threads * pack) {
      for (Index j = 0; j < pack; ++j) {
        for (Index t = 0; t < threads; ++t) add(t, x[begin + t * pack + j]);
      }
    }
  } else {
    for (Index i = 0; i < count; ++i) add(i % threads, x[i]);
  }
  return sum_of_block<threads>(sums);
}

}  // namespace cpu

/// out[c] = sum of the squares of chunk c: squares_chunk numbers of a gradient, the last of each has what is
/// left. All chunks of gradient 0, then those of gradient 1, ...
template <typename A>
void squares_of_chunks(const Cpu& cpu, std::span<const std::span<const A>> gradients, double* out) {
  constexpr Index chunk = squares_chunk<A>;
  for (const std::span<const A> gradient : gradients) {
    const A* const x = gradient.data();
    const auto count = static_cast<Index>(gradient.size());
    const Index chunks = (count + chunk - 1) / chunk;
    cpu::parallel_for(cpu, chunks, [&](Index c) {
      out[c] = cpu::squares_of_chunk(std::min(chunk, count - c * chunk), x + c * chunk);
    });
    out += chunks;
  }
}

/// out[i] = sum of the squares of gradient i: of its chunks, see sums_of_chunks().
template <typename A>
void sums_of_squares(const Cpu& cpu, std::span<const std::span<const A>> gradients, double* out) {
  const std::vector<ChunkRange> ranges = chunk_ranges(gradients);
  const Index chunks = ranges.empty() ? 0 : ranges.back().first + ranges.back().count;
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(chunks) * sizeof(double));
  double* const parts = static_cast<double*>(buffer.data());  // [chunks]
  squares_of_chunks(cpu, gradients, parts);
  sums_of_chunks(cpu, ranges, parts, out);
}

/// g = scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
/// p -= rate lr (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay p), decay decoupled from the gradient.
/// rates: {lr, bias1, bias2}, bias = 1 - beta^t. A scale that is NaN changes nothing.
template <typename T>
void adamw_step(const Cpu& cpu, std::span<const AdamWTensor<T>> parameters, AdamWStep s, const double* rates,
                const double* scale) {
  using A = acc_t<T>;
  if (std::isnan(*scale)) return;
  constexpr Index step = cpu::lanes<A>;
  for (const AdamWTensor<T>& t : parameters) {
    const exact::AdamW<A> of_tensor{static_cast<A>(s.beta1),
                                    static_cast<A>(s.beta2),
                                    static_cast<A>(rates[0] * t.rate / rates[1]),
                                    static_cast<A>(1.0 / std::sqrt(rates[2])),
                                    static_cast<A>(s.eps),
                                    static_cast<A>(exact::fma(-(rates[0] * t.rate), t.weight_decay, 1.0)),
                                    static_cast<A>(*scale)};
    cpu::parallel_chunks(cpu, (t.count + step - 1) / step, 16 * step, [&](Index begin, Index end) {
      for (Index i = begin * step; i < std::min(t.count, end * step); i += step) {
        const Index left = t.count - i;
        cpu::Vec<A> mi = cpu::load_up_to(t.m + i, left), vi = cpu::load_up_to(t.v + i, left);
        cpu::Vec<A> pi = cpu::load_up_to(t.master + i, left);
        of_tensor.step(cpu::load_up_to(t.grad + i, left), mi, vi, pi,
                       [](cpu::Vec<A> x) { return cpu::sqrt<A>(x); });
        cpu::store_up_to(t.m + i, mi, left);
        cpu::store_up_to(t.v + i, vi, left);
        cpu::store_up_to(t.master + i, pi, left);
        if constexpr (!std::is_same_v<T, A>) cpu::store_up_to(t.p + i, pi, left);
      }
    });
  }
}

}  // namespace mtpx
