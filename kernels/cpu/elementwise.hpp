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

/// y = a + b
template <typename T>
void add_forward(const Cpu& cpu, Index count, const T* a, const T* b, T* y) {
  using A = acc_t<T>;
  constexpr Index step = cpu::lanes<A>;
  cpu::parallel_chunks(cpu, (count + step - 1) / step, step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      cpu::store_up_to(y + i, cpu::load_up_to(a + i, count - i) + cpu::load_up_to(b + i, count - i),
                       count - i);
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

/// position[b][t] = start + t
inline void fill_positions(const Cpu&, Index batch, Index time, Index start, std::int32_t* positions) {
  for (Index i = 0; i < batch * time; ++i) positions[i] = static_cast<std::int32_t>(start + i % time);
}

/// Distance of each token from the start of what it may attend to: its document or the window, whichever
/// begins later.   documents: [B, T] strided, position within the document   positions: [B, T]
inline void window_positions(const Cpu&, Rows rows, const std::int32_t* documents, std::int32_t* positions) {
  for (Index b = 0; b < rows.count; ++b) {
    for (Index t = 0; t < rows.width; ++t) {
      positions[b * rows.width + t] = std::min(documents[b * rows.stride + t], static_cast<std::int32_t>(t));
    }
  }
}

/// Labels of depth k: label[b][i] = token[b][i + k + 1], or -1 where that token belongs to another document
/// than token i: there document[i + k + 1] != document[i] + k + 1.
/// tokens, documents: [B, T + 1] rows with the same stride   labels: [B, T - k]
inline void shift_labels(const Cpu&, Rows rows, Index depth, const std::int32_t* tokens,
                         const std::int32_t* documents, std::int32_t* labels) {
  const Index ahead = depth + 1;
  const Index count = rows.width - ahead;
  for (Index b = 0; b < rows.count; ++b) {
    for (Index i = 0; i < count; ++i) {
      const Index at = b * rows.stride + i;
      const bool same = documents == nullptr || documents[at + ahead] == documents[at] + ahead;
      labels[b * count + i] = same ? tokens[at + ahead] : -1;
    }
  }
}

}  // namespace mtpx
