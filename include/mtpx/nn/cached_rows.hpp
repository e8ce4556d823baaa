#pragma once

#include <mtpx/nn/block.hpp>

#include <span>

namespace mtpx {

/// Runs blocks over rows of one or several sequences against their caches, for decoding.
template <typename T, typename D>
struct CachedRows {
  using Output = typename Block<T, D>::Output;  ///< what run() returns

  const Tensor<std::int32_t, D>& ids;         ///< [1, N]: the tokens that the rows are made from
  const DecodeRows<D>& rows;                  ///< whose the rows are, and where they stand
  std::span<const LatentCache<T, D>> caches;  ///< of the layers from `first_layer` on
  Index first_layer;                          ///< number of the first of `caches`
  const RopeTable<acc_t<T>, D>& table;        ///< rotations of all positions

  /// The rows' tokens: a pass of depth k is given those k ahead.
  const Tensor<std::int32_t, D>& tokens(Index) const { return ids; }

  /// All rows of a state: in a decoding pass none is without a target.
  const Var<T, D>& front(const Var<T, D>& h, Index) const { return h; }

  /// x: [1, N, hidden]; appends to the layer's cache.
  Output run(Index layer, const Block<T, D>& block, const Var<T, D>& x) const {
    return {block.decode(x, table, rows, caches[static_cast<std::size_t>(layer - first_layer)]), {}};
  }
};

}  // namespace mtpx
