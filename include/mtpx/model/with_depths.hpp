#pragma once

#include <mtpx/model/transformer.hpp>

#include <map>

namespace mtpx {

/// A model with the main model of `from` and `depth` depths of the given design: to add drafting to a
/// finished model, or more of it. Depths that `from` has of the same design are kept, other ones are fresh
/// (see initialize()). Drafts are picked from the same tokens.
///
/// copied: new modules are copies of the last one of `from`, which is a better start than a fresh one; and
/// sequential modules are kept as repeated ones, or the other way round (exchangeable())
///
/// markov_rank: of the bias from the token before, whose weights are fresh where it is another one; below 0:
/// as it is
///
/// Throws ConfigError when the two do not go together.
template <typename T, typename D>
Transformer<T, D> with_depths(const Transformer<T, D>& from, Index depth, MtpHeads heads, std::uint64_t seed,
                              bool copied = false, Index markov_rank = -1) {
  Config config = from.config;
  config.set_depths(depth, heads, copied);
  if (markov_rank >= 0) config.mtpx_markov_rank = markov_rank;
  const bool kept =
      heads == from.config.mtpx_heads || (copied && exchangeable(heads, from.config.mtpx_heads));
  const Index last = from.config.num_mtp_modules();
  Transformer<T, D> to(from.device(), config);
  initialize(to, seed);
  to.draft_from(from.draft_ids());
  // What a tensor begins as: the name of one of `from`, which may have none of it.
  const auto source = [&](const std::string& name) {
    const auto layer = [&](Index k) { return cat("model.layers.", config.num_hidden_layers + k, '.'); };
    for (Index k = 0; k < config.num_nextn_predict_layers; ++k) {
      const std::string own = layer(k);
      if (!name.starts_with(own)) continue;
      if (!kept) return std::string();
      return k < last || !copied ? name : layer(last - 1) + name.substr(own.size());
    }
    return name;
  };
  const auto copy = [&](const auto& numbers) {
    using N = std::remove_cvref_t<decltype(numbers)>;
    for_each_tensor(to, [&](const std::string& name, const auto& tensor) {
      if constexpr (std::is_same_v<typename N::mapped_type, std::remove_cvref_t<decltype(tensor)>>) {
        const auto place = numbers.find(source(name));
        if (place == numbers.end() || place->second.shape() != tensor.shape()) return;
        tensor.assign(place->second.to_host());
      }
    });
  };
  std::map<std::string, Tensor<T, D>> weights;
  std::map<std::string, Tensor<acc_t<T>, D>> exact;  // gains, routers: in the accumulation type
  for_each_tensor(from, [&](const std::string& name, const auto& tensor) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(tensor)>, Tensor<T, D>>) weights[name] = tensor;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(tensor)>, Tensor<acc_t<T>, D>>)
      exact[name] = tensor;
  });
  copy(weights);
  if constexpr (!std::is_same_v<T, acc_t<T>>) copy(exact);
  return to;
}

}  // namespace mtpx
