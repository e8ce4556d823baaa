#pragma once
// Small models whose weights show every mistake, and what most tests of whole models begin with.

#include <mtpx/model/loss.hpp>

#include "support/card.hpp"

#include <map>
#include <string>
#include <vector>

namespace mtpx::test {

/// Everything at once, as small as it goes: latent queries, YaRN with two mscales, one dense layer, then
/// mixtures with groups, a shared expert and a balance loss. No two widths are equal.
inline Config mixture_config(Index depth) {
  Config c;
  c.vocab_size = 11;
  c.hidden_size = 8;
  c.intermediate_size = 12;
  c.moe_intermediate_size = 3;
  c.num_hidden_layers = 3;
  c.num_nextn_predict_layers = depth;
  c.num_attention_heads = 2;
  c.q_lora_rank = 6;
  c.kv_lora_rank = 7;
  c.qk_nope_head_dim = 3;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 5;
  c.n_routed_experts = 6;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 1;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 1;
  c.aux_loss_alpha = 0.01;
  c.rope_theta = 100;
  c.rope_scaling = RopeScaling{4, 16, 2, 0.25, 1, 0.7};
  c.max_position_embeddings = 64;
  return c;
}

/// Plain rotary positions, queries without a latent, dense layers only.
inline Config dense_config(Index depth) {
  Config c = mixture_config(depth);
  c.num_hidden_layers = 2;
  c.q_lora_rank = 0;
  c.n_routed_experts = 0;
  c.rope_scaling.reset();
  return c;
}

/// Weights of the given standard deviation, gains between 1/2 and 3/2, router biases of both signs; all
/// exact in bf16, so that models of different types are the same model.
template <typename T, typename D>
void randomize(Transformer<T, D>& model, std::uint64_t seed, double deviation = 0.3) {
  std::uint64_t stream = 0;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    ++stream;
    std::vector<N> values;
    for (Index i = 0; i < tensor.size(); ++i) {
      const auto at = static_cast<std::uint64_t>(i);
      double value = deviation * normal(seed, stream, i);
      if (tensor.shape().rank() == 1) value = Philox::uniform(seed, stream, at) - 0.5;
      if (name.ends_with("norm.weight")) value += 1;
      values.push_back(N(static_cast<float>(bf16(static_cast<float>(value)))));
    }
    tensor.assign(values);
  });
}

/// A random model on the device that tests share.
template <typename T = double, typename D = Device>
Transformer<T, D> random_model(const Config& config, std::uint64_t seed, double deviation = 0.3) {
  Transformer<T, D> model(device<D>(), config);
  randomize(model, seed, deviation);
  return model;
}

/// [batch, time + 1] random tokens of one document.
template <typename D = Device>
Batch<D> random_batch(Index batch, Index time, Index vocab, std::uint64_t stream = 5) {
  return {random_ids<D>({batch, time + 1}, stream, 0, vocab), {}, false};
}

/// All gradients by parameter name; an empty entry where there is none.
template <typename T, typename D>
std::map<std::string, Numbers> gradients(Transformer<T, D>& model) {
  std::map<std::string, Numbers> all;
  for_each_parameter(model,
                     [&](const std::string& name, auto& parameter) { all[name] = host(parameter.grad()); });
  return all;
}

inline void check_close(const std::map<std::string, Numbers>& got, const std::map<std::string, Numbers>& want,
                        double bound) {
  REQUIRE(got.size() == want.size());
  for (const auto& [name, numbers] : got) check_close(numbers, want.at(name), bound, name);
}

inline void check_bits(const std::map<std::string, Numbers>& got,
                       const std::map<std::string, Numbers>& want) {
  REQUIRE(got.size() == want.size());
  for (const auto& [name, numbers] : got) check_bits(numbers, want.at(name), name);
}

/// The text of the Kind that `action` throws; "" if it throws nothing.
template <typename Kind, typename Action>
std::string error_text(const Action& action) {
  try {
    action();
  } catch (const Kind& error) {
    return error.what();
  }
  return "";
}

}  // namespace mtpx::test
