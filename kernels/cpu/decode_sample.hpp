#pragma once

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/shape.hpp>

namespace mtpx {

/// ids[r] = the place of the largest of logits [rows, width], the lowest among equals. NaN never wins.
template <typename A>
void argmax_rows(const Cpu&, Rows rows, const A* logits, std::int32_t* ids) {
  for (Index r = 0; r < rows.count; ++r) {
    const A* row = logits + r * rows.stride;  // [width]
    Index best = 0;
    for (Index i = 1; i < rows.width; ++i) {
      if (row[i] > row[best] || (row[best] != row[best] && row[i] == row[i])) best = i;
    }
    ids[r] = static_cast<std::int32_t>(best);
  }
}

}  // namespace mtpx
