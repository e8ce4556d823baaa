#pragma once
// Sums over rows and over everything, in orders that neither registers nor threads decide.

#include "core/parallel.hpp"
#include "core/simd.hpp"

#include "../shapes.hpp"

namespace mtpx {

namespace cpu {

/// The elements from `left` on become 0.
template <typename A>
inline Vec<A> first_of(Vec<A> v, Index left) {
  for (Index l = left; l < lanes<A>; ++l) v[static_cast<int>(l)] = A(0);
  return v;
}

/// load(c): columns [begin, end), as a RowSum.
template <typename A, typename Load>
A row_sum(Index begin, Index end, const Load& load) {
  RowSum<A> sum;
  for (Index c = begin; c < end; c += lanes<A>) sum.add(c - begin, first_of<A>(load(c), end - c));
  return sum.total();
}

/// The sum of all load(r, c), in pieces of sum_columns.
template <typename A, typename Load>
A sum_of_all(const Cpu& cpu, Index rows, Index width, const Load& load) {
  const Index pieces = (width + sum_columns - 1) / sum_columns;
  Index count = rows * pieces;
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(count) * sizeof(A));
  A* const list = static_cast<A*>(buffer.data());
  parallel_chunks(cpu, count, std::min(width, sum_columns), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index r = i / pieces, c = i % pieces * sum_columns;
      list[i] = row_sum<A>(c, std::min(width, c + sum_columns), [&](Index at) { return load(r, at); });
    }
  });
  while (count > 1) {
    const Index parts = (count + sum_columns - 1) / sum_columns;
    for (Index p = 0; p < parts; ++p)
      list[p] = row_sum<A>(p * sum_columns, std::min(count, (p + 1) * sum_columns),
                           [&](Index at) { return load_up_to(list + at, count - at); });
    count = parts;
  }
  return count == 1 ? list[0] : A(0);
}

}  // namespace cpu

/// y_r = sum_c x_rc / divisor, or y = sum of all / divisor.   y: [N] or [1]
template <typename T>
void sum_forward(const Cpu& cpu, Rows rows, bool over_all, Index divisor, const T* x, T* y) {
  using A = acc_t<T>;
  const auto load = [&](Index r, Index c) {
    return cpu::load_up_to(x + r * rows.stride + c, rows.width - c);
  };
  const A count = static_cast<A>(divisor);
  if (over_all) {
    *y = static_cast<T>(cpu::sum_of_all<A>(cpu, rows.count, rows.width, load) / count);
    return;
  }
  cpu::parallel_chunks(cpu, rows.count, rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      y[r] = static_cast<T>(cpu::row_sum<A>(0, rows.width, [&](Index c) { return load(r, c); }) / count);
  });
}

/// dx_rc = dy_r / divisor, or dy / divisor.
template <typename T>
void sum_backward(const Cpu& cpu, Rows rows, bool over_all, Index divisor, const T* dy, Sink<T> dx) {
  if (!dx) return;
  using A = acc_t<T>;
  cpu::parallel_chunks(cpu, rows.count, rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const A d = static_cast<A>(dy[over_all ? 0 : r]) / static_cast<A>(divisor);
      for (Index c = 0; c < rows.width; c += cpu::lanes<A>)
        cpu::put(dx.data + r * rows.width + c, cpu::broadcast<A>(d), rows.width - c, dx.accumulate);
    }
  });
}

}  // namespace mtpx
