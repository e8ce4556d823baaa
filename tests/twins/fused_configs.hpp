#pragma once
// Models whose decoding passes are fused on a GPU.

#include "support/model.hpp"

namespace mtpx::test {

/// Widths that the fused kernels take.
inline Config fused_config(bool mixture, bool low_rank) {
  Config c = mixture_config(2);
  c.vocab_size = 300;
  c.hidden_size = 192;
  c.intermediate_size = 320;
  c.moe_intermediate_size = 48;
  c.num_attention_heads = 9;
  c.q_lora_rank = low_rank ? 72 : 0;
  c.kv_lora_rank = 80;
  c.qk_nope_head_dim = 40;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 24;
  c.n_routed_experts = !mixture ? 0 : low_rank ? 36 : 12;  // more than a warp has lanes, or fewer
  c.n_group = 3;
  c.topk_group = 2;
  c.num_experts_per_tok = 4;
  c.first_k_dense_replace = 0;
  c.max_position_embeddings = 700;
  return c;
}

/// The same with heads too wide for a cluster of blocks.
inline Config wide_config(bool low_rank) {
  Config c = fused_config(true, low_rank);
  c.num_hidden_layers = 1;
  c.num_attention_heads = 3;
  c.qk_nope_head_dim = 184;
  return c;
}

/// The same with rows of weights that are read six loads deep, more outputs than a GPU has room for at once,
/// and heads enough for wider blocks of them.
inline Config long_config() {
  Config c = fused_config(true, false);
  c.num_hidden_layers = 1;
  c.num_nextn_predict_layers = 0;
  c.hidden_size = 1064;
  c.moe_intermediate_size = 1032;
  c.num_attention_heads = 136;
  c.n_routed_experts = 4;
  c.n_group = c.topk_group = 1;
  c.num_experts_per_tok = 2;
  return c;
}

/// A dense model whose layers one cluster of thread blocks holds, 16 of them or 8: several blocks in one
/// launch.   heads: two parts of the positions a head, one, or two and blocks without a head
inline Config cluster_config(Index heads, Index hidden) {
  Config c = fused_config(false, false);
  c.num_hidden_layers = 3;
  c.hidden_size = hidden;
  c.intermediate_size = 2 * hidden;
  c.num_attention_heads = heads;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.v_head_dim = 32;
  return c;
}

}  // namespace mtpx::test
