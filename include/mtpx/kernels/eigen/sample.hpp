#pragma once

#include "views.hpp"

#include "../sampling.hpp"

#include <algorithm>

namespace mtpx {

/// Logits of some tokens, in ascending order, as those of all: the others have minus infinity.
/// logits: [rows, width]   y: [rows, vocab]
template <typename T>
void spread_logits(const Reference&, Rows rows, const T* logits, const std::int32_t* tokens, Index vocab,
                   T* y) {
  auto all = eigen::matrix(y, rows.count, vocab);
  all.setConstant(-std::numeric_limits<T>::infinity());
  for (Index r = 0; r < rows.count; ++r) {
    for (Index j = 0; j < rows.width; ++j) all(r, tokens[j]) = logits[r * rows.stride + j];
  }
}

/// The most likely token of every row, by the rule of ../sampling.hpp, here and below as token_or_not() gives
/// it. logits: [rows, V]   ids: [rows]
template <typename T>
void argmax_rows(const Reference&, Rows rows, const T* logits, std::int32_t* ids) {
  for (Index r = 0; r < rows.count; ++r) {
    const std::span<const T> z(logits + r * rows.stride, static_cast<std::size_t>(rows.width));
    const std::int32_t id = argmax(z);
    ids[r] = token_or_not(id, z[static_cast<std::size_t>(id)]);
  }
}

/// The best tokens of every row's race, by the rule of ../sampling.hpp.   ids: [rows, best]
template <typename T>
void race_rows(const Reference&, Rows rows, const T* logits, const Draw* draws, Index best,
               std::int32_t* ids) {
  for (Index r = 0; r < rows.count; ++r) {
    const std::span<const T> z(logits + r * rows.stride, static_cast<std::size_t>(rows.width));
    const std::span<std::int32_t> mine(ids + r * best, static_cast<std::size_t>(best));
    race(z, draws[r].sampling, draws[r].noise, mine);
    mine[0] = token_or_not(mine[0], z[static_cast<std::size_t>(mine[0])]);
  }
}

/// A token of every row, drawn as draws[r] says from the distribution that ../sampling.hpp makes of its
/// logits, which can be kept: NaN where no token can be chosen.
template <typename T>
void draw_rows(const Reference&, Rows rows, const T* logits, const Draw* draws, std::int32_t* ids,
               const Kept& kept) {
  for (Index r = 0; r < rows.count; ++r) {
    const std::span<const T> z(logits + r * rows.stride, static_cast<std::size_t>(rows.width));
    std::vector<double> p = distribution(z, draws[r].sampling);
    const std::int32_t id = sample(p, draws[r].number);
    ids[r] = token_or_not(id, z[static_cast<std::size_t>(id)]);
    if (ids[r] < 0) std::fill(p.begin(), p.end(), std::numeric_limits<double>::quiet_NaN());
    if (kept.table != nullptr) std::copy(p.begin(), p.end(), kept.table + kept.rows[r] * rows.width);
  }
}

}  // namespace mtpx
