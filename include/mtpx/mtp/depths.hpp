#pragma once
// The depths one after the other: DeepSeek-V3 Eq. 21-23 for whole windows and for caches, for every design.

#include <mtpx/mtp/module.hpp>
#include <mtpx/ops/embedding.hpp>

#include <concepts>
#include <span>
#include <string>

namespace mtpx {

/// Which rows depths run over, and how these attend: Windows for training and scoring, CachedRows for
/// decoding.
template <typename W, typename T, typename D>
concept RunsBlocks = requires(W& way, Index i, const Block<T, D>& block, const Var<T, D>& x) {
  { way.tokens(i) } -> std::convertible_to<Tensor<std::int32_t, D>>;  // [B, R], those i ahead of R rows
  { way.front(x, i) } -> std::convertible_to<Var<T, D>>;  // the rows of a state that depth i reads
  { way.run(i, block, x) } -> std::same_as<typename Block<T, D>::Output>;  // the block of layer i
};

namespace detail {
/// What came in the place of an embedding, see Windows::received(), on this tape.
template <typename T, typename D, typename Way>
Var<T, D> received(Tape& tape, const Way& way, Index k) {
  Var<T, D> x;
  if constexpr (requires { way.received(k); }) x = way.received(k);
  if (!x.defined())
    throw Error("[model] a slice without the embedding runs on what the slice before it made");
  return tape.adopt(x);
}
}  // namespace detail

/// A model's depths, as its forward passes see them: a view, made for each pass.
template <typename T, typename D>
struct MtpDepths {
  const MtpDesign& design;                   ///< the model's
  std::span<const MtpModule<T, D>> modules;  ///< one for each depth, or one for all
  MtpShared<T, D> shared;                    ///< what they have of the main model
  bool detached = false;                     ///< nothing of the main model hears of the depths
  std::span<const std::string> layers{};     ///< names, of depth 1 first
  Index first_layer = 0;                     ///< number of depth 1's layer

  /// Module of depth k, from 1.
  const MtpModule<T, D>& module(Index k) const { return modules[design.module(k)]; }

  /// Depths first .. last (DeepSeek-V3 sec. 2.2; Gloeckle et al. 2024, sec. 2):
  ///
  ///   h^k = module_k(h^{k-1}, Emb(t_{i+k}))   chains: from the depth before     (Eq. 21-22)
  ///   h^k = module_k(z, ..)                   otherwise: all from the same state
  ///
  /// h: what depth `first` reads: what depth first - 1 carries or, where depths do not chain, the trunk's
  /// state   each(k, MtpModule::Output): what depth k gives; the output head is the caller's (Eq. 23)
  template <typename Way, typename Each>
  requires RunsBlocks<Way, T, D>
  void run(Tape& tape, Var<T, D> h, Index first, Index last, Way& way, const Each& each) const {
    for (Index k = first; k <= last; ++k) {
      const Tape::Scope scope(tape, layers[static_cast<std::size_t>(k - 1)]);
      const MtpModule<T, D>& depth = module(k);
      Var<T, D> e, m;
      if (design.reads_token) {
        const Weight<T, D>& table = depth.embed_tokens ? *depth.embed_tokens : shared.embed_tokens;
        e = table.defined() ? embedding<T, D>(tape, way.tokens(k), table)
                            : detail::received<T, D>(tape, way, k);
      }
      if (depth.markov) m = embedding<T, D>(tape, way.tokens(k), depth.markov->embed);
      const bool from_main = k == 1 || !design.chains;
      if (from_main && detached) h = tape.constant(h.value());
      const Var<T, D> from = way.front(h, k);
      const auto out = depth(from, e, m, shared, [&](const Block<T, D>& block, const Var<T, D>& x) {
        return way.run(first_layer + k - 1, block, x);
      });
      if (design.chains) h = out.hidden.carried;
      each(k, out);
    }
  }
};

}  // namespace mtpx
