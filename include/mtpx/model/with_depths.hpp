#pragma once

#include <mtpx/model/transformer.hpp>

#include <map>

namespace mtpx {

/// A model with the main model of `from` and `depth` depths of the given design: to add drafting to a
/// finished model, or more of it. Depths that `from` has of the same design are kept, other ones are fresh
/// (see initialize()). Drafts are picked from the same tokens.
///
/// Throws ConfigError when the two do not go together.
template <typename T, typename D>
Transformer<T, D> with_depths(const Transformer<T, D>& from, Index depth, MtpHeads heads,
                              std::uint64_t seed) {
  Config config = from.config;
  config.set_depths(depth, heads);
  Transformer<T, D> to(from.device(), config);
  initialize(to, seed);
  to.draft_from(from.draft_ids());
  const auto main = [&config](const std::string& name) {
    for (Index k = 0; k < config.num_nextn_predict_layers; ++k) {
      if (name.starts_with(cat("model.layers.", config.num_hidden_layers + k, '.'))) return false;
    }
    return true;
  };
  const auto copy = [&](const auto& numbers) {
    using N = std::remove_cvref_t<decltype(numbers)>;
    for_each_tensor(to, [&](const std::string& name, const auto& tensor) {
      if constexpr (std::is_same_v<typename N::mapped_type, std::remove_cvref_t<decltype(tensor)>>) {
        const auto place = numbers.find(name);
        if (place == numbers.end() || (!main(name) && heads != from.config.mtpx_heads)) return;
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
