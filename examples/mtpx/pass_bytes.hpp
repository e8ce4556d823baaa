#pragma once

#include <mtpx/model/transformer.hpp>

#include <cmath>

namespace program {

/// Weights and cache entries that a pass of plain decoding reads.   rows: of the pass   entries: of all of
/// them Of routed experts as many as rows choose together that choose at random.
template <typename T, typename D>
double bytes_per_pass(const mtpx::Transformer<T, D>& model, mtpx::Index rows, mtpx::Index entries) {
  const mtpx::Config& c = model.config;
  double bytes =
      static_cast<double>(c.num_hidden_layers * entries * (c.kv_lora_rank + c.qk_rope_head_dim)) * sizeof(T);
  mtpx::for_each_parameter(model, [&](const std::string& name, const auto& parameter) {
    if (name.starts_with("model.embed_tokens") && !c.tie_word_embeddings) return;  // a row of it
    for (mtpx::Index k = 0; k < c.num_nextn_predict_layers; ++k) {
      if (name.starts_with(mtpx::cat("model.layers.", c.num_hidden_layers + k, '.'))) return;
    }
    const bool routed = name.find(".experts.") != std::string::npos;
    const double chosen =
        routed ? static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.n_routed_experts) : 1;
    bytes += (1 - std::pow(1 - chosen, static_cast<double>(rows))) * static_cast<double>(parameter.bytes());
  });
  return bytes;
}

}  // namespace program
