// What the designs are and have in common: what they see, how they train, what is kept in memory, and that
// drafts change nothing.

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/model/with_depths.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/mtp/design.hpp");

namespace {

constexpr MtpHeads designs[] = {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel,
                                MtpHeads::linear};

Config with(Config c, MtpHeads heads) {
  c.mtpx_heads = heads;
  return c;
}

/// Logits [B, T - k, V] of depth k.
template <typename T>
Numbers logits_of(const Transformer<T, Device>& model, const Batch<Device>& batch, std::size_t k) {
  Tape tape(Mode::inference);
  const auto normed = model(tape, batch).normed.at(k);
  return host(linear(normed, model.head(static_cast<Index>(k))).value());
}

/// A batch with token `at` of its only row replaced by another one.
Batch<Device> changed(const Batch<Device>& batch, Index at, Index vocab) {
  auto ids = batch.tokens.to_host();
  auto& id = ids[static_cast<std::size_t>(at)];
  id = static_cast<std::int32_t>((id + 1) % vocab);
  return {tensor<std::int32_t>(batch.tokens.shape(), ids), {}, false};
}

}  // namespace

TEST_CASE("Transformer: head k is a last layer of its own, on what the next-token head's layer reads") {
  for (const Config& base : {mixture_config(3), dense_config(3)}) {
    const auto model = random_model(with(base, MtpHeads::parallel), 7);
    const auto batch = random_batch(2, 6, 11);
    for (std::size_t k = 0; k <= 3; ++k) {
      // A plain model with that head's layer as its last.
      Config plain = base;
      plain.num_nextn_predict_layers = 0;
      Transformer<double, Device> single(device(), plain);
      std::map<std::string, Tensor<double, Device>> weights;
      for_each_tensor(model, [&](const std::string& name, const auto& tensor) { weights[name] = tensor; });
      const std::string last = cat("model.layers.", base.num_hidden_layers - 1, '.');
      const std::string head = cat("model.layers.", base.num_hidden_layers + static_cast<Index>(k) - 1, '.');
      for_each_tensor(single, [&](const std::string& name, const auto& tensor) {
        const bool own = name.starts_with(last);
        tensor.assign(host(weights.at(own ? head + name.substr(last.size()) : name)));
      });
      const Numbers all = logits_of(single, batch, 0), got = logits_of(model, batch, k);
      Numbers want;  // the first T - k rows of each window
      for (std::size_t b = 0; b < 2; ++b) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(b * 6 * 11);
        want.insert(want.end(), begin, begin + static_cast<std::ptrdiff_t>((6 - k) * 11));
      }
      check_bits(got, want, cat("head ", k));
    }
  }
}

TEST_CASE("Transformer: a linear head is W_k on the state before the final norm, which is shared") {
  const auto model = random_model(with(dense_config(2), MtpHeads::linear), 8);
  const auto batch = random_batch(1, 5, 11);
  // A matrix of ones on the diagonal leaves the main model's own logits.
  for (std::size_t k = 1; k <= 2; ++k) {
    Numbers unit(64, 0.0);
    for (std::size_t i = 0; i < 8; ++i) unit[i * 9] = 1;
    model.mtp[k - 1].linear->weight.value().assign(unit);
    Numbers want = logits_of(model, batch, 0);
    want.resize((5 - k) * 11);
    check_bits(logits_of(model, batch, k), want, cat("head ", k));
    // Twice that changes nothing but for eps: the norm comes after it.
    for (double& u : unit) u *= 2;
    model.mtp[k - 1].linear->weight.value().assign(unit);
    check_close(logits_of(model, batch, k), want, 1e-4, cat("head ", k));
  }
}

TEST_CASE("what a depth sees: parallel heads t_1 .. t_i, sequential depth k t_1 .. t_{i+k}, and no further") {
  constexpr Index time = 7;
  for (const MtpHeads heads : designs) {
    const auto model = random_model(with(dense_config(3), heads), 9);
    const auto batch = random_batch(1, time, 11);
    for (std::size_t k = 0; k <= 3; ++k) {
      const Index ahead = model.design.reads_token ? static_cast<Index>(k) : 0;
      const Numbers before = logits_of(model, batch, k);
      for (Index at = 0; at <= time; ++at) {
        const Numbers after = logits_of(model, changed(batch, at, 11), k);
        for (Index row = 0; row < time - static_cast<Index>(k); ++row) {
          const auto begin = static_cast<std::size_t>(row * 11);
          const bool same = std::equal(before.begin() + static_cast<std::ptrdiff_t>(begin),
                                       before.begin() + static_cast<std::ptrdiff_t>(begin + 11),
                                       after.begin() + static_cast<std::ptrdiff_t>(begin));
          INFO("design " << static_cast<int>(heads) << ", depth " << k << ", row " << row << ", token "
                         << at);
          CHECK(same == (at > row + ahead));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("mtp_backward: head by head gives the gradients of the common tape, bit for bit", T,
                   double, float, bf16) {
  for (const MtpHeads heads : designs) {
    for (const Config& base : {mixture_config(3), dense_config(3)}) {
      auto naive = random_model<T>(with(base, heads), 4), by_head = random_model<T>(with(base, heads), 4);
      Batch<Device> batch = random_batch(2, 6, 11);
      batch.positions = tensor<std::int32_t>({2, 7}, {0, 1, 2, 3, 0, 1, 2, 4, 5, 0, 1, 2, 3, 4});
      TaughtLossOptions options{{0.7, {1.0, 0.5}, LossDivisor::valid_rows, LossReduction::sum}};
      if (base.n_routed_experts == 0) options.distill = 0.5;
      for (int micro = 0; micro < 2; ++micro) {  // adds to gradients that are there
        Tape tape;
        const auto want = mtp_loss(naive, naive(tape, batch), batch, options);
        tape.backward(want.total, tensor<acc_t<T>>({1}, {0.25}));
        const auto got = mtp_backward(by_head, batch, options, 0.25);
        check_bits(host(got.total.value()), host(want.total.value()), "total");
        REQUIRE(got.depths.size() == want.depths.size());
        for (std::size_t k = 0; k < got.depths.size(); ++k)
          check_bits(host(got.depths[k].loss.value()), host(want.depths[k].loss.value()), cat("loss ", k));
      }
      check_bits(gradients(by_head), gradients(naive));
      if (base.n_routed_experts == 0) continue;
      naive.update_bias(0.1), by_head.update_bias(0.1);  // experts' loads were counted once, too
      for_each_tensor(naive, [&](const std::string& name, const auto& tensor) {
        for_each_tensor(by_head, [&](const std::string& other, const auto& own) {
          if (other == name) check_bits(host(own), host(tensor), name);
        });
      });
    }
  }
}

TEST_CASE("mtp_backward: memory does not grow with the number of parallel heads") {
  const auto peak = [](Index n, bool naive) {
    Config c = with(dense_config(n - 1), MtpHeads::parallel);
    c.hidden_size = 32;
    c.vocab_size = 2048;
    c.max_position_embeddings = 256;
    Transformer<float, Device> model(fresh_device(), c);
    randomize(model, 1);
    const Batch<Device> batch{random_ids({4, 201}, 3, 0, 2048), {}, false};
    mtp_backward(model, batch);  // gradients are there
    model.device().pool().reset_peak();
    const std::size_t before = model.device().pool().bytes_in_use();
    if (naive) {
      Tape tape;
      tape.backward(mtp_loss(model, model(tape, batch), batch).total);
    } else {
      mtp_backward(model, batch);
    }
    return static_cast<double>(model.device().pool().peak_bytes() - before) / (1 << 20);
  };
  double first = 0;
  for (const Index n : {1, 2, 4, 8}) {
    const double by_head = peak(n, false), together = peak(n, true);
    MESSAGE("n = " << n << ": " << by_head << " MiB of activations and logits head by head, " << together
                   << " on a common tape");
    // From three heads on, one is in the middle: beside it, two numbers a row of every other one.
    if (n == 4) first = by_head;
    if (n == 8) CHECK(by_head < 1.01 * first);
    // A GPU's chunk of logits is larger: it counts once, either way.
    if (n == 8) CHECK(together > (on_gpu ? 1.5 : 2.0) * by_head);
  }
}

TEST_CASE("Transformer: a frozen main model keeps every bit, and depths train") {
  for (const MtpHeads heads : designs) {
    auto model = random_model<float>(with(mixture_config(2), heads), 5);
    const auto batch = random_batch(2, 8, 11);
    const Numbers before = logits_of(model, batch, 0), depth_before = logits_of(model, batch, 2);
    const auto biases = [&] {
      Numbers all;
      for (const auto& layer : model.layers) {
        if (!layer.moe) continue;
        for (const double b : host(layer.moe->gate.e_score_correction_bias->value)) all.push_back(b);
      }
      return all;
    };
    const Numbers old = biases();
    model.freeze_main();
    AdamW<float, Device> optimizer;
    double first = 0, last = 0;
    for (int step = 0; step < 30; ++step) {
      const auto loss = mtp_backward(model, batch);
      last = host(loss.depths[1].loss.value())[0];
      if (step == 0) first = last;
      optimizer.step(model, clip_norm(model, 1.0), 1e-2);
      model.update_bias(0.01);
    }
    CHECK(last < 0.8 * first);
    check_bits(logits_of(model, batch, 0), before, "main");
    check_bits(biases(), old, "router biases");
    CHECK(logits_of(model, batch, 2) != depth_before);
    // Frozen parameters cost no memory: neither gradients nor moments.
    for (const auto& [name, gradient] : gradients(model)) CHECK(gradient.empty());
    model.freeze_main(false);
    mtp_backward(model, batch);
    CHECK_FALSE(gradients(model).at("lm_head.weight").empty());
  }
}

TEST_CASE("with_depths: the main model stays, depths of the same design too, others are fresh") {
  for (const MtpHeads heads : designs) {
    const auto from = random_model<bf16>(with(mixture_config(1), heads), 5);
    const auto batch = random_batch(2, 8, 11);
    for (const MtpHeads wanted : designs) {
      const auto to = with_depths(from, 3, wanted, 9);
      const auto main = logits_of(from, batch, 0), first = logits_of(from, batch, 1);
      check_bits(logits_of(to, batch, 0), main, "main");
      CHECK(to.config.num_nextn_predict_layers == 3);
      CHECK((logits_of(to, batch, 1) == first) == (wanted == heads));
    }
    CHECK(with_depths(from, 0, heads, 9).config.num_layers() == 3);
  }
}

TEST_CASE("Transformer: nothing trains with a frozen main model and no depth") {
  auto model = random_model<float>(dense_config(0), 5);
  model.freeze_main();
  const Corpus corpus = Corpus::from_text(std::string(400, 'a'));
  CHECK_THROWS_WITH_AS((Trainer<float, Device>(model, {}, Batches(corpus, {.batch = 2, .seq = 8}))),
                       "[train] the main model is frozen and the depth is 0: nothing would train",
                       ConfigError);
}

TEST_CASE("Transformer: detached depths leave the main model's gradients as without them") {
  for (const MtpHeads heads : designs) {
    auto model = random_model(with(dense_config(2), heads), 6),
         alone = random_model(with(dense_config(2), heads), 6);
    const auto batch = random_batch(2, 6, 11);
    model.detach_depths = true;
    mtp_backward(model, batch, {.lambda = 0.5});
    mtp_backward(alone, batch, {.lambda = 0});
    const auto got = gradients(model), without = gradients(alone);
    double of_depths = 0;
    for (const auto& [name, gradient] : got) {
      if (name.starts_with("model.layers.2") || name.starts_with("model.layers.3")) {
        for (const double g : gradient) of_depths = std::max(of_depths, std::abs(g));
      } else {
        check_close(gradient, without.at(name), 1e-15, name);
      }
    }
    CHECK(of_depths > 1e-3);
    // A later depth still reaches the modules before it.
    if (!model.design.chains) continue;
    auto second = random_model(with(dense_config(2), heads), 6);
    second.detach_depths = true;
    mtp_backward(second, batch, {0.5, {0.0, 1.0}});
    double reached = 0;
    const auto all = gradients(second);
    for (const double g : all.at("model.layers.2.enorm.weight")) reached = std::max(reached, std::abs(g));
    CHECK(reached > 1e-3);
  }
}

TEST_CASE("MtpLossOptions: mean, sum and weights; what designs were published with") {
  const MtpLossOptions mean{0.6, {1, 0.5}}, sum{0.6, {1, 0.5}, LossDivisor::valid_rows, LossReduction::sum};
  CHECK(mean.weight(0, 3) == 1);
  CHECK(mean.weight(1, 3) == doctest::Approx(0.2));
  CHECK(mean.weight(2, 3) == doctest::Approx(0.1));
  CHECK(mean.weight(3, 3) == doctest::Approx(0.2));
  CHECK(sum.weight(2, 3) == doctest::Approx(0.3));
  Config c = dense_config(2);
  CHECK(published_weights(c.design()).weight(1, 2) == doctest::Approx(0.15));
  c.mtpx_heads = MtpHeads::parallel;
  CHECK(published_weights(c.design()).weight(1, 2) == 1);
  // One module for all depths: weights that decay, with the sum that equal ones have.
  c.mtpx_heads = MtpHeads::repeated;
  MtpLossOptions decaying = published_weights(c.design());
  double total = 0;
  for (Index k = 1; k <= 3; ++k) total += decaying.weight(k, 3);
  CHECK(total == doctest::Approx(0.3));
  CHECK(decaying.weight(1, 3) == doctest::Approx(0.1 * 3 / 1.96));
  CHECK(decaying.weight(3, 3) == doctest::Approx(decaying.weight(1, 3) * 0.36));
  CHECK(decaying.weight(0, 3) == 1);
  CHECK(decaying.weight(1, 1) == doctest::Approx(0.3));
  decaying.depth_weights = {1};
  CHECK(decaying.weight(1, 3) == doctest::Approx(0.1));
  CHECK(decaying.weight(2, 3) == doctest::Approx(0.1 * 3 * 0.6 / 1.96));
}

TEST_CASE_TEMPLATE("greedy drafted text is byte-equal to plain text, for every design", T, float, bf16) {
  Index accepted = 0;
  for (const MtpHeads heads : designs) {
    for (const Config& base : {mixture_config(3), dense_config(3)}) {
      Config c = with(base, heads);
      c.vocab_size = 5;
      const auto model = random_model<T>(c, 13, 0.5);
      std::vector<std::vector<std::int32_t>> prompts;
      for (std::uint64_t i = 0; i < 6; ++i)
        prompts.push_back(random_ids({static_cast<Index>(1 + 3 * i)}, i, 0, 5).to_host());
      const auto text = [&](Index k, Index batch, double temperature) {
        GenerateOptions options;
        options.max_tokens = 40;
        options.draft = k;
        options.sampling.temperature = temperature;
        auto texts = prompts;
        const auto statistics =
            generate_batch(model, prompts, batch, options, [&](std::size_t i, std::int32_t token) {
              texts[i].push_back(token);
              return true;
            });
        for (const Index a : statistics.accepted) accepted += a;
        return texts;
      };
      for (const double temperature : {0.0, 0.8}) {
        const auto plain = text(0, 1, temperature);
        for (const Index k : {Index{1}, Index{2}, Index{3}, GenerateOptions::automatic}) {
          for (const Index batch : {1, 3}) {
            INFO("design " << static_cast<int>(heads) << ", K = " << k << ", batch " << batch);
            CHECK(text(k, batch, temperature) == plain);
          }
        }
      }
      if (!model.design.chains) {
        CHECK_THROWS_WITH_AS(
            text(4, 1, 0),
            "[generate] draft = 4: this model's 3 heads draft a token each: heads that do not "
            "read each other cannot run again on their own output",
            ConfigError);
      }
    }
  }
  CHECK(accepted > 100);
}

TEST_CASE("Speculator: heads draft what the pass that training uses says, at the newest position") {
  for (const MtpHeads heads : {MtpHeads::parallel, MtpHeads::linear}) {
    Config c = with(dense_config(3), heads);
    c.vocab_size = 6;
    const auto model = random_model(c, 21, 0.6);
    const auto prompt = random_ids({7}, 4, 0, 6).to_host();
    GenerateOptions options;
    options.draft = 3;
    Speculator<double, Device> decoder(model, options);
    decoder.add(prompt, 0);
    for (int round = 0; round < 12; ++round) {
      // Known: t_0 .. t_e. Drafts are the heads' choices at e - 1; the main model's follow one by one.
      auto known = decoder.tokens();
      auto padded = known;
      padded.resize(known.size() + 3);  // so that depth 3 has a row at e - 1
      const auto size = static_cast<Index>(padded.size());
      const Batch<Device> batch{tensor<std::int32_t>({1, size}, padded), {}, false};
      std::vector<std::int32_t> drafts;
      for (std::size_t k = 1; k <= 3; ++k) {
        const Numbers all = logits_of(model, batch, k);
        const auto row = (known.size() - 2) * 6;
        drafts.push_back(argmax(std::span(all).subspan(row, 6)));
      }
      decoder.step();
      const auto emitted = decoder.emitted();
      std::size_t stood = 0;
      while (stood + 1 < emitted.size()) {
        CHECK(emitted[stood] == drafts[stood]);
        ++stood;
      }
      if (stood < 3) CHECK(emitted[stood] != drafts[stood]);
    }
  }
}

TEST_SUITE_END();
