#include <mtpx/decode/generate.hpp>

#include <mtpx/train/adamw.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/generate.hpp");

namespace {

using TokenIds = std::vector<std::int32_t>;

struct Output {
  TokenIds tokens;
  DecodeStatistics statistics;
};

template <typename T>
Output run(const Transformer<T, Cpu>& model, const TokenIds& prompt, const GenerateOptions& options) {
  Output out;
  out.statistics = generate(model, prompt, options, [&](std::int32_t token) {
    out.tokens.push_back(token);
    return true;
  });
  return out;
}

TokenIds count_from(std::int32_t first, std::int32_t last) {
  TokenIds tokens;
  for (std::int32_t t = first; t <= last; ++t) tokens.push_back(t);
  return tokens;
}

TokenIds random_prompt(std::uint64_t stream, Index length, Index vocab) {
  return random_ids({length}, stream, 0, vocab).to_host();
}

}  // namespace

TEST_CASE_TEMPLATE("greedy drafted text is byte-equal to plain greedy text", T, float, double, bf16) {
  Index accepted = 0, drafted = 0;
  for (const Index depth : {1, 2, 3}) {
    Config mixture = mixture_config(depth), dense = dense_config(depth), wide = mixture_config(depth);
    mixture.vocab_size = dense.vocab_size = 5;  // drafts of a random model are right now and then
    wide.vocab_size = 77;                       // products of several tiles, whose edges differ with the rows
    wide.hidden_size = 72;
    wide.intermediate_size = 100;
    wide.moe_intermediate_size = 36;
    wide.kv_lora_rank = 40;
    wide.num_attention_heads = 3;
    for (const Config& c : {mixture, dense, wide}) {
      const double deviation = c.hidden_size > 8 ? 0.2 : 0.5;
      const auto model = random_model<T>(c, 10 + static_cast<std::uint64_t>(depth), deviation);
      for (const Index length : {1, 2, 9}) {
        const TokenIds prompt = random_prompt(static_cast<std::uint64_t>(length), length, 5);
        GenerateOptions options;
        options.max_tokens = 40;
        options.draft = 0;
        const Output plain = run(model, prompt, options);
        CHECK(plain.tokens.size() == 40);
        CHECK(plain.statistics.passes == 39);
        for (const Index k : {1, 2, 3, 5}) {
          options.draft = k;
          const Output got = run(model, prompt, options);
          INFO("D = " << depth << ", K = " << k << ", prompt of " << length);
          CHECK(got.tokens == plain.tokens);
          CHECK(got.statistics.tokens == 40);
          for (const Index a : got.statistics.accepted) accepted += a;
          drafted += k * got.statistics.drafts;
        }
      }
    }
  }
  CHECK(accepted > drafted / 50);
  CHECK(accepted < drafted / 2);
}

TEST_CASE("generate: the most likely token of the pass that training uses, one by one") {
  const auto model = random_model(mixture_config(1), 3, 0.5);
  const TokenIds prompt{3, 1, 4, 1, 5};
  GenerateOptions options;
  options.max_tokens = 20;
  TokenIds text = prompt;
  for (int i = 0; i < 20; ++i) text.push_back(argmax(std::span<const double>(logits(model, text).back())));
  CHECK(run(model, prompt, options).tokens == TokenIds(text.begin() + 5, text.end()));
}

TEST_CASE("generate: max_tokens inside a draft") {
  const auto model = counting_model(40, {true, true, true});
  for (Index most = 0; most <= 12; ++most) {
    for (const Index k : {0, 1, 3, 5}) {
      GenerateOptions options;
      options.max_tokens = most;
      options.draft = k;
      const Output out = run(model, {2}, options);
      CHECK(out.tokens == count_from(3, static_cast<std::int32_t>(2 + most)));
      CHECK(out.statistics.tokens == most);
    }
  }
}

TEST_CASE("generate: the stop token inside an accepted draft ends the text, and is the last of it") {
  const auto model = counting_model(40, {true, true, true});
  for (std::int32_t stop = 3; stop <= 14; ++stop) {
    for (const Index k : {0, 1, 3, 5}) {
      GenerateOptions options;
      options.max_tokens = 30;
      options.draft = k;
      options.stop = {stop};
      const Output out = run(model, {2}, options);
      CHECK(out.tokens == count_from(3, stop));
      CHECK(out.statistics.tokens == stop - 2);
    }
  }
}

TEST_CASE("generate: the callback ends the text") {
  const auto model = counting_model(40, {true});
  for (const Index k : {0, 4}) {
    GenerateOptions options;
    options.draft = k;
    TokenIds seen;
    const auto statistics = generate(model, {2}, options, [&](std::int32_t token) {
      seen.push_back(token);
      return token != 8;
    });
    CHECK(seen == count_from(3, 8));
    CHECK(statistics.tokens == 6);

    options.max_tokens = 6;
    TokenIds all;  // of one that returns nothing, and so never ends it
    generate(model, {2}, options, [&](std::int32_t token) { all.push_back(token); });
    CHECK(all == seen);
  }
}

TEST_CASE("generate: the end of the context inside a draft") {
  for (const Index longest : {3, 4, 7, 12}) {
    const auto model = counting_model(40, {true, true}, longest);
    for (const Index k : {0, 1, 2, 3, 5}) {
      for (Index prompt = 1; prompt < longest; ++prompt) {
        GenerateOptions options;
        options.draft = k;
        const auto last = static_cast<std::int32_t>(prompt - 1);
        const Output out = run(model, count_from(0, last), options);
        CHECK(out.tokens == count_from(last + 1, static_cast<std::int32_t>(longest - 1)));
        CHECK(out.statistics.tokens == longest - prompt);
      }
    }
  }
}

TEST_CASE("generate: statistics: passes, acceptance per position, mean length") {
  // The first module is right, the second one wrong: of every draft exactly one token stands.
  const auto model = counting_model(40, {true, false});
  GenerateOptions options;
  options.max_tokens = 21;
  options.draft = 3;
  const auto half = run(model, {0}, options).statistics;
  CHECK(half.passes == 10);
  CHECK(half.drafts == 10);
  CHECK(half.accepted == std::vector<Index>{10, 0, 0});
  CHECK(half.drafted == std::vector<Index>{10, 10, 10});
  CHECK(half.histogram == std::vector<Index>{0, 10, 0, 0});
  CHECK(half.prompt_tokens == 1);
  CHECK(half.acceptance(0) == 1);
  CHECK(half.acceptance(1) == 0);
  CHECK(half.mean_length() == 2);
  CHECK(half.tokens_per_pass() == 2.1);  // the prompt's pass emitted the first one

  const auto all = run(counting_model(40, {true}), {0}, options).statistics;  // one module three times
  CHECK(all.passes == 5);
  CHECK(all.accepted == std::vector<Index>{5, 5, 5});
  CHECK(all.mean_length() == 4);

  options.draft = 0;
  const auto plain = run(model, {0}, options).statistics;
  CHECK(plain.passes == 20);
  CHECK(plain.drafts == 0);
  CHECK(plain.accepted.empty());
  CHECK(plain.mean_length() == 1);
  options.max_tokens = 1;
  CHECK(run(model, {0}, options).statistics.tokens_per_pass() == 0);
}

TEST_CASE("generate: what cannot be done is named") {
  const auto model = counting_model(40, {true}, 8);
  const auto plain = counting_model(40, {}, 8);
  const auto says = [](const Transformer<double, Cpu>& m, const TokenIds& prompt, const auto& change) {
    GenerateOptions options;
    change(options);
    return error_text<Error>([&] { run(m, prompt, options); });
  };
  const auto nothing = [](GenerateOptions&) {};
  CHECK(says(model, {}, nothing) == "[generate] the prompt is empty");
  CHECK(says(model, count_from(0, 6), nothing) == "");
  CHECK(says(model, count_from(0, 7), nothing) ==
        "[generate] the prompt has 8 tokens, max_position_embeddings = 8 leaves room for 7");
  CHECK(says(model, count_from(0, 19), nothing) ==
        "[generate] the prompt has 20 tokens, max_position_embeddings = 8 leaves room for 7");
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.draft = -2; }) ==
        "[generate] draft = -2: must be -1 (automatic), 0 (plain) or positive");
  const auto drawn = [](GenerateOptions& o) {
    o.sampling.temperature = 1;
    o.draft_tokens = DraftTokens::drawn;
  };
  CHECK(says(model, {0}, drawn) ==
        "[generate] draft = automatic: what is chosen depends on the clock, and with drawn drafts, block or "
        "lossy verification so would the text; give a number");
  CHECK(says(plain, {0}, drawn) == "");
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.typical_epsilon = 2; }) ==
        "[generate] typical_epsilon = 2: must be between 0 and 1");
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.max_tokens = -1; }) ==
        "[generate] max_tokens = -1: must not be negative");
  CHECK(says(plain, {0}, nothing) == "");
  CHECK(says(plain, {0}, [](GenerateOptions& o) { o.draft = 2; }) ==
        "[generate] draft = 2: this model has no MTP module (num_nextn_predict_layers = 0)");
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.sampling.temperature = -1; }) ==
        "[sampling] temperature = -1: must be 0 (greedy) or positive");
  CHECK(says(model, {40}, nothing) != "");
  CHECK(says(model, {-1}, nothing) != "");
}

namespace {

/// A small model that has learnt a text, as far as it goes in a few steps.
template <typename T>
Transformer<T, Cpu> trained_model() {
  Config c = dense_config(2);
  c.vocab_size = 32;
  c.hidden_size = 24;
  c.intermediate_size = 48;
  Transformer<float, Cpu> model(device(), c);
  randomize(model, 5, 0.1);
  AdamW<float, Cpu> optimizer;
  for (int step = 0; step < 120; ++step) {
    std::vector<std::int32_t> ids;  // each token decides the next, but for every fourth
    for (Index b = 0; b < 8; ++b) {
      std::int32_t t = static_cast<std::int32_t>(
          Philox::block(9, static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(b))[0] % 32);
      for (Index i = 0; i < 33; ++i) {
        ids.push_back(t);
        const auto noise = Philox::block(9, static_cast<std::uint64_t>(step) + 1000,
                                         static_cast<std::uint64_t>(b * 33 + i))[0];
        t = noise % 4 == 0 ? static_cast<std::int32_t>(noise / 4 % 32) : (5 * t + 7) % 32;
      }
    }
    Tape tape;
    const Batch<Cpu> batch{tensor<std::int32_t>({8, 33}, ids), {}, false};
    tape.backward(mtp_loss(model, model(tape, batch), batch).total);
    optimizer.step(model, clip_norm(model, 1.0), 1e-2);
  }
  Transformer<T, Cpu> copy(device(), c);
  std::vector<std::vector<float>> values;
  for_each_tensor(model, [&](const std::string&, const auto& x) {
    if constexpr (std::is_same_v<typename std::remove_cvref_t<decltype(x)>::value_type, float>)
      values.push_back(x.to_host());
  });
  std::size_t at = 0;
  for_each_tensor(copy, [&](const std::string&, const auto& x) {
    using N = typename std::remove_cvref_t<decltype(x)>::value_type;
    std::vector<N> converted;
    for (const float v : values[at]) converted.push_back(N(v));
    ++at;
    x.assign(converted);
  });
  return copy;
}

}  // namespace

TEST_CASE_TEMPLATE("200 prompts, any K, side by side or alone: the text of plain decoding", T, float, bf16) {
  Config c = mixture_config(2);
  c.vocab_size = 32;
  const auto random = random_model<T>(c, 77, 0.4);
  const auto trained = trained_model<T>();
  std::vector<TokenIds> prompts;
  for (std::uint64_t i = 0; i < 200; ++i)
    prompts.push_back(random_prompt(i, 1 + static_cast<Index>(i % 9), 32));
  for (const auto* model : {&random, &trained}) {
    for (const double temperature : {0.0, 0.8}) {
      const auto texts = [&](Index batch, Index k) {
        GenerateOptions options;
        options.max_tokens = 12;
        options.draft = k;
        options.sampling.temperature = temperature;
        std::vector<TokenIds> out(prompts.size());
        const auto s =
            generate_batch(*model, prompts, batch, options, [&](std::size_t i, std::int32_t token) {
              out[i].push_back(token);
              return true;
            });
        Index stood = 0, fell = 0, drafted = 0;  // E8
        for (std::size_t i = 0; i < s.accepted.size(); ++i) stood += s.accepted[i];
        for (std::size_t n = 0; n < s.histogram.size(); ++n)
          fell += s.histogram[n] * (static_cast<Index>(s.histogram.size()) - 1 - static_cast<Index>(n));
        for (const Index d : s.drafted) drafted += d;
        if (k > 0) CHECK(stood + fell == drafted);
        if (k == 1 && model == &trained && temperature == 0) CHECK(2 * stood > drafted);
        return out;
      };
      const auto plain = texts(1, 0);
      CHECK(texts(3, 0) == plain);
      if (temperature > 0) {
        CHECK(texts(3, 2) == plain);
        CHECK(texts(2, GenerateOptions::automatic) == plain);
        continue;
      }
      for (const Index batch : {1, 3}) {
        for (const Index k : {1, 2, 3, 5}) {
          INFO("batch " << batch << ", K = " << k);
          CHECK(texts(batch, k) == plain);
        }
      }
      CHECK(texts(3, GenerateOptions::automatic) == plain);
    }
  }
}

TEST_CASE("generate_batch: prompt i with seed s + i is what it is alone") {
  const auto model = random_model(mixture_config(2), 8, 0.5);
  const std::vector<TokenIds> prompts{{1, 2, 3}, {4}, {5, 6, 7, 8, 9}, {10}};
  GenerateOptions options;
  options.max_tokens = 15;
  options.draft = 2;
  options.sampling.temperature = 1;
  options.draft_tokens = DraftTokens::drawn;
  for (const Verification verification :
       {Verification::exact, Verification::block, Verification::lossy_typical}) {
    options.verification = verification;
    options.seed = 40;
    std::vector<TokenIds> together(prompts.size());
    generate_batch(model, prompts, 3, options, [&](std::size_t i, std::int32_t token) {
      together[i].push_back(token);
      return true;
    });
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      options.seed = 40 + i;
      CHECK(run(model, prompts[i], options).tokens == together[i]);
    }
  }
}

TEST_CASE_TEMPLATE("generate_batch: each prompt sampled its own way, side by side or alone: the same text", T,
                   float, bf16) {
  Config c = mixture_config(2);
  c.vocab_size = 32;
  const auto random = random_model<T>(c, 78, 0.4);
  const auto trained = trained_model<T>();
  const std::vector<SamplingOptions> ways{{}, {0.8}, {1.0, 3}, {1.3, 0, 0.7}, {}, {0.9, 5, 0.8}};
  std::vector<TokenIds> prompts;
  std::vector<SamplingOptions> sampling;
  for (std::uint64_t i = 0; i < 24; ++i) {
    prompts.push_back(random_prompt(i, 1 + static_cast<Index>(i % 7), 32));
    sampling.push_back(ways[i % ways.size()]);
  }
  struct Way {
    DraftTokens tokens;
    Verification verification;
  };
  for (const auto* model : {&random, &trained}) {
    for (const Way& way :
         {Way{DraftTokens::coupled, Verification::exact}, Way{DraftTokens::drawn, Verification::exact},
          Way{DraftTokens::coupled, Verification::block},  // whose drafts are drawn as well
          Way{DraftTokens::coupled, Verification::lossy_typical}}) {
      GenerateOptions options;
      options.max_tokens = 14;
      options.draft_tokens = way.tokens;
      options.verification = way.verification;
      for (const Index k : {0, 1, 2, 3}) {
        INFO("K = " << k << ", drawn " << (way.tokens == DraftTokens::drawn) << ", rule "
                    << static_cast<int>(way.verification));
        options.draft = k;
        std::vector<TokenIds> alone;
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          options.seed = 60 + i;
          options.sampling = sampling[i];
          alone.push_back(run(*model, prompts[i], options).tokens);
        }
        options.seed = 60;
        options.sampling = {};
        for (const Index batch : {1, 5}) {
          std::vector<TokenIds> together(prompts.size());
          const auto keep = [&](std::size_t i, std::int32_t token) {
            together[i].push_back(token);
            return true;
          };
          generate_batch(*model, prompts, batch, options, keep, sampling);
          CHECK(together == alone);
        }
      }
    }
  }
}

TEST_CASE("generate_batch: what a prompt is sampled with is checked before anything is emitted") {
  const auto model = counting_model(40, {true});
  const std::vector<TokenIds> prompts{{1}, {2}};
  const auto says = [&](const GenerateOptions& options, const std::vector<SamplingOptions>& sampling) {
    return error_text<ConfigError>([&] {
      const auto never = [](std::size_t, std::int32_t) {
        FAIL("emitted");
        return false;
      };
      generate_batch(model, prompts, 2, options, never, sampling);
    });
  };
  CHECK(says({}, {{}}) == "[generate] sampling has 1 entries for 2 prompts: must have one for each, or none");
  CHECK(says({}, {{}, {1, -2}}) == "[sampling] top_k = -2: must be 0 (all tokens) or positive");
  GenerateOptions drawn;
  drawn.draft_tokens = DraftTokens::drawn;
  CHECK(says(drawn, {{}, {1}}) ==
        "[generate] draft = automatic: what is chosen depends on the clock, and with drawn drafts, block or "
        "lossy verification so would the text; give a number");
}

TEST_CASE("generate_batch: prompts end one by one, and others take their places") {
  const auto model = counting_model(40, {true, true});
  std::vector<TokenIds> prompts, expected;
  for (std::int32_t i = 0; i < 7; ++i) {
    prompts.push_back({i});
    expected.push_back(count_from(i + 1, i % 3 == 0 ? 9 : i + 10));
  }
  for (const Index batch : {1, 2, 5, 7, 20}) {
    GenerateOptions options;
    options.max_tokens = 10;
    options.draft = 2;
    std::vector<TokenIds> out(prompts.size());
    const auto s = generate_batch(model, prompts, batch, options, [&](std::size_t i, std::int32_t token) {
      out[i].push_back(token);
      return i % 3 != 0 || token != 9;
    });
    CHECK(out == expected);
    CHECK(s.prompt_tokens == 7);
    Index emitted = 0;
    for (const TokenIds& t : expected) emitted += static_cast<Index>(t.size());
    CHECK(s.tokens == emitted);
  }
  CHECK(error_text<ConfigError>([&] {
          generate_batch(model, prompts, 0, {}, [](std::size_t, std::int32_t) { return true; });
        }) == "[generate] batch = 0: must be positive");
  CHECK(generate_batch(model, {}, 3, {}, [](std::size_t, std::int32_t) { return true; }).tokens == 0);
}

TEST_CASE("rounds do not lean on each other: every place of a text has the model's chances") {
  // Whatever came before: the trunk says 0.6 and 0.4, its module 0.2 and 0.8.
  Config c = dense_config(1);
  c.vocab_size = 2;
  c.hidden_size = 2;
  c.num_hidden_layers = 1;
  Transformer<double, Cpu> model(device(), c);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    Numbers values(static_cast<std::size_t>(tensor.size()), name.ends_with("norm.weight") ? 1.0 : 0.0);
    if (name == "model.embed_tokens.weight") values = {1, 1, 1, 1};
    if (name == "model.norm.weight") values = {1, 0};
    if (name.ends_with("shared_head.norm.weight")) values = {0, 1};
    if (name == "lm_head.weight") values = {std::log(0.6), std::log(0.2), std::log(0.4), std::log(0.8)};
    if (name.ends_with("eh_proj.weight")) values[0] = values[5] = 1;  // [2, embedding | hidden]
    tensor.assign(values);
  });
  constexpr std::size_t runs = 10000, places = 12;
  const std::vector<TokenIds> prompts(runs, TokenIds{0});
  for (const Verification verification : {Verification::exact, Verification::block}) {
    GenerateOptions options;
    options.max_tokens = places;
    options.draft = 3;
    options.sampling.temperature = 1;
    options.draft_tokens = DraftTokens::drawn;
    options.verification = verification;
    double zeros = 0;
    const auto s = generate_batch(model, prompts, 64, options, [&](std::size_t, std::int32_t token) {
      zeros += token == 0 ? 1 : 0;
      return true;
    });
    const double tokens = runs * places;
    INFO("verification " << static_cast<int>(verification));
    CHECK(std::abs(zeros / tokens - 0.6) < 4 * std::sqrt(0.24 / tokens));
    if (verification == Verification::exact) CHECK(s.acceptance(0) == doctest::Approx(0.6).epsilon(0.02));
  }
}

TEST_SUITE_END();
