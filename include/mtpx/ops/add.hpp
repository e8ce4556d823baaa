#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// y = a + b
///
/// a, b: the same dense shape   returns that shape
/// Saves for backward: nothing.   Throws ShapeError.
template <typename T, typename D>
Var<T, D> add(const Var<T, D>& a, const Var<T, D>& b) {
  Tape& tape = tape_of("add", a, b);
  require(a.shape() == b.shape() && a.value().contiguous() && b.value().contiguous(), "add",
          "a and b need the same shape and dense rows", {{"a", a.shape()}, {"b", b.shape()}}, tape);
  Tensor<T, D> y(a.device(), a.shape());
  add_forward(y.device(), y.size(), a.data(), b.data(), y.data());
  return tape.record("add", y, [da = a.destination(), db = b.destination()](const Tensor<T, D>& dy) {
    const auto copy_to = [&](const Destination<T, D>& d) {
      if (const Sink<T> sink = d.sink()) {
        const Rows rows = dy.rows();
        copy_rows(dy.device(), rows.count, rows.width, dy.data(), rows.width, sink.data, rows.width,
                  sink.accumulate);
      }
    };
    copy_to(da);
    if (!db.take_over(dy)) copy_to(db);  // the last to read dy may keep it
  });
}

/// A weighted sum of losses, each one number.
///
///   y = sum_i weight_i x_i,  in the order given
///
/// Saves for backward: nothing.   Throws ShapeError.
template <typename A, typename D>
Var<A, D> weighted_sum(const std::vector<Var<A, D>>& x, const std::vector<A>& weights) {
  require(
      !x.empty() && x.size() == weights.size(), "weighted_sum", "as many weights as losses, at least one",
      {{"x", Shape{static_cast<Index>(x.size())}}, {"weights", Shape{static_cast<Index>(weights.size())}}});
  Tape& tape = tape_of("weighted_sum", x.front());
  Tensor<A, D> y(x.front().device(), {1});
  std::vector<Destination<A, D>> wanted;
  for (std::size_t i = 0; i < x.size(); ++i) {
    tape_of("weighted_sum", x.front(), x[i]);
    require(x[i].shape().size() == 1, "weighted_sum", "every loss is one number", {{"x", x[i].shape()}},
            tape);
    scale_into(y.device(), 1, weights[i], x[i].data(), Sink<A>{y.data(), i > 0});
    wanted.push_back(x[i].destination());
  }
  return tape.record("weighted_sum", y, [wanted, weights](const Tensor<A, D>& dy) {
    for (std::size_t i = 0; i < wanted.size(); ++i)
      scale_into(dy.device(), 1, weights[i], dy.data(), wanted[i].sink());
  });
}

}  // namespace mtpx
