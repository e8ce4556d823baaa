#pragma once
// Matrix products. Everything that multiplies matrices on the host goes through here.
//
// The rule: every output is one running sum over k = 0, 1, 2, ... in order, by fused multiply-add, whatever
// the sizes, the tiling, the number of threads, and whichever rows stand beside it. So a row's bits are the
// same in a batch of one (decoding), of a few (verifying drafts) or of thousands (prefill, training), and
// tiles may be chosen freely. Eigen's product does not promise this: its kernels split k by shape.
//
// How: B is packed into panels of `panel` columns, [k][panel], zero-padded; a micro kernel holds
// `tile_rows` x `panel` sums in registers and streams one panel past rows of A. Few rows of A: few_rows.hpp.
// The loop it replaces:
//
//   for i < m, j < n:  c[i][j] = (accumulate ? c[i][j] : 0) + sum_k a[i][k] * b[k][j]

#include "../core/parallel.hpp"
#include "panels.hpp"

#include <span>

namespace mtpx::cpu {

/// One product C [m, n] = A [m, k] B [k, n], C row-major with `stride`.
template <typename A, typename B, typename C>
struct Product {
  Index m = 0;
  Index n = 0;
  Index k = 0;
  Matrix<A> a;
  Matrix<B> b;
  C* c = nullptr;
  Index stride = 0;
  bool accumulate = false;
};

namespace detail {

inline constexpr Index tile_rows =
    register_bytes == 64 ? 12 : 6;  // 24 of 32, or 12 of 16 registers hold sums

/// Columns [0, width) of B, width <= panel, as [k][panel] numbers of type T.
template <typename T, typename B>
void pack_panel(Index k, Index width, Matrix<B> b, T* to) {
  constexpr Index step = lanes<T>;
  if (b.column == 1) {  // rows of B are contiguous
    for (Index kk = 0; kk < k; ++kk) {
      const B* row = b.at(kk, 0);
      T* out = to + kk * panel<T>;
      for (Index j = 0; j < panel<T>; j += step) {
        store(out + j, width - j > 0 ? load_up_to(row + j, width - j) : Vec<T>{});
      }
    }
    return;
  }
  // Columns of B are contiguous: squares of lanes x lanes are transposed in registers.
  constexpr int n = static_cast<int>(lanes<T>);
  constexpr Index line = 64 / static_cast<Index>(sizeof(B));
  for (Index j = 0; j < panel<T>; j += step) {
    Index kk = 0;
    for (; j + step <= width && kk + step <= k; kk += step) {
      if (kk % line == 0) {  // as in few(): the next columns are asked for
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) __builtin_prefetch(b.at(kk, j + step + i), 0, 2);
      }
      Vec<T> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) square[i] = load(b.at(kk, j + i));
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) store(to + (kk + i) * panel<T> + j, square[i]);
    }
    for (; kk < k; kk += step) {
      Vec<T> square[n];
      for (int i = 0; i < n; ++i) square[i] = j + i < width ? load_up_to(b.at(kk, j + i), k - kk) : Vec<T>{};
      transpose<T>(square);
      for (int i = 0; i < n && kk + i < k; ++i) store(to + (kk + i) * panel<T> + j, square[i]);
    }
  }
}

/// `rows` x panel sums: c += a * packed. `width` columns of them are stored.
template <int rows, typename T, typename A, typename C>
inline void micro(Index k, const A* a, Index a_row, Index a_column, const T* packed, C* c, Index stride,
                  Index width, bool accumulate) {
  Vec<T> sums[rows][panel_registers] = {};
  if (accumulate) {
    for (int i = 0; i < rows; ++i) {
      for (int v = 0; v < panel_registers; ++v) {
        const Index left = width - v * lanes<T>;
        if (left > 0) sums[i][v] = load_up_to(c + i * stride + v * lanes<T>, left);
      }
    }
  }
  for (Index kk = 0; kk < k; ++kk) {
    Vec<T> b[panel_registers];
#pragma GCC unroll 4
    for (int v = 0; v < panel_registers; ++v) b[v] = load(packed + kk * panel<T> + v * lanes<T>);
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
      const Vec<T> ai = broadcast<T>(static_cast<T>(a[i * a_row + kk * a_column]));
#pragma GCC unroll 4
      for (int v = 0; v < panel_registers; ++v) sums[i][v] = fma(ai, b[v], sums[i][v]);
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int v = 0; v < panel_registers; ++v) {
      const Index left = width - v * lanes<T>;
      if (left > 0) store_up_to(c + i * stride + v * lanes<T>, sums[i][v], left);
    }
  }
}

/// All rows of one panel of columns.
template <typename T, typename A, typename C>
void multiply_panel(Index m, Index k, Matrix<A> a, const T* packed, C* c, Index stride, Index width,
                    bool accumulate) {
  Index i = 0;
  const auto run = [&]<int rows>() {
    for (; i + rows <= m; i += rows) {
      micro<rows, T>(k, a.at(i, 0), a.row, a.column, packed, c + i * stride, stride, width, accumulate);
    }
  };
  run.template operator()<static_cast<int>(tile_rows)>();
  if constexpr (tile_rows > 4) run.template operator()<4>();
  run.template operator()<2>();
  run.template operator()<1>();
}

/// A whose k is not contiguous, as [m][k].
template <typename T, typename A>
void pack_rows(Index m, Index k, Matrix<A> a, T* to) {
  constexpr Index step = lanes<T>;
  for (Index i = 0; i < m; i += step) {
    for (Index kk = 0; kk < k; kk += step) {
      Vec<T> square[step];
      for (Index j = 0; j < step; ++j) {
        square[j] = kk + j < k ? load_up_to(a.at(i, kk + j), m - i) : Vec<T>{};
      }
      transpose<T>(square);
      for (Index j = 0; j < step && i + j < m; ++j) store_up_to(to + (i + j) * k + kk, square[j], k - kk);
    }
  }
}

template <typename B>
Matrix<B> columns_of(Matrix<B> b, Index first) {
  return {b.at(0, first), b.row, b.column};
}

/// `rows` rows from `row` on and `columns` columns from `column` on of one product, on the calling thread.
///   packed: the columns' panels, packed; null: they are read, or packed, here
template <typename T, typename A, typename B, typename C>
void multiply_columns(const Product<A, B, C>& p, Index row, Index rows, Index column, Index columns,
                      const T* packed = nullptr) {
  const Matrix<A> a{p.a.at(row, 0), p.a.row, p.a.column};
  C* const c = p.c + row * p.stride + column;
  Index j = 0;
  if (packed == nullptr && rows <= few_rows && columns >= panel<T>) {
    const T* few_a = pack_few<T>(rows, p.k, a, scratch<T>(few_rows * p.k, 1));
    for (; j + panel<T> <= columns; j += panel<T>)
      multiply_few<T>(rows, p.k, few_a, columns_of(p.b, column + j), c + j, p.stride, p.accumulate);
    if (j == columns) return;
  }
  const auto past_panels = [&](auto from) {
    T* const own = packed == nullptr ? scratch<T>(p.k * panel<T>, 0) : nullptr;
    for (; j < columns; j += panel<T>) {
      const Index width = std::min(panel<T>, columns - j);
      if (packed == nullptr) pack_panel(p.k, width, columns_of(p.b, column + j), own);
      multiply_panel(rows, p.k, from, packed == nullptr ? own : packed + j * p.k, c + j, p.stride, width,
                     p.accumulate);
    }
  };
  if (p.a.column == 1) {
    past_panels(a);
  } else {
    T* dense = scratch<T>(rows * p.k, 1);
    pack_rows(rows, p.k, a, dense);
    past_panels(row_major<T>(dense, p.k));
  }
}

}  // namespace detail

/// A product on the calling thread: for tiles inside another kernel.
template <typename A, typename B, typename C>
void multiply_here(const Product<A, B, C>& p) {
  using T = acc_t<C>;
  detail::multiply_columns<T>(p, 0, p.m, 0, p.n);
}

/// Several independent products, spread over the device's threads together. A product of one block of rows
/// packs each panel where it is used, or not at all (decoding); of more, once for all of them.
template <typename A, typename B, typename C>
void multiply(const Cpu& cpu, std::span<const Product<A, B, C>> products) {
  using T = acc_t<C>;
  using detail::panel;
  constexpr Index block = 64;  // rows per task: A's block and a panel of B fit a second-level cache
  constexpr Index worth_sharing = 1 << 16;  // multiply-adds that take longer than waking a thread

  struct Tile {
    const Product<A, B, C>* product;
    Index row, rows, column, columns;
    Index offset;  // of its first column's panel in the packed memory; -1: not packed beforehand
  };
  struct Panel {
    const Product<A, B, C>* product;
    Index column, offset;
  };
  thread_local std::vector<Tile> tiles;  // kept, so that decoding allocates nothing
  thread_local std::vector<Panel> panels;
  tiles.clear();
  panels.clear();
  Index packed_size = 0;
  Index blocks = 0;
  Index work = 0;
  for (const auto& p : products) {
    blocks += (p.m + block - 1) / block;
    // Of few rows, what takes the time is reading B, or packing it.
    if (p.m > 0) work += std::max<Index>(p.m, 4) * p.n * p.k;
  }
  for (const auto& p : products) {
    if (p.m == 0 || p.n == 0) continue;
    const Index width = (p.n + panel<T> - 1) / panel<T>;  // in panels
    const bool shared = p.m > block;
    // Few rows: split the columns too, so that every thread has work.
    const Index wanted = std::max<Index>(1, 4 * cpu.threads() / std::max<Index>(1, blocks));
    const Index group = std::max<Index>(1, (width + wanted - 1) / wanted) * panel<T>;
    for (Index row = 0; row < p.m; row += block) {
      for (Index column = 0; column < p.n; column += group) {
        tiles.push_back({&p, row, std::min(block, p.m - row), column, std::min(group, p.n - column),
                         shared ? packed_size + column * p.k : -1});
      }
    }
    if (!shared) continue;
    for (Index column = 0; column < p.n; column += panel<T>) {
      panels.push_back({&p, column, packed_size});
      packed_size += p.k * panel<T>;
    }
  }

  const Buffer packed(cpu.pool(), static_cast<std::size_t>(packed_size) * sizeof(T));
  T* const memory = static_cast<T*>(packed.data());
  if (packed_size > 0) {
    const Panel* const shared = panels.data();
    parallel_for(cpu, static_cast<Index>(panels.size()), [&](Index i) {
      const auto& p = *shared[i].product;
      const Index column = shared[i].column;
      detail::pack_panel(p.k, std::min(panel<T>, p.n - column), detail::columns_of(p.b, column),
                         memory + shared[i].offset);
    });
  }
  const Tile* const all = tiles.data();
  const auto run_tile = [&](Index i) {
    const Tile& tile = all[i];
    detail::multiply_columns<T>(*tile.product, tile.row, tile.rows, tile.column, tile.columns,
                                tile.offset < 0 ? nullptr : memory + tile.offset);
  };
  parallel_for(cpu, static_cast<Index>(tiles.size()), run_tile, work >= worth_sharing);
}

template <typename A, typename B, typename C>
void multiply(const Cpu& cpu, const Product<A, B, C>& product) {
  multiply(cpu, std::span<const Product<A, B, C>>(&product, 1));
}

}  // namespace mtpx::cpu
