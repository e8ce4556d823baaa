#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// Looks token ids up in a table. The start of a forward: everything computed from here is on `tape`.
///
///   y_bt = table[id_bt]
///
/// ids: [B, T], may be a slice of longer rows   table: [V, D]   returns [B, T, D]
/// Saves for backward: ids.   Throws ShapeError; NumericError for an id outside [0, V) (CPU).
template <typename T, typename D>
Var<T, D> embedding(Tape& tape, const Tensor<std::int32_t, D>& ids, const Weight<T, D>& table) {
  require(ids.shape().rank() == 2 && table.shape().rank() == 2, "embedding",
          "ids are [B, T], the table is [V, D]", {{"ids", ids}, {"table", table}}, tape);
  const Index width = table.shape().width();
  Tensor<T, D> y(table.device(), {ids.shape()[0], ids.shape()[1], width});
  embedding_forward(y.device(), "embedding", ids.rows(), ids.data(), table.rows(), table.data(), y.data());
  return tape.record("embedding", y, [ids, width, dtable = table.destination()](const Tensor<T, D>& dy) {
    embedding_backward(dy.device(), "embedding", ids.rows(), ids.data(), dtable.shape()[0], width, dy.data(),
                       dtable.sink());
  });
}

}  // namespace mtpx
