#pragma once

#include <mtpx/nn/block.hpp>

#include <span>
#include <utility>
#include <vector>

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
    return {block.decode(x, table, rows, cache_of(layer)), {}};
  }

  /// Blocks of layers from `layer` on, one after the other: neighbours together, as far as they can be fused.
  Var<T, D> run_all(Index layer, std::span<const Block<T, D>> blocks,
                    Var<T, D> x) const requires fuses_decoding<T, D> {
    std::vector<DecodeBlock<T>> together;
    const auto run_those = [&] {
      x = decode_blocks<T, D>(x, together);
      together.clear();
    };
    for (const Block<T, D>& block : blocks) {
      together.push_back(block.decode_pass(table, rows, cache_of(layer)));
      if (!decode_fits(together.back())) {
        together.pop_back();
        run_those();
        x = run(layer, block, x).y;
      }
      ++layer;
    }
    run_those();
    return x;
  }

 private:
  const LatentCache<T, D>& cache_of(Index layer) const {
    return caches[static_cast<std::size_t>(layer - first_layer)];
  }
};

}  // namespace mtpx
