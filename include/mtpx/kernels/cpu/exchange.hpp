#pragma once
// Rows of tokens on their way to experts of other ranks, and back.

#include "core/parallel.hpp"
#include "core/simd.hpp"

#include "../shapes.hpp"

#include <cstring>
#include <limits>

namespace mtpx {

/// Where every slot stands in what is sent, [ranks, capacity] rows: those of a rank's experts one behind the
/// other, in the order of the plan.   row: [slots]; -1 for a slot that finds no room
///
/// ids, place: [slots], offsets: [E + 1], see plan_experts
/// bounds: [ranks, E / ranks + 1]: expert j of rank r has the rows bounds[r][j] .. bounds[r][j + 1) there
/// need: [2]: the most that went to one rank so far, over the mean of all; NaN once a slot found no room
template <typename A>
void plan_exchange(const Cpu& cpu, ExchangeShape s, const std::int32_t* ids, const std::int32_t* offsets,
                   const std::int32_t* place, std::int32_t* row, std::int32_t* bounds, A* need) {
  const Index own = s.own();
  Index most = 0;
  for (Index r = 0; r < s.ranks; ++r) {  // no task: also where work is planned, since memory depends on it
    const std::int32_t* const first = offsets + r * own;
    for (Index j = 0; j <= own; ++j)
      bounds[r * (own + 1) + j] = static_cast<std::int32_t>(std::min<Index>(first[j] - first[0], s.capacity));
    most = std::max<Index>(most, first[own] - first[0]);
  }
  if (cpu.planned()) return;
  need[0] = std::max(need[0], static_cast<A>(most * s.ranks) / static_cast<A>(s.slots));
  if (most > s.capacity) need[1] = std::numeric_limits<A>::quiet_NaN();
  cpu::parallel_chunks(cpu, s.slots, 4, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index rank = ids[i] / own, at = place[i] - offsets[rank * own];
      row[i] = at < s.capacity ? static_cast<std::int32_t>(rank * s.capacity + at) : -1;
    }
  });
}

/// spread[row_nk] = x_n for every slot that has a row.
///   x: [N, width], rows apart   row: [N, K]   spread: [.., width]
template <typename T>
void spread_slots(const Cpu& cpu, Rows rows, Index top_k, const std::int32_t* row, const T* x, T* spread) {
  cpu::parallel_chunks(cpu, rows.count, top_k * rows.width, [&](Index begin, Index end) {
    for (Index i = begin * top_k; i < end * top_k; ++i) {
      if (row[i] < 0) continue;
      std::memcpy(static_cast<void*>(spread + row[i] * rows.width), x + i / top_k * rows.stride,
                  static_cast<std::size_t>(rows.width) * sizeof(T));
    }
  });
}

/// y_n (+)= sum_k weight_nk spread[row_nk], over the slots that have a row, one by one from the left.
///   y: [N, width]   weights: [N, K], null: ones
template <typename T>
void combine_slots(const Cpu& cpu, Rows rows, Index top_k, const std::int32_t* row, const acc_t<T>* weights,
                   const T* spread, Sink<T> y) {
  if (!y) return;
  using A = acc_t<T>;
  cpu::parallel_chunks(cpu, rows.count, top_k * rows.width, [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      for (Index c = 0; c < rows.width; c += cpu::lanes<A>) {
        const Index left = rows.width - c;
        cpu::Vec<A> total{};
        for (Index i = n * top_k; i < (n + 1) * top_k; ++i) {
          if (row[i] < 0) continue;
          const cpu::Vec<A> part = cpu::load_up_to(spread + row[i] * rows.width + c, left);
          total = weights == nullptr ? total + part : cpu::fma(cpu::broadcast<A>(weights[i]), part, total);
        }
        cpu::put(y.data + n * rows.width + c, total, left, y.accumulate);
      }
    }
  });
}

}  // namespace mtpx
