#pragma once
// Matrix products. Everything that multiplies matrices on the host goes through here.
//
// The rule: every output is one running sum over k = 0, 1, 2, ... in order, by fused multiply-add, whatever
// the sizes, the tiling, the number of threads, and whichever rows stand beside it. So a row's bits are the
// same in a batch of one (decoding), of a few (verifying drafts) or of thousands (prefill, training), and
// tiles may be chosen freely. Eigen's product does not promise this: its kernels split k by shape.
//
// How: B is packed into panels of `panel` columns, [k][panel], zero-padded; a micro kernel holds
// `tile_rows` x `panel` sums in registers and streams one panel past rows of A. The loop it replaces:
//
//   for i < m, j < n:  c[i][j] = (accumulate ? c[i][j] : 0) + sum_k a[i][k] * b[k][j]

#include "parallel.hpp"
#include "simd.hpp"

#include <span>
#include <vector>

namespace mtpx::cpu {

/// A matrix operand: element (i, j) stands at data[i * row + j * column].
template <typename T>
struct Matrix {
  const T* data = nullptr;
  Index row = 0;
  Index column = 1;

  const T* at(Index i, Index j) const { return data + i * row + j * column; }
};

template <typename T>
Matrix<T> row_major(const T* data, Index stride) {
  return {data, stride, 1};
}
template <typename T>
Matrix<T> transposed(const T* data, Index stride) {
  return {data, 1, stride};
}

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

inline constexpr int panel_registers = 2;
inline constexpr Index tile_rows =
    register_bytes == 64 ? 12 : 6;  // 24 of 32, or 12 of 16 registers hold sums

template <typename T>
inline constexpr Index panel = panel_registers* lanes<T>;

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
  for (Index j = 0; j < panel<T>; j += step) {
    for (Index kk = 0; kk < k; kk += step) {
      Vec<T> square[step];
      for (Index jj = 0; jj < step; ++jj) {
        square[jj] = j + jj < width ? load_up_to(b.at(kk, j + jj), k - kk) : Vec<T>{};
      }
      transpose<T>(square);
      for (Index i = 0; i < step && kk + i < k; ++i) store(to + (kk + i) * panel<T> + j, square[i]);
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

}  // namespace detail

/// Memory of one thread, kept between calls.
template <typename T>
T* scratch(Index count, int which) {
  thread_local std::vector<T> memory[4];
  auto& mine = memory[which];
  if (static_cast<Index>(mine.size()) < count) mine.resize(static_cast<std::size_t>(count));
  return mine.data();
}

/// A product on the calling thread: for tiles inside another kernel.
template <typename A, typename B, typename C>
void multiply_here(const Product<A, B, C>& p) {
  using T = acc_t<C>;
  using detail::panel;
  T* packed = scratch<T>(p.k * panel<T>, 0);
  for (Index j = 0; j < p.n; j += panel<T>) {
    const Index width = std::min(panel<T>, p.n - j);
    detail::pack_panel(p.k, width, Matrix<B>{p.b.at(0, j), p.b.row, p.b.column}, packed);
    detail::multiply_panel(p.m, p.k, p.a, packed, p.c + j, p.stride, width, p.accumulate);
  }
}

/// Several independent products, spread over the device's threads together. A product of one block of rows
/// (decoding) packs each panel where it is used; of more, once for all of them.
template <typename A, typename B, typename C>
void multiply(const Cpu& cpu, std::span<const Product<A, B, C>> products) {
  using T = acc_t<C>;
  using detail::panel;
  constexpr Index block = 64;  // rows per task: A's block and a panel of B fit a second-level cache
  constexpr Index worth_sharing = 1 << 16;  // multiply-adds that take longer than waking a thread

  struct Panel {
    const Product<A, B, C>* product;
    Index column;
    Index offset;  // in the packed memory; -1: packed by its task
  };
  struct Tile {
    Index first_panel, last_panel;
    Index row, rows;
  };
  std::vector<Panel> panels;
  std::vector<Tile> tiles;
  Index packed_size = 0;
  Index blocks = 0;
  Index work = 0;
  for (const auto& p : products) {
    blocks += (p.m + block - 1) / block;
    work += p.m * p.n * p.k;
  }
  for (const auto& p : products) {
    if (p.m == 0 || p.n == 0) continue;
    const auto first = static_cast<Index>(panels.size());
    const bool shared = p.m > block;
    for (Index j = 0; j < p.n; j += panel<T>) {
      panels.push_back({&p, j, shared ? packed_size : -1});
      if (shared) packed_size += p.k * panel<T>;
    }
    const auto last = static_cast<Index>(panels.size());
    // Few rows: split the columns too, so that every thread has work.
    const Index wanted = std::max<Index>(1, 4 * cpu.threads() / std::max<Index>(1, blocks));
    const Index group = std::max<Index>(1, (last - first + wanted - 1) / wanted);
    for (Index row = 0; row < p.m; row += block) {
      for (Index at = first; at < last; at += group) {
        tiles.push_back({at, std::min(last, at + group), row, std::min(block, p.m - row)});
      }
    }
  }
  const auto pack = [](const Panel& at, T* to) {
    const auto& p = *at.product;
    const Matrix<B> columns{p.b.at(0, at.column), p.b.row, p.b.column};
    detail::pack_panel(p.k, std::min(panel<T>, p.n - at.column), columns, to);
  };

  const Buffer packed(cpu.pool(), static_cast<std::size_t>(packed_size) * sizeof(T));
  T* const memory = static_cast<T*>(packed.data());
  if (packed_size > 0) {
    parallel_for(cpu, static_cast<Index>(panels.size()), [&](Index i) {
      const Panel& at = panels[static_cast<std::size_t>(i)];
      if (at.offset >= 0) pack(at, memory + at.offset);
    });
  }
  const auto run_tile = [&](Index i) {
    const Tile& tile = tiles[static_cast<std::size_t>(i)];
    const auto& p = *panels[static_cast<std::size_t>(tile.first_panel)].product;
    T* const own = scratch<T>(p.k * panel<T>, 0);
    const auto past_panels = [&](auto a) {
      for (Index at = tile.first_panel; at < tile.last_panel; ++at) {
        const Panel& q = panels[static_cast<std::size_t>(at)];
        if (q.offset < 0) pack(q, own);
        detail::multiply_panel(tile.rows, p.k, a, q.offset < 0 ? own : memory + q.offset,
                               p.c + tile.row * p.stride + q.column, p.stride,
                               std::min(panel<T>, p.n - q.column), p.accumulate);
      }
    };
    const Matrix<A> rows{p.a.at(tile.row, 0), p.a.row, p.a.column};
    if (p.a.column == 1) {
      past_panels(rows);
    } else {
      T* dense = scratch<T>(tile.rows * p.k, 1);
      detail::pack_rows(tile.rows, p.k, rows, dense);
      past_panels(row_major<T>(dense, p.k));
    }
  };
  parallel_for(cpu, static_cast<Index>(tiles.size()), run_tile, work >= worth_sharing);
}

template <typename A, typename B, typename C>
void multiply(const Cpu& cpu, const Product<A, B, C>& product) {
  multiply(cpu, std::span<const Product<A, B, C>>(&product, 1));
}

}  // namespace mtpx::cpu
