#pragma once

#include <mtpx/autograd/checkpoint.hpp>
#include <mtpx/nn/block.hpp>
#include <mtpx/ops/positions.hpp>

#include <utility>
#include <vector>

namespace mtpx {

/// Token windows on a device.
template <typename D>
struct Batch {
  using Numbers = Tensor<std::int32_t, D>;  ///< ids, positions or counts

  Numbers tokens;       ///< [B, T + 1]: T inputs, and the label of the last
  Numbers positions;    ///< [B, T + 1]: of each token in its document; undefined: one document
  bool mask_documents;  ///< attention stays inside documents, too
  Numbers counts;       ///< [B, T + 1]: 0 where a token is nobody's label; undefined: all count

  Batch(Numbers all, Numbers of_documents = {}, bool mask = false, Numbers counted = {})
      : tokens(std::move(all)),
        positions(std::move(of_documents)),
        mask_documents(mask),
        counts(std::move(counted)) {}

  /// B, windows.
  Index batch() const { return tokens.shape()[0]; }
  /// T, inputs of a window: one less than its tokens.
  Index time() const { return tokens.shape()[1] - 1; }
};

/// Runs blocks over whole windows, for training and scoring. Depth k has the T - k rows that have a target;
/// depth 0 is the main model. Model and table must live until backward is done.
template <typename T, typename D>
class Windows {
 public:
  using Output = typename Block<T, D>::Output;  ///< what run() returns

  /// checkpointing: keep block inputs only and run blocks again in backward   received: see received()
  Windows(const Batch<D>& batch, const RopeTable<acc_t<T>, D>& table, bool checkpointing,
          std::vector<Var<T, D>> received = {})
      : batch_(batch), table_(table), checkpointing_(checkpointing), received_(std::move(received)) {}

  /// [B, T - k], those k ahead of the rows.
  Tensor<std::int32_t, D> tokens(Index k) const { return batch_.tokens.narrow_last(k, batch_.time() - k); }

  /// For a slice of a model without the embedding, what came in its place: 0 the state behind the layer
  /// before, [B, T, hidden]; k the embeddings of the tokens k ahead, [B, T - k, hidden], for depth k.
  /// Undefined: it did not come.
  Var<T, D> received(Index k) const {
    const auto place = static_cast<std::size_t>(k);
    return place < received_.size() ? received_[place] : Var<T, D>();
  }

  /// The rows of a state that depth k reads.
  Var<T, D> front(const Var<T, D>& h, Index k) const { return take_front(h, batch_.time() - k); }

  /// A layer's block over the first positions, as many as x has.   x: [B, R, hidden]
  Output run(Index, const Block<T, D>& block, const Var<T, D>& x) {
    place(x.shape()[1]);
    const auto whole = [&block, table = &table_, positions = positions_,
                        window = window_](const Var<T, D>& in) {
      return block(in, [&](const Mla<T, D>& mla, const Var<T, D>& normed) {
        return mla(normed, *table, positions, window);
      });
    };
    if (!checkpointing_ || !x.tape()->recording()) return whole(x);
    auto [y, balance] = checkpoint(x, [whole](const Var<T, D>& in) {
      auto out = whole(in);
      // Undefined of a block without one, and in the first run of a tape without statistics: a zero of its
      // shape stands in.
      if (!out.balance.defined())
        out.balance = in.tape()->constant(Tensor<acc_t<T>, D>::zeros(in.device(), {1}));
      return std::tuple(out.y, out.balance);
    });
    if (!block.moe || block.moe->options.balance_alpha == 0) balance = {};
    return {y, balance};
  }

 private:
  /// Positions of the first `time` rows, and how far each may look back.
  void place(Index time) {
    if (positions_.defined() && positions_.shape()[1] == time) return;
    if (batch_.mask_documents && batch_.positions.defined()) {
      window_ = document_windows(batch_.positions.narrow_last(0, time));
      positions_ = window_;  // rotations count from the document's start; scores depend on differences only
    } else {
      positions_ = row_positions(batch_.tokens.device(), batch_.batch(), time);
    }
  }

  const Batch<D>& batch_;
  const RopeTable<acc_t<T>, D>& table_;
  bool checkpointing_;
  std::vector<Var<T, D>> received_;
  Tensor<std::int32_t, D> positions_, window_;  // [B, R], of the last run; window undefined: up to the start
};

}  // namespace mtpx
