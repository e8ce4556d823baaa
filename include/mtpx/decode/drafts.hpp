#pragma once
// What a model has to bring to draft and to check drafts.

#include <mtpx/model/config.hpp>
#include <mtpx/mtp/module.hpp>
#include <mtpx/nn/cached_rows.hpp>

#include <concepts>
#include <cstdint>
#include <vector>

namespace mtpx {

/// A model that Speculator decodes with. Transformer is one; a program's own design (a drafter on a trunk,
/// say) is another when it has these. Depth 0 is the main model, which alone decides what is written; depths
/// 1 .. D = config.num_nextn_predict_layers draft. Rows are those of several sequences, [1, N], as Speculator
/// packs them, and what a model says about one may not depend on the rows beside it, or text would depend on
/// drafts.
///
///   value_type, device_type   T and D
///   device()                  where it computes
///   config                    vocab_size, hidden_size, max_position_embeddings, num_nextn_predict_layers;
///                             num_hidden_layers caches of kv_lora_rank + qk_rope_head_dim numbers a position
///   design                    chains: depth k reads what depth k - 1 carries, and the last can run again on
///   its
///                             own output; reads_token: and the token k ahead; attends: it has such a cache,
///                             too
///   decode(..)                the trunk over rows: appends to its caches; carried: what depth 1 reads
///   decode_mtp(.., k, h, ..)  depth k over rows, from the states h [1, N, hidden] that it reads
///   head(k)                   [vocab, hidden], what turns depth k's normed state into logits
template <typename M>
concept Drafts = requires(
    const M& model, Tape& tape, Index k, const Var<typename M::value_type, typename M::device_type>& h,
    const Tensor<std::int32_t, typename M::device_type>& tokens,
    const DecodeRows<typename M::device_type>& rows,
    const std::vector<LatentCache<typename M::value_type, typename M::device_type>>& caches) {
  { model.device() } -> std::convertible_to<const typename M::device_type&>;
  { model.config } -> std::convertible_to<const Config&>;
  { model.design } -> std::convertible_to<const MtpDesign&>;
  {
    model.decode(tape, tokens, rows, caches)
    } -> std::same_as<Hidden<typename M::value_type, typename M::device_type>>;
  {
    model.decode_mtp(tape, k, h, tokens, rows, caches[0])
    } -> std::same_as<Hidden<typename M::value_type, typename M::device_type>>;
  { model.head(k) } -> std::convertible_to<Weight<typename M::value_type, typename M::device_type>>;
};

}  // namespace mtpx
