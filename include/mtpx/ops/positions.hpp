#pragma once
// Integers beside a batch of token windows: where rows stand, and what they predict. No gradients.

#include <mtpx/kernels.hpp>

namespace mtpx {

/// position_bt = t.   returns [B, T]
template <typename D>
Tensor<std::int32_t, D> row_positions(const D& device, Index batch, Index time) {
  Tensor<std::int32_t, D> positions(device, {batch, time});
  fill_positions(device, batch, time, 0, positions.data());
  return positions;
}

/// Distance of each token from the start of what it may attend to: its document or the window, whichever
/// begins later.
///
///   window_bt = min(position_bt, t)
///
/// positions: [B, T], of each token in its document, may be a slice of longer rows   returns [B, T]
template <typename D>
Tensor<std::int32_t, D> document_windows(const Tensor<std::int32_t, D>& positions) {
  Tensor<std::int32_t, D> window(positions.device(), positions.shape());
  window_positions(positions.device(), positions.rows(), positions.data(), window.data());
  return window;
}

/// What depth k predicts (DeepSeek-V3 Eq. 24): the token k + 1 ahead of each row, or -1 where that belongs to
/// another document than the row's own or is not to be learnt.
///
///   label_bi = token_b,i+k+1,  i < T - k
///
/// tokens: [B, T + 1] dense   positions: the same, of each token in its document; undefined: one document
/// counts: the same, 0 where a token is nobody's label; undefined: all count
/// returns [B, T - k]   Throws ShapeError.
template <typename D>
Tensor<std::int32_t, D> labels_ahead(const Tensor<std::int32_t, D>& tokens,
                                     const Tensor<std::int32_t, D>& positions,
                                     const Tensor<std::int32_t, D>& counts, Index k) {
  const auto alike = [&](const Tensor<std::int32_t, D>& x) {
    return !x.defined() || (x.shape() == tokens.shape() && x.row_stride() == tokens.row_stride());
  };
  require(
      tokens.shape().rank() == 2 && k >= 0 && k < tokens.shape()[1] - 1 && alike(positions) && alike(counts),
      "labels_ahead", "tokens, positions and counts are [B, T + 1] with T above k and rows equally far apart",
      {{"tokens", tokens}, {"positions", positions}, {"counts", counts}});
  Tensor<std::int32_t, D> labels(tokens.device(), {tokens.shape()[0], tokens.shape()[1] - 1 - k});
  shift_labels(tokens.device(), tokens.rows(), k, tokens.data(), positions.data_or_null(),
               counts.data_or_null(), labels.data());
  return labels;
}

}  // namespace mtpx
