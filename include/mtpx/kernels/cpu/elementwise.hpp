#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

/// Copies (or adds, when `accumulate`) rows of `width` numbers from one spacing to another. The two types
/// may differ: then it converts.
template <typename From, typename To>
void copy_rows(const Cpu& cpu, Index count, Index width, const From* from, Index from_stride, To* to,
               Index to_stride, bool accumulate) {
  cpu::parallel_chunks(cpu, count, width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const From* x = from + r * from_stride;  // [width]
      To* y = to + r * to_stride;              // [width]
      if (accumulate) {
        for (Index c = 0; c < width; ++c) {
          y[c] = static_cast<To>(static_cast<acc_t<To>>(y[c]) + static_cast<acc_t<To>>(x[c]));
        }
      } else {
        for (Index c = 0; c < width; ++c) y[c] = static_cast<To>(x[c]);
      }
    }
  });
}

/// y (+)= alpha * x, for a factor known to the host.
template <typename A>
void scale_into(const Cpu& cpu, Index count, A alpha, const A* x, Sink<A> y) {
  if (!y) return;
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      cpu::put(y.data + i, cpu::product(cpu::broadcast<A>(alpha), cpu::load_up_to(x + i, count - i)),
               count - i, y.accumulate);
    }
  });
}

/// y_i = value, for a value known to the host.
template <typename A>
void fill_value(const Cpu& cpu, Index count, A value, A* y) {
  // On all threads, because what is touched for the first time waits for the system's pages.
  cpu::parallel_chunks(cpu, count, 1, [&](Index begin, Index end) { std::fill(y + begin, y + end, value); });
}

}  // namespace mtpx
