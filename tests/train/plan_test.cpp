#include <mtpx/train/plan.hpp>

#include "support/model.hpp"
#include "support/thread_ranks.hpp"

#include <cmath>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/plan.hpp");

namespace {

/// Layers without experts, or all with them.
Config sized(Index depth, bool experts) {
  Config c = experts ? mixture_config(depth) : dense_config(depth);
  c.vocab_size = 256;
  c.hidden_size = 64;
  c.intermediate_size = 160;
  c.max_position_embeddings = 64;
  return c;
}

Corpus text() {
  Corpus corpus;
  for (Index d = 0; d < 8; ++d) corpus.add(std::string(400, static_cast<char>('a' + d)), "d");
  return corpus;
}

struct Case {
  Config config;
  bool experts;
  TrainOptions options{.steps = 5};
  bool checkpointing = false, frozen = false;
  int ranks = 1;
};

struct Measured {
  std::size_t peak, reserved, state;
};

template <typename T>
auto prepare(const Case& c) {
  return [c](auto& model) {
    model.activation_checkpointing = c.checkpointing;
    if (c.frozen) model.freeze_main();
  };
}

constexpr Index plan_batch = 8, plan_seq = 48;

template <typename T>
TrainingPlan planned(const Case& c) {
  const Corpus corpus = text();
  const Batches batches(corpus,
                        {.batch = plan_batch, .seq = plan_seq, .depth = c.config.num_nextn_predict_layers});
  return plan_training<T>(
      Cpu(Planned{}, 2), c.config, c.options, batches,
      ValidationWindows(corpus, {.batch = plan_batch, .seq = plan_seq, .limit = 21}), prepare<T>(c),
      [](const auto&, const auto&) {}, c.ranks);
}

template <typename T>
Measured measured_by(const Case& c, const Group<Cpu>& group) {
  const Cpu& cpu = group.device();
  const Corpus corpus = text();
  const Batches batches(corpus,
                        {.batch = plan_batch, .seq = plan_seq, .depth = c.config.num_nextn_predict_layers});
  Transformer<T, Cpu> model(cpu, c.config);
  initialize(model, 1);
  prepare<T>(c)(model);
  Trainer<T, Cpu> trainer(model, c.options, batches, group);
  for (Index step = 0; step < 3; ++step) trainer.step();
  const std::size_t state = cpu.pool().bytes_in_use();
  evaluate(model, ValidationWindows(corpus, {.batch = plan_batch, .seq = plan_seq, .limit = 21}));
  return {cpu.peak_bytes(), cpu.reserved_bytes(), state};
}

/// By rank 0.
template <typename T>
Measured measured(const Case& c) {
  Measured first{};
  on_ranks(
      c.ranks, [] { return Cpu(2); },
      [&](const Group<Cpu>& group) {
        const Measured own = measured_by<T>(c, group);
        if (group.rank() == 0) first = own;
      });
  return first;
}

template <typename T>
void check(const Case& c) {
  const TrainingPlan plan = planned<T>(c);
  const Measured real = measured<T>(c);
  const auto near = [](std::size_t a, std::size_t b) {
    return std::abs(static_cast<double>(a) / static_cast<double>(b) - 1) < 0.03;
  };
  CHECK(plan.state() == real.state);
  CHECK(plan.state() + plan.step == plan.peak);
  CAPTURE(plan.reserved);
  CAPTURE(real.reserved);
  if (c.experts) {  // routers are not in balance
    CHECK(near(plan.peak, real.peak));
    CHECK(near(plan.reserved, real.reserved));
  } else {
    CHECK(plan.peak == real.peak);
    CHECK(plan.reserved == real.reserved);
  }
  CHECK(plan.parameters == c.config.parameter_count());
}

}  // namespace

TEST_CASE("plan_training: what is planned is what steps take") {
  for (const bool experts : {false, true}) {
    CAPTURE(experts);
    check<float>({sized(0, experts), experts});
    check<bf16>({sized(1, experts), experts});
    check<float>({sized(3, experts), experts});
    check<bf16>({sized(2, experts), experts, {.steps = 5, .accumulation = 3}});
    check<float>({.config = sized(1, experts), .experts = experts, .checkpointing = true});
    check<float>({.config = sized(1, experts), .experts = experts, .frozen = true});
    check<bf16>({.config = sized(1, experts),
                 .experts = experts,
                 .options = {.steps = 5, .accumulation = 4},
                 .ranks = 2});
    Config heads = sized(2, experts);
    heads.mtpx_heads = MtpHeads::parallel;
    check<float>({heads, experts});
  }
}

TEST_CASE("Planned: experts are chosen evenly, other kernels leave their results as they are") {
  const Cpu cpu(Planned{}, 1);
  const Tensor<float, Cpu> scores(cpu, {4, 3}), bias(cpu, {3}), weights(cpu, {4, 2});
  const Tensor<std::int32_t, Cpu> ids(cpu, {4, 2});
  route_forward(cpu, 4, {.n_experts = 3, .top_k = 2, .n_group = 1, .topk_group = 1}, scores.data(),
                bias.data(), ids.data(), weights.data());
  CHECK(ids.to_host() == std::vector<std::int32_t>{0, 1, 2, 0, 1, 2, 0, 1});
  scores.assign(std::vector<float>(12, 3));
  fill_value(cpu, 12, 7.0F, scores.data());
  set_zero(cpu, scores.data(), scores.bytes());
  CHECK(scores.at(3, 2) == 3);
}

TEST_CASE("plan_training: parts") {
  const Index depth = 2;
  const TrainingPlan whole = planned<bf16>({sized(depth, true), true});
  const auto numbers = static_cast<std::size_t>(whole.parameters);
  CHECK(whole.trained == whole.parameters);
  CHECK(whole.gradients == 4 * numbers);
  CHECK(whole.moments == 8 * numbers);
  REQUIRE(static_cast<Index>(whole.layers.size()) == sized(depth, true).num_layers());
  CHECK(whole.layers.back().name == "model.layers.4");
  const TrainingPlan inputs =
      planned<bf16>({.config = sized(depth, true), .experts = true, .checkpointing = true});
  const std::size_t row = sizeof(bf16) * static_cast<std::size_t>(plan_batch * plan_seq * 64);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(whole.layers[i].bytes > 4 * row);
    CHECK(inputs.layers[i].bytes < 2 * row);
  }
}

TEST_CASE("plan_stage: what is planned is what the stages of a pipeline take") {
  const Corpus corpus = text();
  const Config config = sized(2, false);
  const Batches batches(corpus, {.batch = plan_batch, .seq = plan_seq, .depth = 2});
  const TrainOptions options{.steps = 5, .accumulation = 4};
  const Layout layout = Layout::parse("Et|t|mmL");
  std::vector<std::size_t> taken(3);
  on_ranks(
      3, [] { return Cpu(2); },
      [&](const Group<Cpu>& stages) {
        const Cpu& cpu = stages.device();
        Transformer<float, Cpu> model(cpu, config, config.design(), layout.slice(stages.rank()));
        initialize(model, 1);
        Trainer<float, Cpu> trainer(model, options, batches, Group<Cpu>(cpu), stages);
        for (Index step = 0; step < 3; ++step) trainer.step();
        taken[static_cast<std::size_t>(stages.rank())] = cpu.peak_bytes();
      });
  for (Index stage = 0; stage < 3; ++stage) {
    const TrainingPlan plan =
        plan_stage<float>(Cpu(Planned{}, 2), config, options, batches, layout, stage, 1, [](const auto&) {});
    // But for the sums of squares of other stages, of which a plan hears nothing.
    const auto real = static_cast<double>(taken[static_cast<std::size_t>(stage)]);
    CHECK(std::abs(static_cast<double>(plan.peak) / real - 1) < 0.001);
    CHECK(plan.state() + plan.step == plan.peak);
  }
}

TEST_CASE("plan_training: a model of hundreds of gigabytes is planned in a moment") {
  Config c = sized(1, true);  // DeepSeek-V3's sizes but for the vocabulary and the number of experts
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.first_k_dense_replace = 3;
  c.n_routed_experts = 16;
  c.num_experts_per_tok = 8;
  const TrainingPlan plan = planned<bf16>({c, true});
  CHECK(plan.peak > std::size_t{18} * static_cast<std::size_t>(c.parameter_count()));
  CHECK(c.parameter_count() > 40'000'000'000);
  CHECK_THROWS_WITH_AS(plan_training<float>(Cpu(1), c, {}, Batches(text(), {}), ValidationWindows(text(), {}),
                                            prepare<float>({c, true}), [](const auto&, const auto&) {}),
                       "[plan] the device would do the work: make it with Planned{}", Error);
}
