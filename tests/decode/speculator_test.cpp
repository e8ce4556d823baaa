#include <mtpx/decode/generate.hpp>
#include <mtpx/kernels/cpu/verify.hpp>

#include "support/allocations.hpp"
#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/speculator.hpp");

namespace {

using Model = Transformer<double, Cpu>;
using TokenIds = std::vector<std::int32_t>;

Ids row(const TokenIds& tokens) {
  return tensor<std::int32_t>({1, static_cast<Index>(tokens.size())}, tokens);
}

/// A fresh prefill of `tokens`, some rows a pass: the caches of all layers and modules, and the normed states
/// of all depths.
struct Prefill {
  KvCache<double, Cpu> cache;
  std::vector<Numbers> states;

  Prefill(const Model& model, const TokenIds& tokens, Index rows_a_pass = 1 << 20)
      : cache(model, 1, model.config.max_position_embeddings, model.config.num_nextn_predict_layers) {
    Tape tape(Mode::inference);
    const auto modules = model.config.num_nextn_predict_layers;
    const auto count = static_cast<Index>(tokens.size());
    for (Index k = 0; k <= modules && k < count; ++k) {
      RowList list;
      for (Index p = 0; p + k < count; ++p) list.add(tokens[static_cast<std::size_t>(p + k)], 0, p);
      Numbers& normed = states.emplace_back();
      const auto at = static_cast<std::size_t>(k);
      for (Index begin = 0; begin < list.size(); begin += rows_a_pass) {
        const Index end = std::min(list.size(), begin + rows_a_pass);
        const auto rows = decode_rows(device(), list, begin, end);
        const Ids ids = row({list.tokens.begin() + begin, list.tokens.begin() + end});
        Hidden<double, Cpu> h;
        if (k == 0) {
          h = model.decode(tape, ids, rows, cache.trunk);
        } else {
          const auto from = tape.constant(gather_rows(cache.states[at - 1], rows));
          h = model.decode_mtp(tape, k, from, ids, rows, cache.modules[at - 1]);
        }
        if (k < modules) store_rows(h.carried.value(), rows, cache.states[at]);
        const Numbers part = host(h.normed.value());
        normed.insert(normed.end(), part.begin(), part.end());
      }
    }
  }
};

/// Entries 0 .. count - 1 of the only sequence.
Numbers entries(const LatentCache<double, Cpu>& cache, Index count) {
  const Numbers all = host(cache.entries);
  return {all.begin(), all.begin() + count * cache.entries.shape().width()};
}

/// TokenIds t_0 .. t_e are final. Trunk entries up to e - 1, and entry p of module k with p + k <= e, are
/// those of a fresh prefill.
void check_caches(const Model& model, const KvCache<double, Cpu>& cache, TokenIds tokens, Index e,
                  Index rows_a_pass) {
  tokens.resize(static_cast<std::size_t>(e + 1));
  const Prefill fresh(model, tokens, rows_a_pass);
  for (std::size_t layer = 0; layer < model.layers.size(); ++layer)
    check_bits(entries(cache.trunk[layer], e), entries(fresh.cache.trunk[layer], e), cat("layer ", layer));
  for (std::size_t k = 1; k <= cache.modules.size(); ++k) {
    const Index count = e - static_cast<Index>(k) + 1;
    if (count <= 0) continue;
    check_bits(entries(cache.modules[k - 1], count), entries(fresh.cache.modules[k - 1], count),
               cat("module ", k));
  }
}

Config small_vocabulary(Index depth, bool mixture, Index vocab) {
  Config c = mixture ? mixture_config(depth) : dense_config(depth);
  c.vocab_size = vocab;
  return c;
}

/// softmax, after the options' temperature and cuts.
Numbers chances(const Model& model, const TokenIds& tokens, const SamplingOptions& sampling) {
  const Numbers z = logits(model, tokens).back();
  return distribution(std::span<const double>(z), sampling);
}

TokenIds extended(TokenIds tokens, Index next) {
  tokens.push_back(static_cast<std::int32_t>(next));
  return tokens;
}

}  // namespace

TEST_CASE("after 1000 rounds of drafts, caches equal those of a fresh prefill, bit for bit") {
  for (const Index depth : {1, 2, 3}) {
    for (const Index k : {depth, depth + 2}) {
      Config c = small_vocabulary(depth, depth == 2, 4);
      c.max_position_embeddings = 6000;
      const Model model = random_model(c, 20 + static_cast<std::uint64_t>(depth), 0.4);
      GenerateOptions options;
      options.draft = k;
      options.sampling.temperature = 1;
      if (depth > 1) {
        options.draft_tokens = DraftTokens::drawn;
        if (k > depth) options.verification = Verification::block;
      }
      Speculator<double, Cpu> speculator(model, options);
      speculator.add(TokenIds{1, 2, 0}, 5);
      for (int round = 1; round <= 1000; ++round) {
        const auto e = static_cast<Index>(speculator.tokens().size()) - 1;
        speculator.step();
        REQUIRE(!speculator.emitted().empty());
        if (round < 4 || round % 250 == 0) {
          INFO("D = " << depth << ", K = " << k << ", round " << round);
          check_caches(model, speculator.cache(), speculator.tokens(), e, 1 << 20);  // fed whole
          if (round < 4 || round == 250)
            check_caches(model, speculator.cache(), speculator.tokens(), e, k + 1);
        }
      }
      const DecodeStatistics& s = speculator.statistics();
      CHECK(s.drafts == 1000);
      CHECK(s.passes == 1000);
      Index stood = 0;
      for (std::size_t i = 0; i < s.accepted.size(); ++i) {
        stood += s.accepted[i];
        CHECK(s.drafted[i] == 1000);
        CHECK(s.accepted[i] < 800);  // often wrong
        if (i > 0) CHECK(s.accepted[i] <= s.accepted[i - 1]);
      }
      CHECK(s.accepted[0] > 100);  // often right
      CHECK(s.accepted[1 % s.accepted.size()] > 10);
      // Every pass emits what stood and one more.
      CHECK(s.tokens == 1 + stood + s.passes);
      CHECK(static_cast<Index>(speculator.tokens().size()) == 3 + s.tokens);
      CHECK(s.mean_length() == doctest::Approx(1 + static_cast<double>(stood) / 1000).epsilon(1e-14));
    }
  }
}

TEST_CASE("Speculator: several sequences, each drafting as much as it has room for, leave the caches true") {
  Config c = small_vocabulary(2, true, 4);
  c.max_position_embeddings = 40;
  const Model model = random_model(c, 22, 0.4);
  GenerateOptions options;
  options.draft = 3;
  options.sampling.temperature = 1;
  Speculator<double, Cpu> together(model, options, 3);
  const std::vector<TokenIds> prompts{{1}, {2, 3, 0, 1, 1, 2, 3, 3, 2, 0}, {0, 2, 1}};
  std::vector<TokenIds> alone;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    CHECK(together.add(prompts[i], i) == static_cast<Index>(i));
    Speculator<double, Cpu> single(model, options);
    single.add(prompts[i], i);
    while (!single.full(0)) single.step();
    alone.push_back(single.tokens());
    CHECK(alone.back().size() == 40);
  }
  CHECK_THROWS_WITH_AS(together.add(prompts[0], 0), "[generate] all 3 slots are taken", ConfigError);
  for (int round = 0; round < 60; ++round) together.step();
  for (Index slot = 0; slot < 3; ++slot) {
    CHECK(together.full(slot));
    CHECK(together.tokens(slot) == alone[static_cast<std::size_t>(slot)]);
    CHECK(together.emitted(slot).empty());
  }
  together.remove(1);
  CHECK(together.add(prompts[2], 2) == 1);  // a used slot remembers nothing
  while (!together.full(1)) together.step();
  CHECK(together.tokens(1) == alone[2]);
}

TEST_CASE("Speculator: automatic drafting changes no token, whenever it starts and stops") {
  Config c = small_vocabulary(2, true, 4);
  c.max_position_embeddings = 900;
  const Model model = random_model(c, 24, 0.4);
  for (const double temperature : {0.0, 1.0}) {
    const auto text = [&](Index draft) {
      GenerateOptions options;
      options.max_tokens = 2000;
      options.draft = draft;
      options.sampling.temperature = temperature;
      TokenIds tokens;
      // A prompt of more than one pass.
      const auto s = generate(model, random_ids({300}, 3, 0, 4).to_host(), options, [&](std::int32_t t) {
        tokens.push_back(t);
        return true;
      });
      CHECK((draft != GenerateOptions::automatic || s.drafts > 0));
      return tokens;
    };
    const TokenIds plain = text(0);
    CHECK(plain.size() == 600);
    for (int run = 0; run < 3; ++run) CHECK(text(GenerateOptions::automatic) == plain);
    CHECK(text(4) == plain);
  }
}

TEST_CASE("Speculator: a round allocates nothing, plain or drafted") {
  Config c = small_vocabulary(2, true, 4);
  c.max_position_embeddings = 4000;
  const Model model = random_model(c, 25, 0.4);
  for (const Index k : {0, 1, 4}) {
    for (const bool drawn : {false, true}) {
      GenerateOptions options;
      options.draft = k;
      options.sampling = {1.0, 3, 0.95};
      if (drawn) {
        options.draft_tokens = DraftTokens::drawn;
        options.verification = Verification::block;
      }
      Speculator<double, Cpu> speculator(model, options, 2);
      speculator.add(TokenIds{1, 2, 3}, 1);
      speculator.add(TokenIds{3, 2}, 2);
      // Buffers are kept by size: once every number of rows has come up, nothing is allocated any more.
      int quiet = 0;
      for (int round = 0; round < 500 && quiet < 100; ++round) {
        const std::size_t before = allocations() + device().pool().allocations();
        speculator.step();
        quiet = allocations() + device().pool().allocations() == before ? quiet + 1 : 0;
      }
      INFO("K = " << k << ", drawn " << drawn);
      CHECK(quiet == 100);
    }
  }
}

TEST_CASE("Speculator: prompts about as long as the chunks that they are decoded in") {
  Config c = small_vocabulary(1, false, 5);
  c.max_position_embeddings = 600;
  const Model model = random_model(c, 31, 0.5);
  for (const Index length : {1, 255, 256, 257, 258, 512, 513}) {
    CAPTURE(length);
    const TokenIds prompt = random_ids({length}, 3, 0, 5).to_host();
    GenerateOptions options;
    options.draft = 2;
    Speculator<double, Cpu> speculator(model, options);
    speculator.add(prompt, 0);
    for (int round = 0; round < 2; ++round) speculator.step();
    TokenIds text = prompt;
    while (text.size() < speculator.tokens().size())
      text.push_back(argmax(std::span<const double>(Numbers(logits(model, text).back()))));
    CHECK(speculator.tokens() == text);
  }
}

TEST_CASE("Speculator: drafts are the most likely tokens of the modules, exactly as trained") {
  // A model that says what it drafted: with greedy sampling, a draft stood iff it was the trunk's choice.
  for (const MtpHidden carried : {MtpHidden::post_norm, MtpHidden::pre_norm}) {
    Config c = small_vocabulary(3, true, 5);
    c.mtp_hidden = carried;
    const Model model = random_model(c, 31, 0.5);
    GenerateOptions options;
    options.draft = 3;
    Speculator<double, Cpu> speculator(model, options);
    speculator.add(TokenIds{0, 4, 2, 2, 1, 3, 0}, 0);
    for (int round = 0; round < 8; ++round) {
      TokenIds text = speculator.tokens();
      // Depth k's newest row, with the drafts before it as tokens.
      std::size_t stood = 0;
      for (Index k = 1; k <= 3; ++k) {
        const Numbers z = logits(model, text, k).back();
        const std::int32_t drafted = argmax(std::span<const double>(z));
        const Numbers main = logits(model, text).back();
        if (argmax(std::span<const double>(main)) != drafted) break;
        text.push_back(drafted);
        ++stood;
      }
      speculator.step();
      CHECK(speculator.emitted().size() == stood + 1);
    }
  }
}

TEST_CASE("one module for all depths drafts as that module alone does, from one depth's entries") {
  Config three = small_vocabulary(3, false, 5), one = small_vocabulary(1, false, 5);
  three.mtpx_heads = one.mtpx_heads = MtpHeads::repeated;
  const Model many = random_model(three, 61, 0.4), single = random_model(one, 61, 0.4);
  for (const Index k : {1, 2, 3, 5}) {
    GenerateOptions options;
    options.draft = k;
    options.sampling.temperature = 1;
    Speculator<double, Cpu> a(many, options), b(single, options);
    REQUIRE(a.cache().modules.size() == 1);
    a.add(TokenIds{1, 2, 0}, 5);
    b.add(TokenIds{1, 2, 0}, 5);
    for (int round = 0; round < 30; ++round) {
      const auto e = static_cast<Index>(a.tokens().size()) - 1;
      a.step();
      b.step();
      check_caches(many, a.cache(), a.tokens(), e, 1 << 20);
    }
    CHECK(a.tokens() == b.tokens());
    CHECK(a.statistics().accepted[0] > 0);
  }
}

TEST_CASE("Transformer: decoding gives the states of the pass that training uses, trunk and modules") {
  for (const bool mixture : {false, true}) {
    const Model model = random_model(small_vocabulary(3, mixture, 11), 41);
    const TokenIds tokens = random_ids({20}, 3, 0, 11).to_host();
    const Prefill decoded(model, tokens);
    TokenIds padded = extended(tokens, 0);
    Tape tape(Mode::inference);
    const auto trained = model(tape, {row(padded), {}, false});
    REQUIRE(decoded.states.size() == 4);
    for (std::size_t k = 0; k < 4; ++k) {
      check_close(decoded.states[k], host(trained.normed[k].value()), 1e-12, cat("depth ", k));
      const auto head = [&](const Numbers& states) {
        const Shape shape{1, static_cast<Index>(states.size()) / 8, 8};
        return host(linear(tape.constant(tensor<double>(shape, states)), model.head(0)).value());
      };
      const Numbers got = head(decoded.states[k]);
      check_close(got, head(host(trained.normed[k].value())), 1e-10, "logits");
    }
  }
}

TEST_CASE("two tokens of a drafted round, enumerated: distributed as the model says") {
  const Model model = random_model(small_vocabulary(2, true, 5), 51, 0.5);
  for (const SamplingOptions& sampling :
       {SamplingOptions{1.0, 0, 1.0}, SamplingOptions{0.6, 4, 0.9}, SamplingOptions{2.0, 2, 1.0}}) {
    const TokenIds text{0, 3, 1, 4};
    const auto draft = [&](const TokenIds& known, Index k) {
      const Numbers z = logits(model, known, k).back();
      return static_cast<std::size_t>(argmax(std::span<const double>(z)));
    };
    /// What comes out where `drafted` was drafted for certain: accepted or replaced.
    const auto settled = [](const Numbers& p, std::size_t drafted) {
      Numbers out(p.size(), 0.0);
      const auto token = static_cast<std::int32_t>(drafted);
      DraftRound round;  // of a chosen draft
      round.vocab = static_cast<Index>(p.size());
      round.drafts = &token;
      round.p_rows = p.data();
      const cpu::HostRound settles{round};
      double kept = 0;  // the share of u that accepts, on a grid finer than any chance here
      for (double bit = 0.5; bit > 1e-17; bit /= 2) kept += accepts(p[drafted], 1.0, kept + bit) ? bit : 0;
      const double left = settles.left(0, 1);
      for (std::size_t x = 0; x < p.size(); ++x) {
        out[x] = x == drafted ? kept : 0.0;
        if (left > 0) out[x] += (1 - kept) * settles.residual(0, 1, static_cast<Index>(x)) / left;
      }
      return out;
    };
    const Numbers p = chances(model, text, sampling);
    const std::size_t first = draft(text, 1);
    const Numbers got = settled(p, first);
    double total = 0;
    for (std::size_t x = 0; x < 5; ++x) {
      const TokenIds longer = extended(text, static_cast<Index>(x));
      const Numbers after = chances(model, longer, sampling);
      // The first draft stood: the second one counts. It was replaced: another round.
      const std::size_t second = x == first ? draft(longer, 2) : draft(longer, 1);
      const Numbers next = settled(after, second);
      for (std::size_t y = 0; y < 5; ++y) {
        CHECK(std::abs(got[x] * next[y] - p[x] * after[y]) <= 1e-12);
        total += got[x] * next[y];
      }
    }
    CHECK(std::abs(total - 1) <= 1e-12);
  }
}

TEST_CASE("sampled text, plain and drafted, against the model's chances: chi-square") {
  Config c = small_vocabulary(2, true, 4);
  c.num_hidden_layers = 2;
  const Model model = random_model(c, 61, 0.5);
  const TokenIds prompt{1, 3, 0};
  constexpr int runs = 3000;
  for (const SamplingOptions& sampling : {SamplingOptions{1.0, 0, 1.0}, SamplingOptions{1.5, 3, 0.95}}) {
    // Chances of the next three tokens, 64 cells.
    Numbers expected;
    const Numbers p = chances(model, prompt, sampling);
    for (Index a = 0; a < 4; ++a) {
      const Numbers pa = chances(model, extended(prompt, a), sampling);
      for (Index b = 0; b < 4; ++b) {
        const Numbers pb = chances(model, extended(extended(prompt, a), b), sampling);
        for (std::size_t d = 0; d < 4; ++d)
          expected.push_back(runs * p[static_cast<std::size_t>(a)] * pa[static_cast<std::size_t>(b)] * pb[d]);
      }
    }
    struct Way {
      Index k;
      DraftTokens tokens;
      Verification verification;
    };
    for (const Way& way :
         {Way{0, DraftTokens::coupled, Verification::exact},
          Way{3, DraftTokens::coupled, Verification::exact}, Way{1, DraftTokens::drawn, Verification::exact},
          Way{3, DraftTokens::drawn, Verification::exact},
          Way{3, DraftTokens::coupled, Verification::block}}) {
      GenerateOptions options;
      options.max_tokens = 3;
      options.draft = way.k;
      options.sampling = sampling;
      options.draft_tokens = way.tokens;
      options.verification = way.verification;
      Numbers seen(64, 0.0);
      for (int seed = 0; seed < runs; ++seed) {
        options.seed = static_cast<std::uint64_t>(seed);
        std::size_t cell = 0;
        generate(model, prompt, options, [&](std::int32_t token) {
          cell = cell * 4 + static_cast<std::size_t>(token);
          return true;
        });
        ++seen[cell];
      }
      double chi_square = 0, pooled_seen = 0, pooled_expected = 0;
      int cells = 0;
      for (std::size_t i = 0; i < 64; ++i) {
        if (expected[i] == 0) CHECK(seen[i] == 0);  // cut by top-k or top-p
        if (expected[i] < 5) {                      // too rare to count alone
          pooled_seen += seen[i];
          pooled_expected += expected[i];
          continue;
        }
        chi_square += (seen[i] - expected[i]) * (seen[i] - expected[i]) / expected[i];
        ++cells;
      }
      if (pooled_expected > 1) {
        const double miss = pooled_seen - pooled_expected;
        chi_square += miss * miss / pooled_expected;
        ++cells;
      }
      // Mean cells - 1, deviation sqrt(2 (cells - 1)): four deviations.
      const double freedom = cells - 1;
      INFO("K = " << way.k << ": chi-square " << chi_square << " with " << freedom << " degrees of freedom");
      CHECK(freedom > 10);
      CHECK(chi_square < freedom + 4 * std::sqrt(2 * freedom));
    }
  }
}

TEST_CASE("Speculator: the same seed gives the same text, another seed another one") {
  const Model model = random_model(small_vocabulary(2, false, 5), 71, 0.3);
  const auto text = [&](std::uint64_t seed) {
    GenerateOptions options;
    options.max_tokens = 30;
    options.draft = 2;
    options.seed = seed;
    options.sampling.temperature = 1;
    TokenIds tokens;
    generate(model, {0}, options, [&](std::int32_t token) {
      tokens.push_back(token);
      return true;
    });
    return tokens;
  };
  CHECK(text(1) == text(1));
  CHECK(text(1) != text(2));
}

TEST_CASE("Speculator: a sequence's own sampling, by default the decoder's; a used slot remembers none") {
  const Model model = random_model(small_vocabulary(2, false, 5), 71, 0.3);
  GenerateOptions options;
  options.draft = 2;
  options.sampling = {1.0, 3, 0.9};
  Speculator<double, Cpu> speculator(model, options);
  const auto text = [&](const auto&... sampling) {
    const Index slot = speculator.add(TokenIds{0, 1}, 4, sampling...);
    while (!speculator.full(slot)) speculator.step();
    speculator.remove(slot);
    return speculator.tokens(slot);
  };
  const TokenIds sampled = text(), greedy = text(SamplingOptions{}), hot = text(SamplingOptions{5.0});
  CHECK(greedy != sampled);
  CHECK(hot != sampled);
  CHECK(text() == sampled);
  CHECK(text(options.sampling) == sampled);
  Speculator<double, Cpu> by_default(model, {.draft = 2});
  by_default.add(TokenIds{0, 1}, 4);
  while (!by_default.full(0)) by_default.step();
  CHECK(by_default.tokens() == greedy);
  CHECK_THROWS_WITH_AS(speculator.add(TokenIds{0}, 0, {-1.0}),
                       "[sampling] temperature = -1: must be 0 (greedy) or positive", ConfigError);
  CHECK(text() == sampled);
}

TEST_CASE("Speculator: a full context emits nothing more") {
  const auto model = counting_model(12, {true, true}, 6);
  GenerateOptions options;
  options.draft = 4;
  Speculator<double, Cpu> speculator(model, options);
  const auto emitted = [&] { return TokenIds(speculator.emitted().begin(), speculator.emitted().end()); };
  speculator.add(TokenIds{0}, 0);
  CHECK(emitted() == TokenIds{1});
  speculator.step();
  CHECK(emitted() == TokenIds{2, 3, 4, 5});  // a draft of three, cut from four, and one more
  CHECK(speculator.full(0));
  speculator.step();
  CHECK(emitted().empty());
  CHECK(speculator.tokens().size() == 6);
  CHECK(speculator.statistics().passes == 1);
  CHECK(speculator.statistics().histogram == std::vector<Index>{0, 0, 0, 1});
}

TEST_SUITE_END();
