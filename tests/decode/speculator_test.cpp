#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/speculator.hpp");

namespace {

using Model = Transformer<double, Cpu>;
using Tokens = std::vector<std::int32_t>;

Ids row(const Tokens& tokens) { return tensor<std::int32_t>({1, static_cast<Index>(tokens.size())}, tokens); }

/// A fresh prefill of `tokens`, everything in one pass: the caches of all layers and modules, and the normed
/// states of all depths.
struct Prefill {
  KvCache<double, Cpu> cache;
  std::vector<Numbers> states;

  Prefill(const Model& model, const Tokens& tokens) : cache(model, 1, model.config.max_position_embeddings) {
    Tape tape(Mode::inference);
    const auto count = static_cast<Index>(tokens.size());
    auto h = model.decode(tape, row(tokens), decode_rows(device(), 0, 0, count), cache.trunk);
    states.push_back(host(h.normed.value()));
    for (Index k = 1; k <= static_cast<Index>(model.mtp.size()) && k < count; ++k) {
      const Tokens ahead(tokens.begin() + k, tokens.end());
      const auto rows = static_cast<Index>(ahead.size());
      h = model.decode_mtp(tape, k, take_front(h.carried, rows), row(ahead),
                           decode_rows(device(), 0, 0, rows), cache.modules[static_cast<std::size_t>(k - 1)]);
      states.push_back(host(h.normed.value()));
    }
  }
};

/// Entries 0 .. count - 1 of the only sequence.
Numbers entries(const LatentCache<double, Cpu>& cache, Index count) {
  const Numbers all = host(cache.entries);
  return {all.begin(), all.begin() + count * cache.entries.shape().width()};
}

/// Tokens t_0 .. t_e are final. Trunk entries up to e - 1, and entry p of module k with p + k <= e, are those
/// of a fresh prefill.
void check_caches(const Model& model, const KvCache<double, Cpu>& cache, Tokens tokens, Index e) {
  tokens.resize(static_cast<std::size_t>(e + 1));
  const Prefill fresh(model, tokens);
  for (std::size_t layer = 0; layer < model.layers.size(); ++layer)
    check_bits(entries(cache.trunk[layer], e), entries(fresh.cache.trunk[layer], e), cat("layer ", layer));
  for (std::size_t k = 1; k <= model.mtp.size(); ++k) {
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
Numbers chances(const Model& model, const Tokens& tokens, const SamplingOptions& sampling) {
  const Numbers z = logits(model, tokens).back();
  return distribution(std::span<const double>(z), sampling);
}

Tokens extended(Tokens tokens, Index next) {
  tokens.push_back(static_cast<std::int32_t>(next));
  return tokens;
}

}  // namespace

TEST_CASE("SPEC 11.15: after 200 rounds of drafts, caches equal those of a fresh prefill, bit for bit") {
  for (const Index depth : {1, 2, 3}) {
    for (const Index k : {depth, depth + 2}) {
      Config c = small_vocabulary(depth, depth == 2, 4);
      c.max_position_embeddings = 1000;
      const Model model = random_model(c, 20 + static_cast<std::uint64_t>(depth), 0.4);
      GenerateOptions options;
      options.draft = k;
      options.sampling.temperature = 1;
      options.seed = 5;
      Speculator<double, Cpu> speculator(model, options);
      speculator.start({1, 2, 0});
      for (int round = 1; round <= 200; ++round) {
        const auto e = static_cast<Index>(speculator.tokens().size()) - 1;
        REQUIRE(!speculator.step().empty());
        if (round < 4 || round % 40 == 0) {
          INFO("D = " << depth << ", K = " << k << ", round " << round);
          check_caches(model, speculator.cache(), speculator.tokens(), e);
        }
      }
      const DecodeStatistics& s = speculator.statistics();
      CHECK(s.drafts == 200);
      CHECK(s.passes == 200);
      Index stood = 0;
      for (std::size_t i = 0; i < s.accepted.size(); ++i) {
        stood += s.accepted[i];
        CHECK(s.accepted[i] < 150);  // often wrong
        if (i > 0) CHECK(s.accepted[i] <= s.accepted[i - 1]);
      }
      CHECK(s.accepted[0] > 20);  // often right
      CHECK(s.accepted[1 % s.accepted.size()] > 2);
      // Every pass emits what stood and one more.
      CHECK(s.tokens == 1 + stood + s.passes);
      CHECK(static_cast<Index>(speculator.tokens().size()) == 3 + s.tokens);
      CHECK(s.mean_length() == doctest::Approx(1 + static_cast<double>(stood) / 200).epsilon(1e-14));
    }
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
    speculator.start({0, 4, 2, 2, 1, 3, 0});
    for (int round = 0; round < 8; ++round) {
      Tokens text = speculator.tokens();
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
      CHECK(speculator.step().size() == stood + 1);
    }
  }
}

TEST_CASE("Transformer: decoding gives the states of the pass that training uses, trunk and modules") {
  for (const bool mixture : {false, true}) {
    const Model model = random_model(small_vocabulary(3, mixture, 11), 41);
    const Tokens tokens = random_ids({20}, 3, 0, 11).to_host();
    const Prefill decoded(model, tokens);
    Tokens padded = extended(tokens, 0);
    Tape tape(Mode::inference);
    const auto trained = model(tape, {row(padded), {}, false});
    REQUIRE(decoded.states.size() == 4);
    for (std::size_t k = 0; k < 4; ++k) {
      check_close(decoded.states[k], host(trained.normed[k].value()), 1e-12, cat("depth ", k));
      const auto head = [&](const Numbers& states) {
        const Shape shape{1, static_cast<Index>(states.size()) / 8, 8};
        return host(model.lm_head(tape.constant(tensor<double>(shape, states))).value());
      };
      check_close(head(decoded.states[k]), head(host(trained.normed[k].value())), 1e-10, "logits");
    }
  }
}

TEST_CASE("SPEC 11.14: two tokens of a drafted round, enumerated: distributed as the model says") {
  const Model model = random_model(small_vocabulary(2, true, 5), 51, 0.5);
  for (const SamplingOptions& sampling :
       {SamplingOptions{1.0, 0, 1.0}, SamplingOptions{0.6, 4, 0.9}, SamplingOptions{2.0, 2, 1.0}}) {
    const Tokens text{0, 3, 1, 4};
    const auto draft = [&](const Tokens& known, Index k) {
      const Numbers z = logits(model, known, k).back();
      return static_cast<std::size_t>(argmax(std::span<const double>(z)));
    };
    /// What comes out where `drafted` was drafted for certain: accepted or replaced.
    const auto settled = [](const Numbers& p, std::size_t drafted) {
      Numbers q(p.size(), 0.0), out = q;
      q[drafted] = 1;
      double kept = 0;  // the share of u that accepts, on a grid finer than any chance here
      for (double bit = 0.5; bit > 1e-17; bit /= 2) kept += accepts(p[drafted], 1.0, kept + bit) ? bit : 0;
      const Numbers rest = residual(p, q);
      for (std::size_t x = 0; x < p.size(); ++x) out[x] = (x == drafted ? kept : 0.0) + (1 - kept) * rest[x];
      return out;
    };
    const Numbers p = chances(model, text, sampling);
    const std::size_t first = draft(text, 1);
    const Numbers got = settled(p, first);
    double total = 0;
    for (std::size_t x = 0; x < 5; ++x) {
      const Tokens longer = extended(text, static_cast<Index>(x));
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

TEST_CASE("SPEC 11.14: sampled text, plain and drafted, against the model's chances: chi-square") {
  Config c = small_vocabulary(2, true, 4);
  c.num_hidden_layers = 2;
  const Model model = random_model(c, 61, 0.5);
  const Tokens prompt{1, 3, 0};
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
    for (const Index k : {0, 1, 3}) {
      GenerateOptions options;
      options.max_tokens = 3;
      options.draft = k;
      options.sampling = sampling;
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
      INFO("K = " << k << ": chi-square " << chi_square << " with " << freedom << " degrees of freedom");
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
    Tokens tokens;
    generate(model, {0}, options, [&](std::int32_t token) {
      tokens.push_back(token);
      return true;
    });
    return tokens;
  };
  CHECK(text(1) == text(1));
  CHECK(text(1) != text(2));
}

TEST_CASE("Speculator: a full context emits nothing more") {
  const auto model = counting_model(12, {true, true}, 6);
  GenerateOptions options;
  options.draft = 4;
  Speculator<double, Cpu> speculator(model, options);
  CHECK(speculator.start({0}) == 1);
  CHECK(speculator.step() == Tokens{2, 3, 4, 5});  // a draft of three, cut from four, and one more
  CHECK(speculator.step().empty());
  CHECK(speculator.step().empty());
  CHECK(speculator.tokens().size() == 6);
  CHECK(speculator.statistics().passes == 1);
  CHECK(speculator.statistics().drafts == 0);  // full drafts only
}

TEST_SUITE_END();
