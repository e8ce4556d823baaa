#pragma once
// Rows taken by number, and added by number. For a table of weights that starts a forward: embedding.hpp.

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

namespace detail {
/// table_id(i) (+)= x_i, added in the order of i in the accumulation type.   x: [N, D] dense
template <typename T, typename G, typename D>
void add_rows(const D& device, const char* op, const Tensor<std::int32_t, D>& ids, Index rows, Index width,
              const T* x, Sink<G> table) {
  const auto run = [&](Sink<acc_t<T>> sink) {
    embedding_backward(device, op, Rows{1, ids.size(), ids.size()}, ids.data(), rows, width, x, sink);
  };
  if constexpr (std::is_same_v<G, acc_t<T>>) {
    run(table);
  } else {
    if (!table) return;
    const Tensor<acc_t<T>, D> sums(device, {rows, width});
    run(Sink<acc_t<T>>{sums.data(), false});
    copy_rows(device, rows, width, sums.data(), width, table.data, width, table.accumulate);
  }
}
}  // namespace detail

/// y_i = x_id(i)
///
/// x: [V, D], may be strided   ids: [...] dense, int32   returns [..., D]
/// Saves for backward: ids. The gradient of a row that is taken more than once is the sum, in the order of i.
/// Throws ShapeError; NumericError for an id outside [0, V) (CPU; on a GPU a row of zeros).
template <typename T, typename D, typename G = T>
Var<T, D> gather(const Var<T, D, G>& x, const Tensor<std::int32_t, D>& ids) {
  Tape& tape = tape_of("gather", x);
  const Shape& of_ids = ids.shape();
  require(x.shape().rank() == 2 && ids.contiguous() && of_ids.rank() < Shape::max_rank, "gather",
          "x is [V, D], ids are dense", {{"x", x}, {"ids", ids}}, tape);
  const Index width = x.shape().width();
  Tensor<T, D> y(x.device(), of_ids.with_last_axis(width));
  embedding_forward(y.device(), "gather", Rows{1, ids.size(), ids.size()}, ids.data(), x.rows(), x.data(),
                    y.data());
  return tape.record("gather", y, [ids, width, dx = x.destination()](const Tensor<T, D>& dy) {
    detail::add_rows(dy.device(), "gather", ids, dx.shape()[0], width, dy.data(), dx.sink());
  });
}

/// y_v = sum of x_i over the i with id(i) = v, in the order of i; 0 where there is none
///
/// x: [..., D] dense   ids: one for each row of x, dense, int32   returns [count, D]
/// Saves for backward: ids.
/// Throws ShapeError; NumericError for an id outside [0, count) (CPU; a GPU leaves that row out).
template <typename T, typename D>
Var<T, D> scatter(const Var<T, D>& x, const Tensor<std::int32_t, D>& ids, Index count) {
  Tape& tape = tape_of("scatter", x);
  const Rows rows = x.rows();
  require(x.value().contiguous() && ids.contiguous() && ids.size() == rows.count && count >= 0, "scatter",
          "x has dense rows, one id each", {{"x", x}, {"ids", ids}}, tape);
  Tensor<T, D> y(x.device(), {count, rows.width});
  detail::add_rows(y.device(), "scatter", ids, count, rows.width, x.data(), Sink<T>{y.data(), false});
  return tape.record("scatter", y, [ids, width = rows.width, dx = x.destination()](const Tensor<T, D>& dy) {
    const Sink<T> sink = dx.sink();
    if (!sink) return;
    const Tensor<T, D> part = sink.accumulate ? Tensor<T, D>(dy.device(), dx.shape()) : Tensor<T, D>();
    embedding_forward(dy.device(), "scatter", Rows{1, ids.size(), ids.size()}, ids.data(), dy.rows(),
                      dy.data(), sink.accumulate ? part.data() : sink.data);
    if (sink.accumulate)
      copy_rows(dy.device(), ids.size(), width, part.data(), width, sink.data, width, true);
  });
}

}  // namespace mtpx
