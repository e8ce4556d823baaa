#pragma once

#include "views.hpp"

#include <mtpx/core/error.hpp>

namespace mtpx {

namespace eigen {
inline void check_id(const char* op, Index row, Index column, std::int32_t id, Index least, Index vocab) {
  if (id >= least && id < vocab) return;
  throw NumericError(cat("[", op, "] token id ", id, " at row ", row, ", column ", column,
                         " is outside the vocabulary of ", vocab));
}
}  // namespace eigen

/// y_bt = table_id(b, t).   id: [B, T], rows apart   table: [V, D]   y: [B * T, D]
template <typename T>
void embedding_forward(const Reference&, const char* op, Rows ids, const std::int32_t* id, Rows table_rows,
                       const T* table, T* y) {
  const auto E = as_matrix(table, table_rows);
  auto Y = eigen::matrix(y, ids.count * ids.width, table_rows.width);
  for (Index b = 0; b < ids.count; ++b) {
    for (Index t = 0; t < ids.width; ++t) {
      const std::int32_t token = id[b * ids.stride + t];
      eigen::check_id(op, b, t, token, 0, table_rows.count);
      Y.row(b * ids.width + t) = E.row(token);
    }
  }
}

/// dtable_v = the sum of dy_bt where id(b, t) = v
template <typename T>
void embedding_backward(const Reference&, const char* op, Rows ids, const std::int32_t* id, Index vocab,
                        Index width, const T* dy, Sink<T> dtable) {
  const auto dY = eigen::matrix(dy, ids.count * ids.width, width);
  eigen::Matrix<T> dE = eigen::Matrix<T>::Zero(vocab, width);
  for (Index b = 0; b < ids.count; ++b) {
    for (Index t = 0; t < ids.width; ++t) {
      const std::int32_t token = id[b * ids.stride + t];
      eigen::check_id(op, b, t, token, 0, vocab);
      dE.row(token) += dY.row(b * ids.width + t);
    }
  }
  eigen::put(dtable, dE);
}

}  // namespace mtpx
