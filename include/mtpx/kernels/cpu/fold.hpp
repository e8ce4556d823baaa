#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

/// y_i (+)= x_0i + x_1i + ... + x_(parts - 1)i, one by one from the left: what stood in y comes first. So
/// what several processes computed has one sum, whoever adds it up, and after which of them.
///
/// x: [parts, count]   y: [count]
template <typename A>
void fold_parts(const Cpu& cpu, Index count, Index parts, const A* x, Sink<A> y) {
  if (!y) return;
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, step * parts, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      const Index left = count - i;
      cpu::Vec<A> sum = cpu::load_up_to(x + i, left);
      if (y.accumulate) sum = cpu::load_up_to(y.data + i, left) + sum;
      for (Index p = 1; p < parts; ++p) sum = sum + cpu::load_up_to(x + p * count + i, left);
      cpu::store_up_to(y.data + i, sum, left);
    }
  });
}

}  // namespace mtpx
