#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

/// y = silu(gate) * up, element by element.
template <typename T>
void swiglu_forward(const Cpu& cpu, Index count, const T* gate, const T* up, T* y) {
  using A = acc_t<T>;
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, 8 * step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      const Index left = count - i;
      const cpu::Vec<A> silu = exact::Silu<cpu::Vec<A>>(cpu::load_up_to(gate + i, left)).value;
      cpu::store_up_to(y + i, silu * cpu::load_up_to(up + i, left), left);
    }
  });
}

/// dgate = dy * up * silu'(gate);  dup = dy * silu(gate).
template <typename T>
void swiglu_backward(const Cpu& cpu, Index count, const T* gate, const T* up, const T* dy, Sink<T> dgate,
                     Sink<T> dup) {
  using A = acc_t<T>;
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, 12 * step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      const Index left = count - i;
      const exact::Silu<cpu::Vec<A>> silu(cpu::load_up_to(gate + i, left));
      const cpu::Vec<A> d = cpu::load_up_to(dy + i, left);
      const cpu::Vec<A> dh = d * cpu::load_up_to(up + i, left);
      if (dgate) cpu::put(dgate.data + i, cpu::product(dh, silu.slope), left, dgate.accumulate);
      if (dup) cpu::put(dup.data + i, cpu::product(d, silu.value), left, dup.accumulate);
    }
  });
}

}  // namespace mtpx
