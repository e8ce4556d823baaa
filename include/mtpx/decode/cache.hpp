#pragma once

#include <mtpx/model/transformer.hpp>

namespace mtpx {

/// The latent caches of a model: one per trunk layer and one per MTP module. An entry is written when its
/// token is decoded and overwritten when that position is decoded again: dropping refused drafts costs
/// nothing, the caller only goes on from an earlier position.
template <typename T, typename D>
struct KvCache {
  std::vector<LatentCache<T, D>> trunk;    ///< [num_hidden_layers]
  std::vector<LatentCache<T, D>> modules;  ///< [num_nextn_predict_layers]
  Index capacity = 0;                      ///< positions per sequence

  KvCache(const Transformer<T, D>& model, Index sequences, Index positions) : capacity(positions) {
    const Index width = model.config.kv_lora_rank + model.config.qk_rope_head_dim;
    const auto make = [&] {
      return LatentCache<T, D>{Tensor<T, D>::zeros(model.device(), {sequences, positions, width})};
    };
    for (std::size_t i = 0; i < model.layers.size(); ++i) trunk.push_back(make());
    for (std::size_t i = 0; i < model.mtp.size(); ++i) modules.push_back(make());
  }
};

/// Rows at positions [begin, begin + count) of one sequence.
template <typename D>
DecodeRows<D> decode_rows(const D& device, Index sequence, Index begin, Index count) {
  DecodeRows<D> rows{Tensor<std::int32_t, D>(device, {count}), Tensor<std::int32_t, D>(device, {count})};
  const std::vector<std::int32_t> sequences(static_cast<std::size_t>(count),
                                            static_cast<std::int32_t>(sequence));
  rows.sequences.assign(sequences);
  fill_positions(device, 1, count, begin, rows.positions.data());
  return rows;
}

}  // namespace mtpx
