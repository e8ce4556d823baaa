#pragma once

#include "views.hpp"

#include <limits>

namespace mtpx {

/// Where every slot stands in what goes to the ranks, [ranks, capacity] rows; see cpu/exchange.hpp.
template <typename T>
void plan_exchange(const Reference&, ExchangeShape s, const std::int32_t* ids, const std::int32_t* offsets,
                   const std::int32_t* place, std::int32_t* row, std::int32_t* bounds, T* need) {
  const Index own = s.own();
  for (Index r = 0; r < s.ranks; ++r) {
    const Index first = offsets[r * own], count = offsets[(r + 1) * own] - first;
    for (Index j = 0; j <= own; ++j)
      bounds[r * (own + 1) + j] =
          static_cast<std::int32_t>(std::min<Index>(offsets[r * own + j] - first, s.capacity));
    need[0] = std::max(need[0], static_cast<T>(count * s.ranks) / static_cast<T>(s.slots));
    if (count > s.capacity) need[1] = std::numeric_limits<T>::quiet_NaN();
  }
  for (Index i = 0; i < s.slots; ++i) {
    const Index rank = ids[i] / own, at = place[i] - offsets[rank * own];
    row[i] = at < s.capacity ? static_cast<std::int32_t>(rank * s.capacity + at) : -1;
  }
}

/// spread[row_nk] = x_n for every slot that has a row.
template <typename T>
void spread_slots(const Reference&, Rows rows, Index top_k, const std::int32_t* row, const T* x, T* spread) {
  const auto X = as_matrix(x, rows);
  for (Index i = 0; i < rows.count * top_k; ++i) {
    if (row[i] >= 0) eigen::matrix(spread + row[i] * rows.width, 1, rows.width) = X.row(i / top_k);
  }
}

/// y_n (+)= sum_k weight_nk spread[row_nk]; null weights are ones.
template <typename T>
void combine_slots(const Reference&, Rows rows, Index top_k, const std::int32_t* row, const T* weights,
                   const T* spread, Sink<T> y) {
  if (!y) return;
  eigen::Matrix<T> total = eigen::Matrix<T>::Zero(rows.count, rows.width);
  for (Index i = 0; i < rows.count * top_k; ++i) {
    if (row[i] < 0) continue;
    total.row(i / top_k) +=
        (weights == nullptr ? T(1) : weights[i]) * eigen::matrix(spread + row[i] * rows.width, 1, rows.width);
  }
  eigen::put(y, total);
}

}  // namespace mtpx
