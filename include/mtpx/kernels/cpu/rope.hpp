#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

/// Rotates the last `rope` numbers of each of `heads` heads of every row, adjacent pairs together, and
/// copies the others. `direction` 1 rotates forward, -1 back: the transpose, which is the backward.
///
///   (y_2j, y_2j+1) = (x_2j cos - x_2j+1 sin, x_2j sin + x_2j+1 cos),  cos, sin = table[position][j]
///
/// x: [N, heads * width] strided   positions: [N]   cos, sin: [P, rope / 2]   y: [N, heads * width] dense, or
/// x itself
template <typename T>
void rope_apply(const Cpu& cpu, Rows rows, Index heads, Index rope, const T* x, const std::int32_t* positions,
                const acc_t<T>* cos, const acc_t<T>* sin, int direction, Sink<T> y) {
  if (!y) return;
  using A = acc_t<T>;
  const Index width = rows.width / heads;
  const Index still = width - rope;
  cpu::parallel_chunks(cpu, rows.count, 2 * rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const A* c = cos + positions[r] * (rope / 2);  // [rope / 2]
      const A* s = sin + positions[r] * (rope / 2);  // [rope / 2]
      for (Index h = 0; h < heads; ++h) {
        const T* xh = x + r * rows.stride + h * width;  // [width]
        T* yh = y.data + r * rows.width + h * width;    // [width]
        const auto write = [&](Index i, A value) {
          yh[i] = static_cast<T>(y.accumulate ? static_cast<A>(yh[i]) + value : value);
        };
        if (xh != yh) {
          for (Index i = 0; i < still; ++i) write(i, static_cast<A>(xh[i]));
        }
        for (Index j = 0; j < rope / 2; ++j) {
          const A even = static_cast<A>(xh[still + 2 * j]);
          const A odd = static_cast<A>(xh[still + 2 * j + 1]);
          const A turned = static_cast<A>(direction) * s[j];
          const exact::Rotated<A> pair(even, odd, c[j], turned);
          write(still + 2 * j, pair.even);
          write(still + 2 * j + 1, pair.odd);
        }
      }
    }
  });
}

}  // namespace mtpx
