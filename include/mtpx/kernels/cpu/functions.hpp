#pragma once
// Functions of one number and of two, element by element (../functions.hpp), and dropout.

#include <mtpx/core/rng.hpp>

#include "../functions.hpp"
#include "reduce.hpp"
#include "rms_norm.hpp"

namespace mtpx {

namespace cpu {

/// body(r, c, left) for registers that hold columns c, c + 1, .. of row r, `left` of which there are.
template <typename A, typename Body>
void for_registers(const Cpu& cpu, Index rows, Index width, Index cost, const Body& body) {
  constexpr Index step = lanes<A>;
  const Index a_row = (width + step - 1) / step;
  parallel_chunks(cpu, rows * a_row, cost * step, [&](Index begin, Index end) {
    Index r = begin / a_row, c = begin % a_row * step;
    for (Index i = begin; i < end; ++i) {
      body(r, c, width - c);
      c += step;
      if (c >= width) {
        ++r;
        c = 0;
      }
    }
  });
}

/// Rows that touch each other are one row.
inline Rows flat(Rows rows) {
  const Index size = rows.count * rows.width;
  return rows.stride == rows.width || rows.count <= 1 ? Rows{1, size, size} : rows;
}

template <typename A>
struct Root {
  Vec<A> operator()(Vec<A> x) const { return sqrt<A>(x); }
};

/// The operands of an element-wise op, a register at a time. What is null counts for nothing: zeros.
template <typename T>
struct Pair {
  using A = acc_t<T>;
  PairShape s;
  const std::int32_t* mask;
  const T *a, *b;

  static Vec<A> load(const T* x, Steps steps, Index r, Index c, Index left) {
    if (x == nullptr) return Vec<A>{};
    const T* at = x + r * steps.row;
    return steps.column == 0 ? broadcast<A>(static_cast<A>(*at)) : load_up_to(at + c, left);
  }
  Vec<A> of_a(Index r, Index c) const { return load(a, s.a, r, c, s.width - c); }
  Vec<A> of_b(Index r, Index c) const { return load(b, s.b, r, c, s.width - c); }
  Vec<A> of_mask(Index r, Index c) const {
    Vec<A> m{};
    if (mask == nullptr) return m;
    const std::int32_t* at = mask + r % s.mask_rows * s.width + c;
    for (Index l = 0; l < std::min(lanes<A>, s.width - c); ++l)
      m[static_cast<int>(l)] = at[l] != 0 ? A(1) : A(0);
    return m;
  }
};

}  // namespace cpu

/// y = f(x).   x: rows apart   y: dense
template <typename T>
void unary_forward(const Cpu& cpu, Unary f, acc_t<T> alpha, acc_t<T> beta, Rows rows, const T* x, T* y) {
  using A = acc_t<T>;
  const Rows all = cpu::flat(rows);
  cpu::for_registers<A>(cpu, all.count, all.width, 8, [&](Index r, Index c, Index left) {
    cpu::store_up_to(
        y + r * all.width + c,
        exact::value(f, cpu::load_up_to(x + r * all.stride + c, left), alpha, beta, cpu::Root<A>()), left);
  });
}

/// dx = dy f'.   from: y where derived_from_value(f), else x, rows apart   dy, dx: dense
template <typename T>
void unary_backward(const Cpu& cpu, Unary f, acc_t<T> alpha, Rows rows, const T* from, const T* dy,
                    Sink<T> dx) {
  if (!dx) return;
  using A = acc_t<T>;
  const Rows all = cpu::flat(rows);
  cpu::for_registers<A>(cpu, all.count, all.width, 8, [&](Index r, Index c, Index left) {
    const Index at = r * all.width + c;
    const cpu::Vec<A> d = exact::gradient(f, cpu::load_up_to(from + r * all.stride + c, left),
                                          cpu::load_up_to(dy + at, left), alpha);
    cpu::put(dx.data + at, d, left, dx.accumulate);
  });
}

/// y = f(a, b), each repeated where its steps say so.   y: dense
template <typename T>
void binary_forward(const Cpu& cpu, Binary f, PairShape s, const std::int32_t* mask, const T* a, const T* b,
                    T* y) {
  using A = acc_t<T>;
  const cpu::Pair<T> pair{s.flat(), mask, a, b};
  cpu::for_registers<A>(cpu, pair.s.rows, pair.s.width, 1, [&](Index r, Index c, Index left) {
    cpu::store_up_to(y + r * pair.s.width + c,
                     exact::value(f, pair.of_a(r, c), pair.of_b(r, c), pair.of_mask(r, c)), left);
  });
}

/// The gradient of a (or b), dense, from those operands that it needs (../functions.hpp; others may be null);
/// where the operand was repeated, the sum over all its places: along a row as a RowSum, over rows in blocks
/// of gain_rows, over both in pieces of sum_columns.
template <typename T, typename G>
void binary_backward(const Cpu& cpu, Binary f, bool of_b, PairShape s, const std::int32_t* mask, const T* a,
                     const T* b, const T* dy, Sink<G> d) {
  if (!d) return;
  using A = acc_t<T>;
  const Summed summed(s.rows, s.width, of_b ? s.b : s.a);
  const bool none = !summed.rows && !summed.columns;
  const cpu::Pair<T> pair{none ? s.flat() : s, mask, a, b};
  const Index width = pair.s.width;
  const auto gradient = [&](Index r, Index c) {
    return exact::gradient(f, of_b, pair.of_a(r, c), pair.of_b(r, c), pair.of_mask(r, c),
                           cpu::load_up_to(dy + r * width + c, width - c));
  };
  const auto add = [&](Index i, A value) {
    d.data[i] = static_cast<G>(d.accumulate ? static_cast<A>(d.data[i]) + value : value);
  };
  if (none) {
    cpu::for_registers<A>(cpu, pair.s.rows, width, 2, [&](Index r, Index c, Index left) {
      cpu::put(d.data + r * width + c, gradient(r, c), left, d.accumulate);
    });
  } else if (summed.rows && summed.columns) {
    add(0, cpu::sum_of_all<A>(cpu, s.rows, width, gradient));
  } else if (summed.columns) {
    cpu::parallel_chunks(cpu, s.rows, 2 * width, [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r)
        add(r, cpu::row_sum<A>(0, width, [&](Index c) { return gradient(r, c); }));
    });
  } else {
    cpu::with_gain_gradient<G>(cpu, s.rows, width, d, [&](Index begin, Index end, A* partial) {
      for (Index r = begin; r < end; ++r) {
        for (Index c = 0; c < width; c += cpu::lanes<A>) {
          const Index left = width - c;
          cpu::store_up_to(partial + c, cpu::load_up_to(partial + c, left) + gradient(r, c), left);
        }
      }
    });
  }
}

/// y_i (+)= x_i / (1 - rate) where word i % 4 of Philox block i / 4 is at least rate 2^32, else 0.
/// x: rows apart   y: dense
template <typename T>
void drop_numbers(const Cpu& cpu, Rows rows, std::uint64_t seed, std::uint64_t stream, double rate,
                  const T* x, Sink<T> y) {
  if (!y) return;
  using A = acc_t<T>;
  const Rows all = cpu::flat(rows);
  const auto least = static_cast<std::uint64_t>(rate * 0x1p32);
  const auto scale = static_cast<A>(1 / (1 - rate));
  const Index size = all.count * all.width;
  cpu::parallel_chunks(cpu, (size + 3) / 4, 64, [&](Index begin, Index end) {
    for (Index block = begin; block < end; ++block) {
      const auto words = Philox::block(seed, stream, static_cast<std::uint64_t>(block));
      for (Index i = 4 * block; i < std::min(size, 4 * block + 4); ++i) {
        const A kept =
            words[static_cast<std::size_t>(i % 4)] >= least
                ? exact::product(scale, static_cast<A>(x[i / all.width * all.stride + i % all.width]))
                : A(0);
        y.data[i] = static_cast<T>(y.accumulate ? static_cast<A>(y.data[i]) + kept : kept);
      }
    }
  });
}

}  // namespace mtpx
