// The whole model on both devices, training on both, and steps that a GPU has recorded.

#include <mtpx/model/backward.hpp>
#include <mtpx/train/corpus_files.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"
#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: model");

namespace {

/// With the widths of heads and experts that GPUs have kernels of their own for.
Config wide_config() {
  Config c = mixture_config(2);
  c.vocab_size = 1000;
  c.hidden_size = 256;
  c.intermediate_size = 256;
  c.moe_intermediate_size = 64;
  c.num_hidden_layers = 2;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 8;
  c.rope_theta = 10000;
  c.rope_scaling.reset();
  c.max_position_embeddings = 128;
  return c;
}

struct Case {
  Config config;
  Index batch, time;
  double deviation;
};
std::vector<Case> cases() {
  Config parallel = mixture_config(2);
  parallel.mtpx_heads = MtpHeads::parallel;
  Config tied = mixture_config(2);
  tied.tie_word_embeddings = true;
  tied.mtpx_own_embeddings = {2};
  tied.mtpx_own_heads = {1};
  Config v2 = mixture_config(2);
  v2.scoring_func = ScoringFunc::softmax;
  v2.norm_topk_prob = false;
  return {{mixture_config(2), 2, 30, 0.3}, {v2, 3, 40, 0.3},       {tied, 3, 40, 0.3},
          {mixture_config(2), 3, 40, 0.3}, {parallel, 3, 40, 0.3}, {wide_config(), 2, 100, 0.05}};
}

struct Pass {
  Numbers losses;
  std::map<std::string, Numbers> gradients;

  /// All gradients as one vector.
  Numbers all() const {
    Numbers numbers;
    for (const auto& [name, g] : gradients) numbers.insert(numbers.end(), g.begin(), g.end());
    return numbers;
  }
};

template <typename T, typename D>
Pass train(const Case& c) {
  const AllDigits digits;
  auto model = random_model<T, D>(c.config, 1, c.deviation);
  const auto batch = random_batch<D>(c.batch, c.time, c.config.vocab_size);
  poison_free_memory(device<D>());
  const auto loss = mtp_backward(model, batch);
  Pass pass;
  for (const auto& depth : loss.depths) pass.losses.push_back(host(depth.loss.value())[0]);
  pass.losses.push_back(host(loss.total.value())[0]);
  pass.gradients = gradients(model);
  return pass;
}

Corpus text(Index length) {
  std::string one;
  for (Index i = 0; i < length; ++i)
    one += static_cast<char>('a' + Philox::block(3, 3, static_cast<std::uint64_t>(i))[0] % 16);
  return Corpus::from_text(one);
}

Config byte_config() {
  Config c = mixture_config(2);
  c.vocab_size = 256;
  return c;
}

TrainOptions options() {
  return {.steps = 10,
          .accumulation = 2,
          .lr = {.peak = 1e-2, .warmup = 2},
          .lambda = {0.2, 0.45},
          .step = {.loss = {{.lambda = 0.7}}}};
}

Batches batches() { return Batches(text(3000), {.batch = 4, .seq = 24, .seed = 1337, .depth = 2}); }

template <typename T, typename D>
std::map<std::string, Numbers> weights(const Transformer<T, D>& model) {
  std::map<std::string, Numbers> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
  return all;
}

}  // namespace

TEST_CASE("twins: losses and all gradients of the whole model") {
  for (const Case& c : cases()) {
    CAPTURE(c.config.hidden_size);
    const Pass reference = train<double, Cpu>(c), in_double = train<double, Cuda>(c);
    const Pass host_float = train<float, Cpu>(c), got = train<float, Cuda>(c);
    const bool few = c.batch * c.time <= 64;  // then products have another order
    check_close(in_double.losses, reference.losses, few ? double_bound : no_difference<double>(),
                "losses in double");
    check_close(got.losses, host_float.losses, few ? float_bound : no_difference<float>(), "losses");
    // Some twenty ops in a row: ten times what one may be off.
    check_close(in_double.gradients, reference.gradients,
                10 * (few ? double_bound : no_difference<double>()));
    check_close(got.gradients, host_float.gradients, 10 * (few ? float_bound : no_difference<float>()));

    // In bf16 both devices round, though not the same sums: neither is right. The GPU is not further from the
    // truth than the host is. (A token whose router wavers takes other experts there, on either side.)
    const double host_error = relative_error(train<bf16, Cpu>(c).all(), reference.all());
    const double error = relative_error(train<bf16, Cuda>(c).all(), reference.all());
    std::printf("twins model of width %d: bf16 gradients %.1e from double, the host's %.1e\n",
                static_cast<int>(c.config.hidden_size), error, host_error);
    CHECK(error <= 1.5 * host_error);
  }
}

TEST_CASE("twins: the losses of a training run, step by step, and the weights after it") {
  const TrainOptions o = options();
  auto on_gpu_model = random_model<float, Cuda>(byte_config(), 1),
       again = random_model<float, Cuda>(byte_config(), 1);
  auto on_host = random_model<float, Cpu>(byte_config(), 1);
  Trainer<float, Cuda> gpu(on_gpu_model, o, batches()), second(again, o, batches());
  Trainer<float, Cpu> cpu(on_host, o, batches());
  for (int step = 0; step < 10; ++step) {
    CAPTURE(step);
    const StepReport got = gpu.step(), same = second.step(), want = cpu.step();
    const auto check_equal = [&](const StepReport& other) {
      CHECK(got.loss == other.loss);
      CHECK(got.total == other.total);
      CHECK(got.gradient_norm == other.gradient_norm);
    };
    check_equal(same);
    if (host_fuses()) check_equal(want);
  }
  check_bits(weights(again), weights(on_gpu_model));
  if (host_fuses()) check_bits(weights(on_host), weights(on_gpu_model));
}

TEST_CASE_TEMPLATE("twins: a recorded step is the step, bit for bit, and allocates nothing", T, float, bf16) {
  const TrainOptions o = options();
  const Batches data = batches();
  const Cuda own;
  const auto model_of = [&] {
    Transformer<T, Cuda> model(own, byte_config());
    randomize(model, 1);
    return model;
  };
  Transformer<T, Cuda> recorded = model_of(), by_hand = model_of();
  Trainer<T, Cuda> trainer(recorded, o, data);
  AdamW<T, Cuda> optimizer(o.step.adamw);
  GradientSums<T, Cuda> sums;
  std::size_t warm = 0;
  for (Index step = 0; step < o.steps; ++step) {
    CAPTURE(step);
    const StepReport report = trainer.step();
    MtpLossOptions of_loss = o.step.loss;
    of_loss.lambda = o.lambda.at(of_loss.lambda, step, o.steps);
    Numbers total;
    for (Index micro = 0; micro < o.accumulation; ++micro) {
      const auto loss =
          mtp_backward(by_hand, upload(own, data.at(step * o.accumulation + micro)), of_loss, 0.5);
      sums.add(by_hand);
      total.push_back(host(loss.total.value())[0]);
    }
    sums.finish(by_hand);
    const auto clip = clip_norm(by_hand, o.step.clip);
    optimizer.step(by_hand, clip, o.lr.at(step, o.steps));
    by_hand.update_bias(o.step.bias_update_speed, clip.scale.data());
    CHECK(report.total == 0.5 * total[0] + 0.5 * total[1]);
    CHECK(report.gradient_norm == host(clip.norm)[0]);
    // lambda changes in step 5: the function runs in steps 0, 1, 5 and 6.
    if (step == 6) warm = own.allocations();
    if (step > 6) CHECK(own.allocations() == warm);
  }
  check_bits(weights(recorded), weights(by_hand));
}

TEST_SUITE_END();

// Not among the twins that a memory checker runs: it takes as long as the host takes to train.
TEST_SUITE_BEGIN("curve");

TEST_CASE("curve: 50 steps of training the preset tiny on this repository's text") {
  TrainOptions o;  // of `mtpx train --preset tiny --steps 200`
  o.steps = 200;
  o.lr.peak = 3e-3;
  o.lr.warmup = 20;
  constexpr std::uint64_t seed = 1337;
  const Config config = preset("tiny");
  const Index depth = config.num_nextn_predict_layers;
  const Batches data(
      read_corpus({"docs", "examples", "include", "tests"}).split(0.1, Batches::minimum(256, depth)).train,
      {.seed = seed, .depth = depth});
  const auto losses = [&]<typename T, typename D>(T, const D& on) {
    Transformer<T, D> model(on, config);
    initialize(model, seed);
    Trainer<T, D> trainer(model, o, data);
    Numbers all;
    for (int step = 0; step < 50; ++step) {
      for (const double loss : trainer.step().loss) all.push_back(loss);
    }
    return all;
  };
  const auto compare = [&]<typename T>(T zero, const char* type) {
    const Numbers want = losses(zero, Cpu()), got = losses(zero, Cuda());
    double worst = 0;
    std::size_t equal = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - want[i]) / std::abs(want[i]));
      equal += got[i] == want[i] ? 1 : 0;
    }
    std::printf("curve in %s: %zu of %zu losses equal, the others at most %.1e apart\n", type, equal,
                want.size(), worst);
    CHECK(worst <= (host_fuses() ? 0 : 1e-4));
  };
  compare(0.0F, "float");
  compare(0.0, "double");
}

TEST_SUITE_END();
