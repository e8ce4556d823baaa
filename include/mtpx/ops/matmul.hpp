#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// Which operands of matmul() stand transposed in memory.
struct Transposed {
  bool a = false;  ///< a is [..., K, M]
  bool b = false;  ///< b is [..., N, K]
};

namespace detail {
/// One operand as matrices: how many, of what size, and where their elements stand.
struct Matrices {
  Index count, rows, columns;
  MatrixSteps steps;

  Matrices(const auto& x, bool transposed) {
    const Shape& shape = x.shape();
    const Index m = shape[shape.rank() - 2], n = shape.width(), stride = x.rows().stride;
    count = shape.rows() / std::max<Index>(m, 1);
    rows = transposed ? n : m;
    columns = transposed ? m : n;
    steps = transposed ? MatrixSteps{m * stride, 1, stride} : MatrixSteps{m * stride, stride, 1};
  }
};
inline MatrixSteps transpose(MatrixSteps s) { return {s.next, s.column, s.row}; }
/// Rows that touch each other, `count` matrices of them.
inline MatrixSteps dense(Index rows, Index columns) { return {rows * columns, columns, 1}; }
}  // namespace detail

/// Products of matrices that stand along the last two axes.
///
///   y = a b,   y_ij = sum_k a_ik b_kj in the order of k
///
/// a: [..., M, K], or [..., K, M] where transposed.a   b: [..., K, N], or [..., N, K] where transposed.b;
/// both may be strided. Their leading axes are equal, or b is one matrix for all rows of an a that is not
/// transposed.   returns [..., M, N]
/// Saves for backward: a and b, each where the other's gradient is wanted.   Throws ShapeError.
template <typename T, typename D, typename GA = T, typename GB = T>
Var<T, D> matmul(const Var<T, D, GA>& a, const Var<T, D, GB>& b, Transposed transposed = {}) {
  Tape& tape = tape_of("matmul", a, b);
  const int rank = a.shape().rank();
  require(rank >= 2 && b.shape().rank() >= 2, "matmul", "a and b are matrices, or stacks of them",
          {{"a", a}, {"b", b}}, tape);
  detail::Matrices of_a(a, transposed.a), of_b(b, transposed.b);
  const bool one_b = b.shape().rank() == 2 && rank > 2 && !transposed.a;
  bool fits = of_a.columns == of_b.rows && (one_b || b.shape().rank() == rank);
  for (int axis = 0; fits && !one_b && axis < rank - 2; ++axis) fits = a.shape()[axis] == b.shape()[axis];
  require(
      fits, "matmul",
      [&] {
        return cat("a", transposed.a ? " transposed" : "", " times b", transposed.b ? " transposed" : "",
                   " needs equal inner axes and equal leading axes (or one b)");
      },
      {{"a", a}, {"b", b}}, tape);
  Shape shape = a.shape().with_width(of_b.columns);
  if (transposed.a) shape = shape.with_axis(rank - 2, of_a.rows);
  if (one_b) {  // one matrix of all rows
    of_a.rows *= of_a.count;
    of_a.count = 1;
  }
  const MatmulShape s{of_a.count, of_a.rows, of_b.columns, of_a.columns, of_a.steps, of_b.steps};
  Tensor<T, D> y(a.device(), shape);
  multiply_matrices(y.device(), s, a.data(), b.data(), Sink<T>{y.data(), false});
  return tape.record(
      "matmul", y,
      [s, transposed, av = b.wants_grad() ? a.value() : Tensor<T, D>(),
       bv = a.wants_grad() ? b.value() : Tensor<T, D>(), da = a.destination(),
       db = b.destination()](const Tensor<T, D>& dy) {
        const MatrixSteps of_dy = detail::dense(s.m, s.n);
        // da = dy b^T, or its transpose b dy^T; db = a^T dy, or dy^T a
        if (const Sink<GA> sink = da.sink()) {
          if (transposed.a) {
            multiply_matrices(dy.device(), MatmulShape{s.batch, s.k, s.m, s.n, s.b, detail::transpose(of_dy)},
                              bv.data(), dy.data(), sink);
          } else {
            multiply_matrices(dy.device(), MatmulShape{s.batch, s.m, s.k, s.n, of_dy, detail::transpose(s.b)},
                              dy.data(), bv.data(), sink);
          }
        }
        if (const Sink<GB> sink = db.sink()) {
          if (transposed.b) {
            multiply_matrices(dy.device(), MatmulShape{s.batch, s.n, s.k, s.m, detail::transpose(of_dy), s.a},
                              dy.data(), av.data(), sink);
          } else {
            multiply_matrices(dy.device(), MatmulShape{s.batch, s.k, s.n, s.m, detail::transpose(s.a), of_dy},
                              av.data(), dy.data(), sink);
          }
        }
      });
}

/// The last two axes exchanged: a copy, since tensors have no transposes.
///
///   y_bji = x_bij
///
/// x: [..., M, N], may be strided   returns [..., N, M]   Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> transpose(const Var<T, D>& x) {
  Tape& tape = tape_of("transpose", x);
  const Shape s = x.shape();
  require(s.rank() >= 2, "transpose", "x has two axes or more", {{"x", x}}, tape);
  const Index m = s[s.rank() - 2], n = s.width(), batch = s.rows() / std::max<Index>(m, 1);
  Tensor<T, D> y(x.device(), s.with_width(m).with_axis(s.rank() - 2, n));
  transpose_copy(y.device(), batch, x.rows(), x.data(), Sink<T>{y.data(), false});
  return tape.record("transpose", y, [batch, dx = x.destination()](const Tensor<T, D>& dy) {
    transpose_copy(dy.device(), batch, dy.rows(), dy.data(), dx.sink());
  });
}

}  // namespace mtpx
