#pragma once
// Products of matrices that are both activations, and their transposes.

#include "products/gemm.hpp"

#include "../shapes.hpp"

namespace mtpx {

/// y = a b, `batch` times; every number is one running sum over k in order.   y: [batch, m, n] dense
template <typename T, typename G>
void multiply_matrices(const Cpu& cpu, MatmulShape s, const T* a, const T* b, Sink<G> y) {
  if (!y) return;
  std::vector<cpu::Product<T, T, G>> products;
  for (Index i = 0; i < s.batch; ++i)
    products.push_back({s.m,
                        s.n,
                        s.k,
                        {a + i * s.a.next, s.a.row, s.a.column},
                        {b + i * s.b.next, s.b.row, s.b.column},
                        y.data + i * s.m * s.n,
                        s.n,
                        y.accumulate});
  cpu::multiply(cpu, std::span<const cpu::Product<T, T, G>>(products));
}

/// y_bji (+)= x_bij.   x: [batch, rows.count / batch, width], rows apart   y: dense
template <typename T>
void transpose_copy(const Cpu& cpu, Index batch, Rows rows, const T* x, Sink<T> y) {
  if (!y || batch == 0) return;
  using A = acc_t<T>;
  const Index m = rows.count / batch, n = rows.width;
  cpu::parallel_chunks(cpu, batch * n, m, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const T* column = x + i / n * m * rows.stride + i % n;
      T* row = y.data + i * m;
      for (Index r = 0; r < m; ++r) {
        const T value = column[r * rows.stride];
        row[r] = y.accumulate ? static_cast<T>(static_cast<A>(row[r]) + static_cast<A>(value)) : value;
      }
    }
  });
}

}  // namespace mtpx
