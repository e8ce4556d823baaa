// Trains a small model for 20 steps, in float and in double, with one thread and with two, and writes every
// weight, loss and norm as it stands in memory. Built for several processors by several compilers, it writes
// the same bytes: compare.sh.
//
// Usage: train FILE

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/rng.hpp>
#include <mtpx/train/schedule.hpp>
#include <mtpx/train/step.hpp>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;

/// Latent queries, YaRN, a dense layer, then groups of experts with a shared one and a balance loss, two
/// depths. Widths that no register divides.
mtpx::Config small_config() {
  mtpx::Config c;
  c.vocab_size = 62;
  c.hidden_size = 44;
  c.intermediate_size = 70;
  c.moe_intermediate_size = 26;
  c.num_hidden_layers = 2;
  c.num_nextn_predict_layers = 2;
  c.num_attention_heads = 3;
  c.q_lora_rank = 21;
  c.kv_lora_rank = 19;
  c.qk_nope_head_dim = 13;
  c.qk_rope_head_dim = 10;
  c.v_head_dim = 11;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 1;
  c.aux_loss_alpha = 0.01;
  c.rope_scaling = mtpx::RopeScaling{4, 16, 2, 0.25, 1, 0.7};
  c.max_position_embeddings = 64;
  c.initializer_range = 0.05;
  return c;
}

/// Two documents a window, of tokens that repeat themselves.
mtpx::Batch<Cpu> batch(const Cpu& cpu, mtpx::Index windows, mtpx::Index time, std::uint64_t stream) {
  std::vector<std::int32_t> tokens, positions;
  for (mtpx::Index i = 0; i < windows * time; ++i) {
    const auto word = mtpx::Philox::block(1, stream, static_cast<std::uint64_t>(i / 3))[0] % 60;
    tokens.push_back(static_cast<std::int32_t>(word + static_cast<std::uint32_t>(i % 3)));
    const mtpx::Index t = i % time;
    positions.push_back(static_cast<std::int32_t>(t < time / 3 ? t : t - time / 3));
  }
  const mtpx::Shape shape{windows, time};
  return {mtpx::Tensor<std::int32_t, Cpu>::from(cpu, shape, tokens),
          mtpx::Tensor<std::int32_t, Cpu>::from(cpu, shape, positions), true};
}

/// All numbers of a run, as bytes.
template <typename T>
std::string run(int threads) {
  const Cpu cpu(threads);
  mtpx::Transformer<T, Cpu> model(cpu, small_config());
  mtpx::initialize(model, 1);
  mtpx::StepOptions options;
  options.loss.depth_weights = mtpx::exponential_weights(2, 0.7);
  const mtpx::LearningRate lr{.peak = 1e-2, .warmup = 5};
  const mtpx::LambdaSchedule lambda;
  const mtpx::Index steps = 20;
  mtpx::TrainStep<T, Cpu> step(model, {batch(cpu, 3, 38, 0), batch(cpu, 3, 38, 1)}, options);

  std::string bytes;
  const auto append = [&](const auto& tensor) {
    const auto numbers = tensor.to_host();
    bytes.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(numbers[0]));
  };
  for (mtpx::Index i = 0; i < steps; ++i) {
    step.set_lambda(lambda.at(options.loss.lambda, i, steps));
    step(lr.at(i, steps));
    append(step.losses());
    append(step.norm());
  }
  mtpx::for_each_tensor(model, [&](const std::string&, const auto& tensor) { append(tensor); });
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string one = run<float>(1) + run<double>(1);
  if (one != run<float>(2) + run<double>(2)) {
    std::puts("one and two threads train different weights");
    return 1;
  }
  std::ofstream(argv[1], std::ios::binary) << one;
  return 0;
}
