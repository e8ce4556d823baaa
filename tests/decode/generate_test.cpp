#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/generate.hpp");

namespace {

using Tokens = std::vector<std::int32_t>;

struct Output {
  Tokens tokens;
  DecodeStatistics statistics;
};

template <typename T>
Output run(const Transformer<T, Cpu>& model, const Tokens& prompt, const GenerateOptions& options) {
  Output out;
  out.statistics = generate(model, prompt, options, [&](std::int32_t token) {
    out.tokens.push_back(token);
    return true;
  });
  return out;
}

Tokens count_from(std::int32_t first, std::int32_t last) {
  Tokens tokens;
  for (std::int32_t t = first; t <= last; ++t) tokens.push_back(t);
  return tokens;
}

Tokens random_prompt(std::uint64_t stream, Index length, Index vocab) {
  return random_ids({length}, stream, 0, vocab).to_host();
}

}  // namespace

TEST_CASE_TEMPLATE("SPEC 11.13: greedy drafted text is byte-equal to plain greedy text", T, float, double,
                   bf16) {
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
        const Tokens prompt = random_prompt(static_cast<std::uint64_t>(length), length, 5);
        GenerateOptions options;
        options.max_tokens = 40;
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
  const Tokens prompt{3, 1, 4, 1, 5};
  GenerateOptions options;
  options.max_tokens = 20;
  Tokens text = prompt;
  for (int i = 0; i < 20; ++i) text.push_back(argmax(std::span<const double>(logits(model, text).back())));
  CHECK(run(model, prompt, options).tokens == Tokens(text.begin() + 5, text.end()));
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
      options.stop = stop;
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
    Tokens seen;
    const auto statistics = generate(model, {2}, options, [&](std::int32_t token) {
      seen.push_back(token);
      return token != 8;
    });
    CHECK(seen == count_from(3, 8));
    CHECK(statistics.tokens == 6);
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
  const auto says = [](const Transformer<double, Cpu>& m, const Tokens& prompt, const auto& change) {
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
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.draft = -1; }) ==
        "[generate] draft = -1: must be 0 (plain) or positive");
  CHECK(says(plain, {0}, nothing) == "");
  CHECK(says(plain, {0}, [](GenerateOptions& o) { o.draft = 2; }) ==
        "[generate] draft = 2: this model has no MTP module (num_nextn_predict_layers = 0)");
  CHECK(says(model, {0}, [](GenerateOptions& o) { o.sampling.temperature = -1; }) ==
        "[sampling] temperature = -1: must be 0 (greedy) or positive");
  CHECK(says(model, {40}, nothing) != "");
  CHECK(says(model, {-1}, nothing) != "");
}

TEST_SUITE_END();
