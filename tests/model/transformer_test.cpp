#include <mtpx/train/adamw.hpp>

#include "support/model.hpp"

#include <set>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/model/transformer.hpp");

namespace {

using Model = Transformer<double, Device>;

/// Loss of every depth and all gradients.
struct TrainPass {
  Numbers losses;
  std::map<std::string, Numbers> gradients;
};

TrainPass train(Model& model, const Batch<Device>& batch, const MtpLossOptions& options = {}) {
  model.zero_grad();
  Tape tape;
  const auto loss = mtp_loss(model, model(tape, batch), batch, options);
  tape.backward(loss.total);
  TrainPass pass;
  for (const auto& depth : loss.depths) pass.losses.push_back(host(depth.loss.value())[0]);
  pass.losses.push_back(host(loss.total.value())[0]);
  pass.gradients = gradients(model);
  return pass;
}

/// Normed states of every depth, [k][batch * (time - k) * hidden].
std::vector<Numbers> states(const Model& model, const Batch<Device>& batch) {
  Tape tape(Mode::inference);
  std::vector<Numbers> all;
  for (const auto& normed : model(tape, batch).normed) all.push_back(host(normed.value()));
  return all;
}

/// Large enough that every kernel has several tasks.
Config wide_config() {
  Config c = mixture_config(2);
  c.hidden_size = 96;
  c.intermediate_size = 160;
  c.moe_intermediate_size = 64;
  c.num_attention_heads = 4;
  c.q_lora_rank = 40;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 24;
  c.vocab_size = 300;
  return c;
}

template <typename T, typename D>
std::map<std::string, Numbers> tensors(const Transformer<T, D>& model) {
  std::map<std::string, Numbers> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
  return all;
}

}  // namespace

TEST_CASE("Transformer: the published names, all of them, in order") {
  Config c = mixture_config(2);
  c.num_hidden_layers = 2;
  c.n_routed_experts = 4;
  const std::string attention =
      "self_attn.q_a_proj.weight self_attn.q_a_layernorm.weight self_attn.q_b_proj.weight "
      "self_attn.kv_a_proj_with_mqa.weight self_attn.kv_a_layernorm.weight self_attn.kv_b_proj.weight "
      "self_attn.o_proj.weight ";
  const std::string dense = "mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight ";
  std::string mixture = "mlp.gate.weight mlp.gate.e_score_correction_bias ";
  for (const std::string part : {"gate_proj", "up_proj", "down_proj"}) {
    for (int e = 0; e < 4; ++e) mixture += cat("mlp.experts.", e, '.', part, ".weight ");
  }
  for (const std::string part : {"gate_proj", "up_proj", "down_proj"})
    mixture += cat("mlp.shared_experts.", part, ".weight ");
  const auto layer = [&](int index, const std::string& parts) {
    std::string text;
    std::istringstream words(parts);
    for (std::string word; words >> word;) text += cat("model.layers.", index, '.', word, '\n');
    return text;
  };
  const auto block = [&](const std::string& mlp) {
    return cat("input_layernorm.weight ", attention, "post_attention_layernorm.weight ", mlp);
  };
  std::string want = "model.embed_tokens.weight\n";
  want += layer(0, block(dense));
  want += layer(1, block(mixture));
  want += "model.norm.weight\nlm_head.weight\n";
  for (const int index : {2, 3}) {  // module k stands at layer num_hidden_layers + k, and is a mixture
    want += layer(
        index, cat("enorm.weight hnorm.weight eh_proj.weight ", block(mixture), "shared_head.norm.weight"));
  }
  const Model model = random_model(c, 1);
  std::string got;
  for_each_tensor(model, [&](const std::string& name, const auto&) { got += name + '\n'; });
  CHECK(got == want);
}

TEST_CASE("Transformer: modules are mixtures or dense as their layer index says") {
  Config c = mixture_config(2);
  c.first_k_dense_replace = 4;  // the trunk and the first module
  const Model model(device(), c);
  CHECK(model.layers[2].mlp.has_value());
  CHECK(model.mtp[0].block->mlp.has_value());
  CHECK(model.mtp[1].block->moe.has_value());
}

TEST_CASE("Transformer: norms have the model's epsilon, latent norms their own, scores YaRN's scale") {
  Config c = mixture_config(1);
  c.rms_norm_eps = 0.125;
  const Model model(device(), c);
  CHECK(model.norm.eps == 0.125);
  CHECK(model.layers[0].input_layernorm.eps == 0.125);
  CHECK(model.mtp[0].input->enorm.eps == 0.125);
  CHECK(model.mtp[0].norm->eps == 0.125);
  CHECK(model.layers[0].self_attn.kv_a_layernorm.eps == 1e-6);
  CHECK(model.layers[0].self_attn.options.scale == attention_scale(7, c.rope_scaling));
  CHECK(model.mtp[0].block->self_attn.options.scale == attention_scale(7, c.rope_scaling));
}

TEST_CASE("initialize: numbers depend on the seed and the published name alone") {
  Config c = mixture_config(2);
  Model two(device(), c);
  initialize(two, 7);
  const auto want = tensors(two);

  c.num_nextn_predict_layers = 1;
  Model one(device(), c);
  initialize(one, 7);
  for (const auto& [name, numbers] : tensors(one)) check_bits(numbers, want.at(name), name);

  c.n_routed_experts = 4;
  Transformer<float, Device> narrow(device(), c);
  initialize(narrow, 7);
  for (const auto& [name, numbers] : tensors(narrow)) {
    if (numbers.size() == want.at(name).size()) check_close(numbers, want.at(name), 1e-7, name);
  }
  Model other(device(), mixture_config(2));
  initialize(other, 8);
  const auto others = tensors(other);
  CHECK(others.at("lm_head.weight") != want.at("lm_head.weight"));

  // No two matrices begin alike.
  std::set<double> firsts;
  Index matrices = 0;
  for (const auto& [name, numbers] : want) {
    if (name.find("norm") != std::string::npos) {
      CHECK(numbers == Numbers(numbers.size(), 1.0));
    } else if (name.ends_with("bias")) {
      CHECK(numbers == Numbers(numbers.size(), 0.0));
    } else {
      firsts.insert(numbers[0]);
      ++matrices;
    }
  }
  CHECK(static_cast<Index>(firsts.size()) == matrices);
}

TEST_CASE("initialize: normal with the configured deviation") {
  Config c = dense_config(0);
  c.vocab_size = 4000;
  c.initializer_range = 0.05;
  Model model(device(), c);
  initialize(model, 1);
  double sum = 0, squares = 0;
  const Numbers x = host(model.embed_tokens.value());
  for (const double value : x) {
    sum += value;
    squares += value * value;
  }
  const auto count = static_cast<double>(x.size());
  CHECK(std::abs(sum / count) < 4 * 0.05 / std::sqrt(count));
  CHECK(std::sqrt(squares / count) == doctest::Approx(0.05).epsilon(0.02));
}

TEST_CASE("Transformer: at the start every depth's loss is about ln(vocabulary)") {
  Config c = wide_config();
  c.initializer_range = 0.006;
  Model model(device(), c);
  initialize(model, 3);
  const TrainPass pass = train(model, random_batch(2, 40, 300));
  for (std::size_t k = 0; k <= 2; ++k)
    CHECK(pass.losses[k] == doctest::Approx(std::log(300.0)).epsilon(0.01));
}

TEST_CASE("Transformer: the same bits of losses and all gradients at 1, 2 and 3 threads, and in every run") {
  Config c = wide_config();
  Model model = random_model(c, 1, 0.1);
  const auto batch = random_batch(3, 40, 300);
  const TrainPass one = train(model, batch);
  other_ways([&] {
    const TrainPass again = train(model, batch);
    check_bits(again.losses, one.losses);
    check_bits(again.gradients, one.gradients);
  });
}

TEST_CASE("Transformer: activation checkpointing gives the same bits and loads from less memory") {
  Model model = random_model(wide_config(), 1, 0.1);
  const auto batch = random_batch(3, 40, 300);
  const auto run = [&](bool checkpointing) {
    model.activation_checkpointing = checkpointing;
    train(model, batch);  // gradient buffers exist afterwards
    model.update_bias(0);
    const std::size_t before = device().pool().bytes_in_use();
    device().pool().reset_peak();
    const TrainPass pass = train(model, batch);
    const Numbers load = host(model.layers[1].moe->load);
    return std::tuple(pass, load, device().pool().peak_bytes() - before);
  };
  const auto [want, want_load, whole] = run(false);
  const auto [got, got_load, checkpointed] = run(true);
  check_bits(got.losses, want.losses);
  check_bits(got.gradients, want.gradients);
  CHECK(got_load == want_load);  // counted once, though blocks ran twice
  CHECK(static_cast<double>(checkpointed) < 0.5 * static_cast<double>(whole));

  model.config.aux_loss_alpha = 0;
  for (auto& layer : model.layers) {
    if (layer.moe) layer.moe->options.balance_alpha = 0;
  }
  for (auto& module : model.mtp) module.block->moe->options.balance_alpha = 0;
  const auto [plain, plain_load, plain_peak] = run(false);
  const auto [again, again_load, again_peak] = run(true);
  check_bits(again.losses, plain.losses);
  check_bits(again.gradients, plain.gradients);
}

TEST_CASE("Transformer: row i of depth k sees tokens up to i + k, all of them, and none after") {
  Config c = mixture_config(3);
  c.initializer_range = 0.3;
  const Model model = random_model(c, 2);
  constexpr Index time = 7;
  const auto batch = random_batch(1, time, 11);
  const auto want = states(model, batch);
  for (Index changed = 0; changed <= time; ++changed) {
    auto tokens = batch.tokens.to_host();
    auto& token = tokens[static_cast<std::size_t>(changed)];
    token = (token + 5) % 11;
    const auto got = states(model, {tensor<std::int32_t>({1, time + 1}, tokens), {}, false});
    for (Index k = 0; k <= 3; ++k) {
      const auto& a = got[static_cast<std::size_t>(k)];
      const auto& b = want[static_cast<std::size_t>(k)];
      for (Index i = 0; i < time - k; ++i) {
        double difference = 0;
        for (auto at = static_cast<std::size_t>(i * 8); at < static_cast<std::size_t>((i + 1) * 8); ++at)
          difference = std::max(difference, std::abs(a[at] - b[at]));
        INFO("depth " << k << ", row " << i << ", token " << changed << " changed: " << difference);
        CHECK((difference > 1e-9) == (changed <= i + k));
      }
    }
  }
}

TEST_CASE("Transformer: a sequence does not see its neighbours in the batch") {
  const Model model = random_model(mixture_config(2), 2);
  const auto both = random_batch(2, 6, 11);
  const auto want = states(model, both);
  for (Index b = 0; b < 2; ++b) {
    const auto alone = states(model, {both.tokens.slice_front(b, b + 1), {}, false});
    for (std::size_t k = 0; k <= 2; ++k) {
      const auto size = static_cast<std::ptrdiff_t>(alone[k].size());
      check_close(alone[k], Numbers(want[k].begin() + b * size, want[k].begin() + (b + 1) * size), 1e-12);
    }
  }
}

TEST_CASE("Transformer: embedding and head are shared: their gradients are the sum over depths") {
  Config c = mixture_config(2);
  c.aux_loss_alpha = 0;
  Model model = random_model(c, 3);
  const auto batch = random_batch(2, 6, 11);
  const auto total = train(model, batch, {.lambda = 0.6}).gradients;
  std::vector<std::map<std::string, Numbers>> parts;
  for (std::size_t k = 0; k <= 2; ++k) {
    model.zero_grad();
    Tape tape;
    tape.backward(mtp_loss(model, model(tape, batch), batch).depths[k].loss);
    parts.push_back(gradients(model));
  }
  for (const std::string name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    Numbers sum(total.at(name).size(), 0.0);
    for (std::size_t k = 0; k <= 2; ++k) {
      const Numbers& part = parts[k].at(name);
      CHECK(relative_error(part, Numbers(part.size(), 0.0)) > 1e-3);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i] * (k == 0 ? 1.0 : 0.3);
    }
    check_close(total.at(name), sum, 1e-12, name);
  }
  // Gradients flow down the whole chain and never up: depth 2 trains module 1 and the trunk, depth 1 does
  // not train module 2, the main loss trains no module.
  for (std::size_t k = 0; k <= 2; ++k) {
    for (const std::string layer : {"model.layers.0.", "model.layers.3.", "model.layers.4."}) {
      const bool reached = layer == "model.layers.0." || (layer == "model.layers.3." ? k >= 1 : k >= 2);
      const Numbers& g = parts[k].at(layer + "self_attn.kv_b_proj.weight");
      INFO("loss of depth " << k << ", " << layer);
      CHECK(g.empty() != reached);
      if (reached) CHECK(relative_error(g, Numbers(g.size(), 0.0)) > 1e-6);
    }
  }
}

TEST_CASE("Transformer: fewer depths on request") {
  const Model model = random_model(mixture_config(3), 1);
  const auto batch = random_batch(1, 6, 11);
  const auto all = states(model, batch);
  for (Index depth = 0; depth <= 5; ++depth) {
    Tape tape(Mode::inference);
    const auto out = model(tape, batch, depth);
    REQUIRE(out.normed.size() == static_cast<std::size_t>(std::min<Index>(depth, 3) + 1));
    for (std::size_t k = 0; k < out.normed.size(); ++k) check_bits(host(out.normed[k].value()), all[k]);
  }
}

TEST_CASE("Transformer: a balance loss for every mixture that ran, in training only") {
  const Model model = random_model(mixture_config(2), 1);
  Tape training, inference(Mode::inference);
  CHECK(model(training, random_batch(1, 6, 11)).balance.size() == 4);
  CHECK(model(inference, random_batch(1, 6, 11)).balance.empty());
  Tape again;
  CHECK(model(again, random_batch(1, 6, 11), 0).balance.size() == 2);
}

TEST_CASE("Transformer: training allocates nothing once it is warm") {
  for (const bool checkpointing : {false, true}) {
    const Device own = fresh_device();
    Model model(own, mixture_config(2));
    randomize(model, 1);
    model.activation_checkpointing = checkpointing;
    AdamW<double, Device> optimizer;
    const Batch<Device> batch{Ids::from(own, {2, 9}, random_ids({2, 9}, 5, 0, 11).to_host()), {}, false};
    std::size_t warm = 0;
    for (int step = 1; step <= 5; ++step) {
      {
        Tape tape;
        const auto loss = mtp_loss(model, model(tape, batch), batch);
        tape.backward(loss.total);
      }
      optimizer.step(model, clip_norm(model, 1.0), 1e-3);
      model.update_bias(1e-3);
      // The first step makes gradients and moments, which take buffers that activations gave back; the
      // second step replaces those.
      if (step == 2) warm = own.pool().allocations();
      if (step > 2) CHECK(own.pool().allocations() == warm);
    }
    CHECK(warm > 0);
  }
}

TEST_CASE("Transformer: overfitting one batch takes every depth below 0.05") {
  Config c = dense_config(2);
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.vocab_size = 16;
  c.initializer_range = 0.1;
  Transformer<float, Device> model(device(), c);
  initialize(model, 1);
  AdamW<float, Device> optimizer({.weight_decay = 0});
  const auto batch = random_batch(2, 12, 16);
  std::vector<float> losses(3, 100);
  for (int step = 0; step < 400 && *std::max_element(losses.begin(), losses.end()) >= 0.05f; ++step) {
    Tape tape;
    const auto loss = mtp_loss(model, model(tape, batch), batch, {.lambda = 1.0});
    tape.backward(loss.total);
    optimizer.step(model, clip_norm(model, 1.0), 1e-2);
    for (std::size_t k = 0; k < 3; ++k) losses[k] = loss.depths[k].loss.value().to_host()[0];
  }
  for (std::size_t k = 0; k < 3; ++k) CHECK_MESSAGE(losses[k] < 0.05f, "depth ", k);
}

TEST_CASE("Transformer: what does not fit is named") {
  const Model model = random_model(mixture_config(1), 1);
  const auto text = [&](Shape shape, std::int32_t id) {
    const std::vector<std::int32_t> ids(static_cast<std::size_t>(shape.size()), id);
    Tape tape;
    return error_text<Error>([&] { model(tape, {tensor<std::int32_t>(shape, ids), {}, false}); });
  };
  CHECK(text({2, 65}, 0) == "");
  CHECK(text({2, 66}, 0) ==
        "[model] tokens are [B, T + 1] with T from 1 to max_position_embeddings = 64\n  tokens: [2, 66]");
  CHECK(text({2, 1}, 0) ==
        "[model] tokens are [B, T + 1] with T from 1 to max_position_embeddings = 64\n  tokens: [2, 1]");
  CHECK(text({3}, 0) ==
        "[model] tokens are [B, T + 1] with T from 1 to max_position_embeddings = 64\n  tokens: [3]");
  if (!on_gpu) CHECK(text({1, 4}, 11) != "");  // a GPU does not look
  CHECK(error_text<ConfigError>([] { Model(device(), Config()); }).starts_with("[config] "));
}

TEST_SUITE_END();
