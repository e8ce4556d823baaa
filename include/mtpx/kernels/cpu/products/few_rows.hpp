#pragma once
// Products of few rows, as decoding makes them: B is read once, straight from where it stands, and every
// number of it meets all rows of A while it is in a register. The order of every sum is gemm.hpp's: k = 0, 1,
// 2, ... by fused multiply-add, so that a row's bits are those of a product of many rows.

#include "../core/simd.hpp"

#include "../../matrix.hpp"

namespace mtpx::cpu {

using kernels::Matrix;
using kernels::row_major;
using kernels::transposed;

namespace detail {

inline constexpr int panel_registers = 2;

/// Columns of B that a task works on at a time.
template <typename T>
inline constexpr Index panel = panel_registers* lanes<T>;

/// Most rows of A for which B is not packed.
inline constexpr Index few_rows = 8;

/// Numbers of type B in a word as wide as a T: of bf16 and float two, else one.
template <typename T, typename B>
inline constexpr Index numbers_of_word = static_cast<Index>(sizeof(T) / sizeof(B));

/// A register of words, `count` numbers of memory; what is missing of a whole register is 0.
template <typename T, typename B>
inline Vec<T> load_words(const B* from, Index count = lanes<T> * numbers_of_word<T, B>) {
  Vec<T> words{};
  std::memcpy(&words, from, static_cast<std::size_t>(count) * sizeof(B));
  return words;
}

/// The i-th number of every word.
template <typename T, typename B>
inline Vec<T> number_of_words(Vec<T> words, Index i) {
  if constexpr (numbers_of_word<T, B> == 1) {
    return words;
  } else {  // a bf16 is the upper half of a float
    const auto bits = reinterpret_cast<exact::Words<Vec<T>>>(words);
    return reinterpret_cast<Vec<T>>(i == 0 ? bits << 16 : bits & 0xffff0000U);
  }
}

/// The sums of `rows` rows of A and a full panel of B.
///   a: [k][rows]   sums: [rows][panel], added to
template <int rows, typename T, typename B>
void few(Index k, const T* a, Matrix<B> b, T* sums) {
  constexpr int n = static_cast<int>(lanes<T>);
  constexpr Index line = 64 / static_cast<Index>(sizeof(B));
  if (b.column == 1) {  // rows of B are contiguous
    Vec<T> total[rows][panel_registers];
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < panel_registers; ++v) total[r][v] = load(sums + r * panel<T> + v * n);
    }
    for (Index kk = 0; kk < k; ++kk) {
      const B* row = b.at(kk, 0);
#pragma GCC unroll 4
      for (int v = 0; v < panel_registers; ++v) {
        const Vec<T> bv = load(row + v * n);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) total[r][v] = fma(broadcast<T>(a[kk * rows + r]), bv, total[r][v]);
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < panel_registers; ++v) store(sums + r * panel<T> + v * n, total[r][v]);
    }
    return;
  }
  // Short columns end before the processor notices that they are being streamed: the next ones are asked for.
  const auto fetch_next = [&](Index kk, int v) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) __builtin_prefetch(b.at(kk, (v + 1) * n + i), 0, 2);
  };
  if constexpr (rows == n) {  // a register holds a column of A: numbers of B are broadcast as they come
    for (int v = 0; v < panel_registers; ++v) {
      Vec<T> total[n];
      for (int r = 0; r < n; ++r) total[r] = load(sums + r * panel<T> + v * n);
      transpose<T>(total);
      for (Index kk = 0; kk < k; ++kk) {
        if (kk % line == 0) fetch_next(kk, v);
        const Vec<T> column = load(a + kk * rows);
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i)
          total[i] = fma(broadcast<T>(static_cast<T>(*b.at(kk, v * n + i))), column, total[i]);
      }
      transpose<T>(total);
      for (int r = 0; r < n; ++r) store(sums + r * panel<T> + v * n, total[r]);
    }
    return;
  }
  // Columns of B are contiguous: squares of lanes x lanes words are transposed in registers. One column of
  // squares at a time: more streams than a first-level cache has ways would push out each other's lines.
  constexpr Index per = numbers_of_word<T, B>;
  for (int v = 0; v < panel_registers; ++v) {
    Vec<T> total[rows];
    for (int r = 0; r < rows; ++r) total[r] = load(sums + r * panel<T> + v * n);
    Index kk = 0;
    for (; kk + n * per <= k; kk += n * per) {
      if (kk % line == 0) fetch_next(kk, v);
      Vec<T> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) square[i] = load_words<T>(b.at(kk, v * n + i));
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        const Vec<T> numbers = number_of_words<T, B>(square[i], 0);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
          total[r] = fma(broadcast<T>(a[(kk + i * per) * rows + r]), numbers, total[r]);
        if constexpr (per == 2) {
          const Vec<T> odd = number_of_words<T, B>(square[i], 1);
#pragma GCC unroll 8
          for (int r = 0; r < rows; ++r)
            total[r] = fma(broadcast<T>(a[(kk + i * per + 1) * rows + r]), odd, total[r]);
        }
      }
    }
    if (kk < k) {
      Vec<T> square[n];
      for (int i = 0; i < n; ++i) square[i] = load_words<T>(b.at(kk, v * n + i), k - kk);
      transpose<T>(square);
      for (Index i = 0; i < k - kk; ++i) {
        const Vec<T> numbers = number_of_words<T, B>(square[i / per], i % per);
        for (int r = 0; r < rows; ++r)
          total[r] = fma(broadcast<T>(a[(kk + i) * rows + r]), numbers, total[r]);
      }
    }
    for (int r = 0; r < rows; ++r) store(sums + r * panel<T> + v * n, total[r]);
  }
}

/// Calls body<rows>() with the number of rows, m or a little more, that few() is compiled for.
template <typename Body>
void with_rows(Index m, const Body& body) {
  if (m == 1) return body.template operator()<1>();
  if (m == 2) return body.template operator()<2>();
  if (m == 3) return body.template operator()<3>();
  if (m == 4) return body.template operator()<4>();
  if (m == 5) return body.template operator()<5>();
  if (m <= 6) return body.template operator()<6>();
  body.template operator()<few_rows>();
}

/// A as few() reads it: [k][rows], of type T. No copy where it is that already.
template <typename T, typename A>
const T* pack_few(Index m, Index k, Matrix<A> a, T* to) {
  if constexpr (std::is_same_v<A, T>) {
    if (m == 1 && a.column == 1) return a.data;
  }
  with_rows(m, [&]<int rows>() {
    const A* from[rows];
    for (int r = 0; r < rows; ++r) from[r] = a.at(std::min<Index>(r, m - 1), 0);
    for (Index kk = 0; kk < k; ++kk) {
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) to[kk * rows + r] = static_cast<T>(from[r][kk * a.column]);
    }
  });
  return to;
}

/// One full panel of columns, m <= few_rows.   a: from pack_few()   c: [m][panel] with `stride`
template <typename T, typename B, typename C>
void multiply_few(Index m, Index k, const T* a, Matrix<B> b, C* c, Index stride, bool accumulate) {
  T sums[few_rows * panel<T>] = {};
  if (accumulate) {
    for (Index r = 0; r < m; ++r) {
      for (Index j = 0; j < panel<T>; j += lanes<T>) store(sums + r * panel<T> + j, load(c + r * stride + j));
    }
  }
  with_rows(m, [&]<int rows>() { few<rows, T>(k, a, b, sums); });
  for (Index r = 0; r < m; ++r) {
    for (Index j = 0; j < panel<T>; j += lanes<T>) store(c + r * stride + j, load(sums + r * panel<T> + j));
  }
}

}  // namespace detail

}  // namespace mtpx::cpu
