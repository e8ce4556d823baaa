#pragma once

#include <mtpx/decode/drafts.hpp>
#include <mtpx/ops/state_cache.hpp>

namespace mtpx {

/// What decoding keeps of several sequences, `capacity` positions of each: the latent caches of the trunk's
/// layers and, where drafts are wanted, of the MTP modules, with the carried states that those start from.
///
/// An entry is written when its token is decoded and overwritten when its position is decoded again. Dropping
/// refused drafts costs nothing: the caller goes on from an earlier position.
template <typename T, typename D>
struct KvCache {
  std::vector<LatentCache<T, D>> trunk;    ///< [num_hidden_layers]
  std::vector<LatentCache<T, D>> modules;  ///< [modules]; undefined where depths do not attend
  /// states[k]: carried states of depth k (0: the trunk), which module k + 1 reads; [modules]. Depths that do
  /// not chain all read states[0], the only one.
  std::vector<StateCache<T, D>> states;
  Index capacity = 0;  ///< positions per sequence

  template <Drafts M>
  KvCache(const M& model, Index sequences, Index positions, Index modules_wanted) : capacity(positions) {
    const Config& c = model.config;
    const auto entries = [&](Index width) {
      return Tensor<T, D>::zeros(model.device(), {sequences, positions, width});
    };
    const Index latent = c.kv_lora_rank + c.qk_rope_head_dim;
    for (Index i = 0; i < c.num_hidden_layers; ++i) trunk.push_back({entries(latent)});
    for (Index k = 0; k < modules_wanted; ++k) {
      modules.push_back({model.design.attends ? entries(latent) : Tensor<T, D>()});
      if (k == 0 || model.design.chains) states.push_back({entries(c.hidden_size)});
    }
  }
};

/// The rows of a decoding pass, put together on the host: which token, of which sequence, at which position.
/// Its memory is kept between passes.
struct RowList {
  /// [N] each: the token, whose it is, and where it stands
  std::vector<std::int32_t> tokens, sequences, positions;

  /// Forgets all rows and keeps the memory.
  void clear() {
    tokens.clear();
    sequences.clear();
    positions.clear();
  }
  /// Appends a row.
  void add(std::int32_t token, Index sequence, Index position) {
    tokens.push_back(token);
    sequences.push_back(static_cast<std::int32_t>(sequence));
    positions.push_back(static_cast<std::int32_t>(position));
  }
  /// N, rows so far.
  Index size() const { return static_cast<Index>(tokens.size()); }
};

/// Rows [begin, end) of a list on the device.
template <typename D>
DecodeRows<D> decode_rows(const D& device, const RowList& list, Index begin, Index end) {
  const auto part = [&](const std::vector<std::int32_t>& all) {
    return std::span(all).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  };
  return {Tensor<std::int32_t, D>::from(device, {end - begin}, part(list.sequences)),
          Tensor<std::int32_t, D>::from(device, {end - begin}, part(list.positions))};
}

/// Rows at positions [begin, begin + count) of one sequence.
template <typename D>
DecodeRows<D> decode_rows(const D& device, Index sequence, Index begin, Index count) {
  RowList list;
  for (Index p = begin; p < begin + count; ++p) list.add(0, sequence, p);
  return decode_rows(device, list, 0, count);
}

}  // namespace mtpx
