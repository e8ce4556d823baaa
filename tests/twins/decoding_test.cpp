// Decoding on a GPU: fused passes against the ops one by one, bits of a row alone and beside others, text
// against the host's and against plain decoding.

#include <mtpx/decode/generate.hpp>

#include "support/model.hpp"
#include "support/not_finite.hpp"
#include "twins/fused_configs.hpp"
#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: decoding");

namespace {

using TokenIds = std::vector<std::int32_t>;

TokenIds random_tokens(Index count, Index vocab, std::uint64_t seed) {
  return random_ids({count}, seed, 0, vocab).to_host();
}

template <typename T, typename D>
TokenIds text(const Transformer<T, D>& model, const TokenIds& prompt, const GenerateOptions& options) {
  TokenIds all;
  generate(model, prompt, options, [&](std::int32_t token) {
    all.push_back(token);
    return true;
  });
  return all;
}

template <typename T, typename D>
TokenIds text(const Transformer<T, D>& model, const TokenIds& prompt, Index draft, Index count,
              double temperature = 0) {
  GenerateOptions options;
  options.draft = draft;
  options.max_tokens = count;
  options.sampling.temperature = temperature;
  return text(model, prompt, options);
}

}  // namespace

TEST_CASE("twins: races fused with the head have the winners of races of its logits") {
  Config c = fused_config(false, false);
  c.vocab_size = 4103;
  const auto model = random_model<bf16, Cuda>(c, 7, 0.1);
  Tensor<bf16, Cuda> x(device<Cuda>(), {16, c.hidden_size});
  std::vector<bf16> values;
  for (Index i = 0; i < x.size(); ++i) values.push_back(bf16(static_cast<float>(normal(3, 4, i))));
  x.assign(values);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<Draw> draws;
    for (std::uint64_t r = 0; r < 16; ++r)
      draws.push_back({{r % 5 == 0 ? 0.0 : 0.3 * static_cast<double>(r)}, 0, {seed, r}});
    const auto on_device = Tensor<Draw, Cuda>::from(device<Cuda>(), {16}, draws);
    const auto ids = [&](Index rows, bool whole) {
      const Tensor<std::int32_t, Cuda> to(device<Cuda>(), {rows});
      race_tokens(x.slice_front(0, rows), model.head(0), on_device, whole, 1, to);
      return to.to_host();
    };
    for (const Index rows : {1, 2, 9, 16}) CHECK(ids(rows, true) == ids(rows, false));
  }
}

TEST_CASE("twins: tokens of some of a head's rows, fused with it, are those of its logits") {
  constexpr Index vocab = 9001, hidden = 64, rows = 16;
  std::vector<bf16> states, weights;
  for (Index i = 0; i < rows * hidden; ++i) states.push_back(bf16(static_cast<float>(normal(3, 4, i))));
  for (Index i = 0; i < vocab * hidden; ++i) weights.push_back(bf16(static_cast<float>(normal(5, 6, i))));
  for (Index i = 0; i < hidden; ++i) {  // all of these tie
    for (const Index same : {40, 4000, 8998})
      weights[static_cast<std::size_t>(same * hidden + i)] = states[static_cast<std::size_t>(i)];
  }
  const auto x = Tensor<bf16, Cuda>::from(device<Cuda>(), {rows, hidden}, states);
  const Weight<bf16, Cuda> w(Tensor<bf16, Cuda>::from(device<Cuda>(), {vocab, hidden}, weights));
  for (const std::int32_t step : {1, 7, 333}) {
    TokenIds some{40, 4000};
    for (std::int32_t id = 4001; id < 9000; id += step) some.push_back(id);
    const TokenHead<bf16, Cuda> head(w, some);
    const auto logits = logits_of(x, head).to_host();
    const Tensor<std::int32_t, Cuda> chosen(device<Cuda>(), {rows}), raced(device<Cuda>(), {rows}),
        cut(device<Cuda>(), {rows});
    std::vector<Draw> draws;
    for (std::uint64_t r = 0; r < rows; ++r)
      draws.push_back({{r % 5 == 0 ? 0.0 : 0.3 * static_cast<double>(r)}, 0, {9, r}});
    const auto on_device = Tensor<Draw, Cuda>::from(device<Cuda>(), {rows}, draws);
    choose_tokens(x, head, chosen);
    race_tokens(x, head, on_device, true, 1, raced);
    race_tokens(x, head, on_device, false, 1, cut);
    CAPTURE(step);
    CHECK(chosen.to_host()[0] == 40);
    CHECK(raced.to_host() == cut.to_host());
    for (std::size_t r = 0; r < rows; ++r) {
      const auto row = std::span(logits).subspan(r * vocab, vocab);
      CHECK(chosen.to_host()[r] == argmax(std::span<const float>(row)));
      CHECK(raced.to_host()[r] == race(std::span<const float>(row), draws[r].sampling, draws[r].noise));
      std::size_t left = 0;
      for (std::size_t i = 0; i < vocab; ++i) left += std::isfinite(row[i]) ? 1 : 0;
      CHECK(left == some.size());
    }
  }
}

TEST_CASE("twins: logits that are not finite end the text with an error, however tokens are found") {
  check_not_finite<float, Cuda>(mixture_config(1));
  check_not_finite<bf16, Cuda>(mixture_config(1));
  check_not_finite<bf16, Cuda>(fused_config(true, true));
}

TEST_CASE("twins: a logit that is not finite gives the host's negative id, fused with the head or not") {
  constexpr Index vocab = 4103, hidden = 64;
  std::vector<bf16> finite;
  for (Index i = 0; i < vocab * hidden; ++i) finite.push_back(bf16(static_cast<float>(normal(5, 6, i))));
  for (const Index bad : {0, 1, 2000, 4102}) {
    std::vector<bf16> weights = finite;
    std::fill_n(weights.begin() + bad * hidden, hidden, bf16(std::numeric_limits<float>::infinity()));
    for (const double temperature : {0.0, 0.7}) {
      const auto tokens = [&]<typename D>(const D& on, bool whole) {
        const Weight<bf16, D> head(Tensor<bf16, D>::from(on, {vocab, hidden}, weights));
        const auto ones = std::vector<bf16>(3 * hidden, bf16(1.0F));
        const auto x = Tensor<bf16, D>::from(on, {3, hidden}, ones);
        const auto draws = Tensor<Draw, D>::from(on, {3}, std::vector<Draw>(3, {{temperature}, 0, {1, 2}}));
        const Tensor<std::int32_t, D> to(on, {3});
        race_tokens(x, head, draws, whole, 1, to);
        return to.to_host();
      };
      const TokenIds want(3, ~static_cast<std::int32_t>(bad));
      CHECK(tokens(device<Cpu>(), true) == want);
      CHECK(tokens(device<Cuda>(), true) == want);
      CHECK(tokens(device<Cuda>(), false) == want);
    }
  }
}

TEST_CASE("twins: a few tokens of text, drafted and drawn") {
  const auto check = [&]<typename T>(T, const Config& c) {
    const auto model = random_model<T, Cuda>(c, 5, 0.3);
    const TokenIds prompt = random_tokens(290, c.vocab_size, 9);
    CHECK(text(model, prompt, 3, 6, 0.8) == text(model, prompt, 0, 6, 0.8));
  };
  Config small = mixture_config(2);
  small.max_position_embeddings = 400;
  check(double{}, small);
  check(float{}, small);
  check(bf16{}, small);
  check(bf16{}, fused_config(true, true));
  check(bf16{}, cluster_config(6, 192));
}

TEST_SUITE_END();

// What whole texts show, and a checker of races could not wait for.
TEST_SUITE_BEGIN("twins: text");

TEST_CASE("twins: text of the GPU is the host's; drafted text is plain text, batches change nothing") {
  Config small = mixture_config(2);
  small.max_position_embeddings = 400;
  const auto check = [&]<typename T>(T, const Config& c, bool as_host) {
    const auto model = random_model<T, Cuda>(c, 5, 0.3);
    const TokenIds prompt = random_tokens(290, c.vocab_size, 9);
    for (const double temperature : {0.0, 0.8}) {
      const TokenIds plain = text(model, prompt, 0, 80, temperature);
      for (const Index k : {1, 2, 5}) CHECK(text(model, prompt, k, 80, temperature) == plain);
      GenerateOptions in_tree;
      in_tree.max_tokens = 80;
      in_tree.sampling.temperature = temperature;
      for (const auto& tree :
           {std::vector<Index>{3, 2}, std::vector<Index>{2, 1, 2}, std::vector<Index>{4, 3, 2}}) {
        in_tree.draft = static_cast<Index>(tree.size());
        in_tree.tree = tree;
        CHECK(text(model, prompt, in_tree) == plain);
      }
      if (as_host) CHECK(text(random_model<T, Cpu>(c, 5, 0.3), prompt, 2, 80, temperature) == plain);
    }
    // More rows than a pass may have.
    std::vector<TokenIds> prompts, texts(20), alone;
    for (std::uint64_t i = 0; i < 20; ++i) {
      prompts.push_back(random_tokens(3 + static_cast<Index>(i), c.vocab_size, 20 + i));
      alone.push_back(text(model, prompts.back(), 0, 30));
    }
    for (const Index k : {0, 4}) {
      GenerateOptions options;
      options.draft = k;
      if (k > 0) options.tree = {2, 2};
      options.max_tokens = 30;
      for (TokenIds& t : texts) t.clear();
      generate_batch(model, prompts, 20, options, [&](std::size_t i, std::int32_t token) {
        texts[i].push_back(token);
        return true;
      });
      CHECK(texts == alone);
    }
  };
  check(double{}, small, true);
  check(float{}, small, true);
  check(bf16{}, small, false);
  check(bf16{}, fused_config(true, true), false);
  check(bf16{}, cluster_config(8, 160), false);
  Config tied = fused_config(true, true);
  tied.tie_word_embeddings = true;
  tied.mtpx_own_embeddings = {1};
  tied.mtpx_own_heads = {2};
  check(bf16{}, tied, false);
  Config v2 = fused_config(true, false);
  v2.scoring_func = ScoringFunc::softmax;
  v2.norm_topk_prob = false;
  check(bf16{}, v2, false);
}

TEST_CASE("twins: sequences that come and go have the texts of plain decoding") {
  const auto model = random_model<bf16, Cuda>(fused_config(true, true), 5, 0.3);
  constexpr Index most = 90;  // tokens of a text
  std::vector<TokenIds> prompts, plain;
  for (std::uint64_t i = 0; i < 9; ++i) {
    prompts.push_back(random_tokens(2 + 7 * static_cast<Index>(i), model.config.vocab_size, 20 + i));
    plain.push_back(prompts.back());
    const TokenIds more = text(model, prompts.back(), 0, most + 10);
    plain.back().insert(plain.back().end(), more.begin(), more.end());
  }
  GenerateOptions options;
  options.draft = 1;
  constexpr Index slots = 6;
  Speculator<bf16, Cuda> decoder(model, options, slots);
  std::vector<std::pair<Index, std::size_t>> running;  // slot, prompt
  for (std::uint64_t round = 0; round < 1000; ++round) {
    const auto dice = Philox::block(11, 5, round);
    if (static_cast<Index>(running.size()) < slots && dice[0] % 4 == 0) {
      const std::size_t which = dice[1] % prompts.size();
      running.emplace_back(decoder.add(prompts[which], 1), which);
    } else if (!running.empty() && dice[0] % 8 == 1) {
      const auto gone = running.begin() + static_cast<std::ptrdiff_t>(dice[1] % running.size());
      decoder.remove(gone->first);
      running.erase(gone);
    } else if (!running.empty()) {
      decoder.step();
    }
    for (auto at = running.begin(); at != running.end();) {
      const auto& tokens = decoder.tokens(at->first);
      const TokenIds& want = plain[at->second];
      REQUIRE(tokens.size() <= want.size());
      REQUIRE(std::equal(tokens.begin(), tokens.end(), want.begin()));
      if (static_cast<Index>(tokens.size() - prompts[at->second].size()) < most) {
        ++at;
        continue;
      }
      decoder.remove(at->first);
      at = running.erase(at);
    }
  }
}

TEST_CASE("twins: texts of drawn drafts and of every rule are the host's, alone and side by side") {
  Config c = mixture_config(2);
  c.vocab_size = 40;
  const auto on_gpu = random_model<double, Cuda>(c, 5, 0.3);
  const auto on_host = random_model<double, Cpu>(c, 5, 0.3);
  GenerateOptions options;
  options.max_tokens = 60;
  options.seed = 3;
  Index stood = 0;
  for (const double temperature : {0.0, 0.9}) {
    for (const Verification by : {Verification::exact, Verification::block, Verification::lossy_typical}) {
      for (const DraftTokens drafts : {DraftTokens::coupled, DraftTokens::drawn}) {
        options.sampling = {temperature, 30, 0.95};
        options.verification = by;
        options.draft_tokens = drafts;
        INFO("temperature " << temperature << ", rule " << static_cast<int>(by) << ", drafts "
                            << static_cast<int>(drafts));
        for (const Index k : {1, 3}) {
          options.draft = k;
          CHECK(text(on_gpu, {1, 2, 3}, options) == text(on_host, {1, 2, 3}, options));
        }
        const std::vector<TokenIds> prompts{{1, 2, 3}, {4}, {5, 6}, {7, 8, 9, 10}, {11}};
        const auto side_by_side = [&](const auto& model, Index batch) {
          std::vector<TokenIds> texts(prompts.size());
          const DecodeStatistics run =
              generate_batch(model, prompts, batch, options, [&](std::size_t i, std::int32_t token) {
                texts[i].push_back(token);
                return true;
              });
          for (const Index n : run.accepted) stood += n;
          return texts;
        };
        const auto alone = side_by_side(on_host, 1);
        for (const Index batch : {1, 2, 5}) CHECK(side_by_side(on_gpu, batch) == alone);
      }
    }
  }
  CHECK(stood > 100);
}

TEST_CASE("twins: drafts from some tokens: texts are plain ones, or the host's where drafts are drawn") {
  const auto some = [](auto& model) {
    TokenIds ids;
    for (std::int32_t id = 0; id < model.config.vocab_size; id += 1 + id % 3) ids.push_back(id);
    model.draft_from(ids);
  };
  const auto check = [&]<typename T>(T, const Config& c) {
    auto model = random_model<T, Cuda>(c, 5, 0.3);
    some(model);
    for (const double temperature : {0.0, 0.8}) {
      const TokenIds plain = text(model, {1, 2, 3}, 0, 60, temperature);
      for (const Index k : {1, 3}) CHECK(text(model, {1, 2, 3}, k, 60, temperature) == plain);
    }
  };
  check(double{}, mixture_config(2));
  check(bf16{}, fused_config(true, true));
  Config c = mixture_config(2);
  c.vocab_size = 40;
  auto on_gpu = random_model<double, Cuda>(c, 5, 0.3);
  auto on_host = random_model<double, Cpu>(c, 5, 0.3);
  some(on_gpu);
  some(on_host);
  GenerateOptions options;
  options.max_tokens = 50;
  options.draft = 3;
  options.draft_tokens = DraftTokens::drawn;
  for (const SamplingOptions& sampling : {SamplingOptions{0.9}, SamplingOptions{0.9, 30, 0.95}}) {
    for (const Verification by : {Verification::exact, Verification::block}) {
      options.sampling = sampling;
      options.verification = by;
      CHECK(text(on_gpu, {1, 2, 3}, options) == text(on_host, {1, 2, 3}, options));
    }
  }
}

TEST_CASE("twins: texts of drawn drafts depend on nobody beside them, though passes are cut") {
  const auto check = [&]<typename T>(T, const Config& c) {
    const auto model = random_model<T, Cuda>(c, 5, 0.3);
    GenerateOptions options;
    options.max_tokens = 25;
    options.sampling.temperature = 0.9;
    options.draft_tokens = DraftTokens::drawn;
    options.verification = Verification::block;
    std::vector<TokenIds> prompts;
    for (std::uint64_t i = 0; i < 70; ++i)
      prompts.push_back(random_tokens(3 + static_cast<Index>(i) % 9, c.vocab_size, i));
    for (const Index k : {1, 3}) {
      options.draft = k;
      std::vector<TokenIds> alone;
      for (const Index batch : {1, 20, 70}) {
        CAPTURE(k);
        CAPTURE(batch);
        std::vector<TokenIds> texts(prompts.size());
        generate_batch(model, prompts, batch, options, [&](std::size_t i, std::int32_t token) {
          texts[i].push_back(token);
          return true;
        });
        if (batch == 1) alone = texts;
        CHECK(texts == alone);
      }
    }
  };
  check(double{}, mixture_config(2));
  check(bf16{}, mixture_config(2));
  check(bf16{}, fused_config(true, true));
}

TEST_CASE("twins: a token outside the vocabulary is an error on a GPU, too") {
  const auto model = random_model<float, Cuda>(mixture_config(1), 5);
  Speculator<float, Cuda> decoder(model, GenerateOptions{});
  CHECK_THROWS_WITH_AS(decoder.add(TokenIds{1, 11}, 0),
                       "[embedding] token id 11 at row 0, column 1 is outside the vocabulary of 11",
                       NumericError);
  CHECK_THROWS_AS(decoder.add(TokenIds{-1}, 0), NumericError);
  CHECK(decoder.add(TokenIds{1, 2}, 0) == 0);
}

TEST_SUITE_END();
