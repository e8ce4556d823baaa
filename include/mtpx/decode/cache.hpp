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
  /// [N] each: the token, whose it is, where it stands, where its entry does, and which state a depth reads
  std::vector<std::int32_t> tokens, sequences, positions, places, sources;
  std::vector<std::int32_t> paths;  ///< [N, 1 + depth], see TreePaths; empty where depth is 0
  Index depth = 0;                  ///< of the deepest branch among the rows; 0: no row is in a tree

  /// Forgets all rows and keeps the memory.   branch: depth of what comes
  void clear(Index branch = 0) {
    for (auto* all : {&tokens, &sequences, &positions, &places, &sources, &paths}) all->clear();
    depth = branch;
  }
  /// Appends a row, whose entry and state stand at its position.
  void add(std::int32_t token, Index sequence, Index position) {
    add(token, sequence, position, position, position);
  }
  /// Appends a row.
  void add(std::int32_t token, Index sequence, Index position, Index place, Index source) {
    tokens.push_back(token);
    sequences.push_back(static_cast<std::int32_t>(sequence));
    positions.push_back(static_cast<std::int32_t>(position));
    places.push_back(static_cast<std::int32_t>(place));
    sources.push_back(static_cast<std::int32_t>(source));
    if (depth == 0) return;
    paths.resize(static_cast<std::size_t>(size() * (1 + depth)));
    path_of_last()[0] = static_cast<std::int32_t>(position + 1);
  }
  /// The path of the row that was added last, [1 + depth]; at first that of a row without a tree.
  std::span<std::int32_t> path_of_last() {
    return std::span(paths).last(static_cast<std::size_t>(1 + depth));
  }
  /// N, rows so far.
  Index size() const { return static_cast<Index>(tokens.size()); }
  /// Whether rows [begin, end) are next to each other in one sequence, and where.
  PromptRows prompt(Index begin, Index end) const {
    const auto at = [](const std::vector<std::int32_t>& all, Index i) {
      return all[static_cast<std::size_t>(i)];
    };
    for (Index i = begin; i < end; ++i) {
      const bool next = at(sequences, i) == at(sequences, begin) &&
                        at(positions, i) == at(positions, begin) + i - begin &&
                        at(places, i) == at(positions, i);
      if (!next || depth > 0) return {};
    }
    return begin < end ? PromptRows{at(sequences, begin), at(positions, begin)} : PromptRows{};
  }
};

/// Rows [begin, end) of a list on the device.
template <typename D>
DecodeRows<D> decode_rows(const D& device, const RowList& list, Index begin, Index end) {
  const auto part = [&](const std::vector<std::int32_t>& all) {
    return std::span(all).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  };
  return {Tensor<std::int32_t, D>::from(device, {end - begin}, part(list.sequences)),
          Tensor<std::int32_t, D>::from(device, {end - begin}, part(list.positions)),
          {},
          {},
          list.prompt(begin, end)};
}

/// Rows at positions [begin, begin + count) of one sequence.
template <typename D>
DecodeRows<D> decode_rows(const D& device, Index sequence, Index begin, Index count) {
  RowList list;
  for (Index p = begin; p < begin + count; ++p) list.add(0, sequence, p);
  return decode_rows(device, list, 0, count);
}

}  // namespace mtpx
