#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

namespace cpu {
inline void check_ids(const char* op, Rows ids, const std::int32_t* id, Index least, Index vocab) {
  for (Index r = 0; r < ids.count; ++r) {
    for (Index c = 0; c < ids.width; ++c) {
      const std::int32_t value = id[r * ids.stride + c];
      if (value >= least && value < vocab) continue;
      throw NumericError(cat("[", op, "] token id ", value, " at row ", r, ", column ", c,
                             " is outside the vocabulary of ", vocab));
    }
  }
}
}  // namespace cpu

/// y[i] = table[id[i]].   ids: [B, T] strided   table: [V, D]   y: [B * T, D] dense
template <typename T>
void embedding_forward(const Cpu& cpu, const char* op, Rows ids, const std::int32_t* id, Rows table_rows,
                       const T* table, T* y) {
  cpu::check_ids(op, ids, id, 0, table_rows.count);
  const Index width = table_rows.width;
  cpu::parallel_chunks(cpu, ids.count * ids.width, width, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index row = id[(i / ids.width) * ids.stride + i % ids.width];
      std::memcpy(static_cast<void*>(y + i * width), table + row * table_rows.stride,
                  static_cast<std::size_t>(width) * sizeof(T));
    }
  });
}

/// dtable[id[i]] += dy[i], in the order of i: the gradient of a table, and what scatter() computes. Threads
/// share columns, not rows: no atomics.
template <typename T>
void embedding_backward(const Cpu& cpu, const char* op, Rows ids, const std::int32_t* id, Index vocab,
                        Index width, const T* dy, Sink<acc_t<T>> dtable) {
  if (!dtable) return;
  cpu::check_ids(op, ids, id, 0, vocab);
  using A = acc_t<T>;
  constexpr Index columns = 64;
  cpu::parallel_for(cpu, (width + columns - 1) / columns, [&](Index task) {
    const Index first = task * columns;
    const Index last = std::min(width, first + columns);
    if (!dtable.accumulate) {
      for (Index v = 0; v < vocab; ++v)
        std::fill(dtable.data + v * width + first, dtable.data + v * width + last, A(0));
    }
    for (Index i = 0; i < ids.count * ids.width; ++i) {
      const Index row = id[(i / ids.width) * ids.stride + i % ids.width];
      A* to = dtable.data + row * width;  // [width]
      const T* from = dy + i * width;     // [width]
      for (Index c = first; c < last; ++c) to[c] += static_cast<A>(from[c]);
    }
  });
}

}  // namespace mtpx
