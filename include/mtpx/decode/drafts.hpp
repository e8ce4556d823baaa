#pragma once
// What a model has to bring to draft and to check drafts.

#include <mtpx/model/draft_vocabulary.hpp>
#include <mtpx/mtp/module.hpp>
#include <mtpx/nn/cached_rows.hpp>
#include <mtpx/ops/next_token.hpp>

#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
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
///
/// It may have draft_ids(), too: the tokens that drafts are picked from, ascending; none: all. A draft then
/// reads the head's rows of these alone. What is written does not depend on it, as it depends on no draft.
template <typename M>
concept Drafts = requires(
    const M& model, Tape& tape, Index k, const Var<typename M::value_type, typename M::device_type>& h,
    const Tensor<std::int32_t, typename M::device_type>& tokens,
    const DecodeRows<typename M::device_type>& rows,
    const std::vector<LatentCache<typename M::value_type, typename M::device_type>>& caches) {
  { model.device() } -> std::convertible_to<const typename M::device_type&>;
  { (model.config) } -> std::same_as<const Config&>;
  { (model.design) } -> std::same_as<const MtpDesign&>;
  {
    model.decode(tape, tokens, rows, caches)
    } -> std::same_as<Hidden<typename M::value_type, typename M::device_type>>;
  {
    model.decode_mtp(tape, k, h, tokens, rows, caches[0])
    } -> std::same_as<Hidden<typename M::value_type, typename M::device_type>>;
  { model.head(k) } -> std::convertible_to<Weight<typename M::value_type, typename M::device_type>>;
};

/// Any such model, as what decodes holds it: so that is compiled once for T and D, whatever drafts. A view:
/// the model must outlive it.
template <typename T, typename D>
class DraftingModel {
  using Ids = Tensor<std::int32_t, D>;
  using Caches = std::vector<LatentCache<T, D>>;

 public:
  using value_type = T;   ///< of weights and activations
  using device_type = D;  ///< where they are

  const Config& config;     ///< the model's
  const MtpDesign& design;  ///< the model's

  /// Not explicit: what takes one takes every model that is one.
  template <Drafts M>
  requires(!std::same_as<M, DraftingModel>) DraftingModel(const M& model)
      : config(model.config),
        design(model.design),
        device_(model.device()),
        decode_([&model](Tape& tape, const Ids& tokens, const DecodeRows<D>& rows, const Caches& caches) {
          return model.decode(tape, tokens, rows, caches);
        }),
        decode_mtp_([&model](Tape& tape, Index k, const Var<T, D>& h, const Ids& tokens,
                             const DecodeRows<D>& rows, const LatentCache<T, D>& cache) {
          return model.decode_mtp(tape, k, h, tokens, rows, cache);
        }),
        head_([&model](Index k) -> Weight<T, D> { return model.head(k); }) {
    if constexpr (requires { std::span<const std::int32_t>(model.draft_ids()); }) {
      const std::span<const std::int32_t> ids(model.draft_ids());
      check_draft_ids(ids, config.vocab_size);
      draft_ids_.assign(ids.begin(), ids.end());
    }
  }

  /// Where it computes.
  const D& device() const { return device_; }
  /// The model's; see Drafts.
  Hidden<T, D> decode(Tape& tape, const Ids& tokens, const DecodeRows<D>& rows, const Caches& caches) const {
    return decode_(tape, tokens, rows, caches);
  }
  /// The model's; see Drafts.
  Hidden<T, D> decode_mtp(Tape& tape, Index k, const Var<T, D>& h, const Ids& tokens,
                          const DecodeRows<D>& rows, const LatentCache<T, D>& cache) const {
    return decode_mtp_(tape, k, h, tokens, rows, cache);
  }
  /// The model's; see Drafts.
  Weight<T, D> head(Index k) const { return head_(k); }
  /// What picks the drafts of depth k: that head, or a copy of its rows of draft_ids().
  TokenHead<T, D> draft_head(Index k) const {
    return draft_ids_.empty() ? TokenHead<T, D>(head(k)) : TokenHead<T, D>(head(k), draft_ids_);
  }

 private:
  D device_;
  std::vector<std::int32_t> draft_ids_;
  std::function<Hidden<T, D>(Tape&, const Ids&, const DecodeRows<D>&, const Caches&)> decode_;
  std::function<Hidden<T, D>(Tape&, Index, const Var<T, D>&, const Ids&, const DecodeRows<D>&,
                             const LatentCache<T, D>&)>
      decode_mtp_;
  std::function<Weight<T, D>(Index)> head_;
};

}  // namespace mtpx
