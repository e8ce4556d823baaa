#pragma once

#include <mtpx/ops/latent_attention.hpp>

namespace mtpx {

/// Hidden states by sequence and position, for what reads them in a later decoding pass: a depth reads those
/// that the depth before it carried.
template <typename T, typename D>
struct StateCache {
  Tensor<T, D> entries;  ///< [sequences, capacity, width]

  /// Positions of a sequence that fit.
  Index capacity() const { return entries.shape()[1]; }
};

namespace detail {
template <typename T, typename D>
StateShape state_shape(const char* op, const Tensor<T, D>& x, const DecodeRows<D>& rows,
                       const StateCache<T, D>& cache) {
  const StateShape s{rows.count(), cache.entries.shape().width(), cache.capacity()};
  require(x.shape().width() == s.width && x.rows().count == s.rows && x.contiguous(), op,
          "one dense row for each decoded token, as wide as the cache",
          {{"x", x}, {"cache", cache.entries}, {"rows", Shape{s.rows}}});
  return s;
}
}  // namespace detail

/// entry[sequence_r][place_r] = x_r
///
/// x: [1, N, width] dense; no two rows share an entry   Throws ShapeError.
template <typename T, typename D>
void store_rows(const Tensor<T, D>& x, const DecodeRows<D>& rows, const StateCache<T, D>& cache) {
  const StateShape s = detail::state_shape("store_rows", x, rows, cache);
  store_rows(x.device(), s, rows.sequences.data(), rows.places().data(), x.data(), cache.entries.data());
}

/// y_r = entry[sequence_r][place_r]
///
/// returns [1, N, width]. No gradient.
template <typename T, typename D>
Tensor<T, D> gather_rows(const StateCache<T, D>& cache, const DecodeRows<D>& rows) {
  Tensor<T, D> y(cache.entries.device(), {1, rows.count(), cache.entries.shape().width()});
  const StateShape s = detail::state_shape("gather_rows", y, rows, cache);
  gather_rows(y.device(), s, rows.sequences.data(), rows.places().data(), cache.entries.data(), y.data());
  return y;
}

}  // namespace mtpx
