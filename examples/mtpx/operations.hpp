#pragma once

#include <mtpx/model/config.hpp>

#include <algorithm>

namespace program {

/// Operations of one layer for a step, depths' layers included, which are counted behind the trunk's: 2 a
/// multiply-add, three products (output, two gradients) per weight that a token meets, hence 6 N of the
/// active parameters (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1), and causal attention's two products
/// forward and five backward (scores are computed again). What is run a second time to save memory is not
/// counted, as in the model FLOPs utilisation of Chowdhery et al. 2022 (arXiv 2204.02311, app. B).
///
/// main_frozen: of the main model, whose weights stay, the outputs alone
inline double layer_operations(const mtpx::Config& c, mtpx::Index layer, mtpx::Index batch, mtpx::Index seq,
                               bool main_frozen = false) {
  const auto f = [](mtpx::Index n) { return static_cast<double>(n); };
  const double d = f(c.hidden_size), heads = f(c.num_attention_heads), qk = f(c.qk_head_dim()),
               v = f(c.v_head_dim);
  double attention = d * f(c.kv_lora_rank + c.qk_rope_head_dim) +
                     f(c.kv_lora_rank) * heads * (f(c.qk_nope_head_dim) + v) + heads * v * d;
  attention += c.q_lora_rank > 0 ? d * f(c.q_lora_rank) + f(c.q_lora_rank) * heads * qk : d * heads * qk;
  const mtpx::MtpDesign design = c.design();
  const mtpx::Index k = std::max<mtpx::Index>(0, layer - c.num_hidden_layers + 1);
  const bool frozen = main_frozen && k == 0;
  const double rows = f(batch * (seq - k)), each = frozen ? 2 : 6;
  const double ffn = c.is_moe(layer)
                         ? d * f(c.n_routed_experts) + 3 * d * f(c.moe_intermediate_size) *
                                                           f(c.num_experts_per_tok + c.n_shared_experts)
                         : 3 * d * f(c.intermediate_size);
  double total = k > 0 ? each * rows * d * f(design.markov_rank) : 0;
  if (k > 0 && design.reads_token) total += each * rows * 2 * d * d;
  if (k > 0 && !design.attends) return total + each * rows * d * d;
  total += each * rows * (attention + ffn);
  // Half of 2 * 2 by causality: (2 + 5) products.
  return total + rows * f(seq - k) * heads * (frozen ? qk + v : 3 * qk + 2 * v + qk + v);
}

/// The same of the output head as depth k (0: the main model) uses it.   main_frozen: what depths need
inline double head_operations(const mtpx::Config& c, mtpx::Index k, mtpx::Index batch, mtpx::Index seq,
                              bool main_frozen = false) {
  const double each = !main_frozen ? 6 : k == 0 ? 2 : 4;
  return each * static_cast<double>(batch * (seq - k)) * static_cast<double>(c.hidden_size) *
         static_cast<double>(c.vocab_size);
}

/// Operations of one step, for `bench` and for the share of the peak that a training shows.
inline double operations(const mtpx::Config& c, mtpx::Index batch, mtpx::Index seq,
                         bool main_frozen = false) {
  double total = 0;
  for (mtpx::Index layer = 0; layer < c.num_layers(); ++layer)
    total += layer_operations(c, layer, batch, seq, main_frozen);
  for (mtpx::Index k = 0; k <= c.num_nextn_predict_layers; ++k)
    total += head_operations(c, k, batch, seq, main_frozen);
  return total;
}

}  // namespace program
