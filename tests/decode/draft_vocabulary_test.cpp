// Drafts that are picked from some tokens alone: they are cheaper, and change no text.

#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"
#include "support/races.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/drafts.hpp: a draft vocabulary");

namespace {

using SomeIds = std::vector<std::int32_t>;

/// softmax after temperature and cuts, over `ids` alone, [V].
Numbers distribution_of(const Numbers& logits, const SomeIds& ids, const SamplingOptions& sampling) {
  Numbers some, all(logits.size(), 0.0);
  for (const std::int32_t id : ids) some.push_back(logits[static_cast<std::size_t>(id)]);
  const Numbers p = distribution(std::span<const double>(some), sampling);
  for (std::size_t i = 0; i < ids.size(); ++i) all[static_cast<std::size_t>(ids[i])] = p[i];
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("TokenHead: of some tokens it is the head with no chance for the others", T, double, float,
                   bf16) {
  using A = acc_t<T>;
  constexpr Index vocab = 200, hidden = 16, rows = 5;
  const auto x = activation(random_tensor<T, Device>({rows, hidden}, 1)).value();
  auto weights = activation(random_tensor<T, Device>({vocab, hidden}, 2)).value().to_host();
  for (Index i = 0; i < hidden; ++i) {  // tokens that tie with each other
    for (const Index same : {63, 64, 130})
      weights[static_cast<std::size_t>(same * hidden + i)] =
          weights[static_cast<std::size_t>(7 * hidden + i)];
  }
  const Weight<T, Device> w(Tensor<T, Device>::from(device(), {vocab, hidden}, weights));
  SomeIds ids{7, 63, 64};
  for (std::int32_t id = 65; id < 199; id += 3) ids.push_back(id);
  const TokenHead<T, Device> some(w, ids);
  const auto all = host(logits_of(x, w)), of_some = host(logits_of(x, some));
  Numbers masked(all.size(), -std::numeric_limits<double>::infinity());
  for (std::size_t r = 0; r < rows; ++r) {
    for (const std::int32_t id : ids) {
      const std::size_t at = r * vocab + static_cast<std::size_t>(id);
      masked[at] = all[at];
    }
  }
  CHECK(of_some == masked);

  std::vector<Draw> draws;
  std::vector<std::int32_t> places;
  for (std::uint64_t r = 0; r < rows; ++r) {
    const std::vector<SamplingOptions> ways{{0.8}, {}, {1.0, 5}, {1.0, 0, 0.7}, {1.2, 100, 0.9}};
    draws.push_back({ways[r], 0.1 + 0.2 * static_cast<double>(r), {3, r}});
    places.push_back(static_cast<std::int32_t>(r));
  }
  const auto on_device = Tensor<Draw, Device>::from(device(), {rows}, draws);
  const auto of_rows = Tensor<std::int32_t, Device>::from(device(), {rows}, places);
  const Tensor<std::int32_t, Device> chosen(device(), {rows}), raced(device(), {rows}),
      drawn(device(), {rows});
  const Tensor<double, Device> table(device(), {rows, vocab});
  choose_tokens(x, some, chosen);
  race_tokens(x, some, on_device, false, 1, raced);
  draw_tokens(x, some, on_device, drawn, Kept{table.data(), of_rows.data()});
  const Numbers q = host(table);
  for (std::size_t r = 0; r < rows; ++r) {
    std::vector<A> row;
    for (std::size_t i = 0; i < vocab; ++i) row.push_back(static_cast<A>(masked[r * vocab + i]));
    const std::span<const A> z(row);
    CAPTURE(r);
    CHECK(chosen.to_host()[r] == argmax(z));
    CHECK(raced.to_host()[r] == race(z, draws[r].sampling, draws[r].noise));
    const Numbers logits(row.begin(), row.end()), p = distribution_of(logits, ids, draws[r].sampling);
    const Numbers got(q.begin() + static_cast<std::ptrdiff_t>(r * vocab),
                      q.begin() + static_cast<std::ptrdiff_t>((r + 1) * vocab));
    check_close(got, p, 1e-13);
    for (std::size_t i = 0; i < vocab; ++i) CHECK((got[i] > 0) == (p[i] > 0));  // nothing at all elsewhere
    CHECK(drawn.to_host()[r] == sample(got, draws[r].number));
  }
}

TEST_CASE_TEMPLATE("drafts from some tokens: text is plain text, for every design, K, batch and rule", T,
                   float, bf16) {
  const std::vector<SamplingOptions> ways{{0.8}, {}, {1.0}, {0.8, 5}, {1.0, 0, 0.9}, {}};
  std::vector<SomeIds> prompts;
  std::vector<SamplingOptions> sampling, greedy(ways.size());
  for (std::uint64_t i = 0; i < ways.size(); ++i) {
    prompts.push_back(random_ids<Device>({1 + static_cast<Index>(i % 7)}, i, 0, 32).to_host());
    sampling.push_back(ways[i]);
  }
  struct Design {
    MtpHeads heads;
    Index depth;
  };
  Index stood = 0, of_all = 0, of_some = 0;
  for (const Design& design : {Design{MtpHeads::sequential, 2}, Design{MtpHeads::repeated, 3},
                               Design{MtpHeads::parallel, 3}, Design{MtpHeads::linear, 2}}) {
    Config c = mixture_config(design.depth);
    c.vocab_size = 32;
    c.mtpx_heads = design.heads;
    auto model = random_model<T>(c, 91, 0.4);
    const auto texts = [&](Index k, Index batch, const std::vector<SamplingOptions>& by, DraftTokens drafts,
                           Verification rule) {
      GenerateOptions options;
      options.max_tokens = 10;
      options.draft = k;
      options.seed = 17;
      options.draft_tokens = drafts;
      options.verification = rule;
      std::vector<SomeIds> all(prompts.size());
      const auto s = generate_batch(
          model, prompts, batch, options, [&](std::size_t i, std::int32_t token) { all[i].push_back(token); },
          by);
      for (const Index n : s.accepted) stood += n;
      return all;
    };
    const auto coupled = [&](Index k, Index batch) {
      return texts(k, batch, sampling, DraftTokens::coupled, Verification::exact);
    };
    const auto plain = coupled(0, 1);
    const auto likeliest = texts(0, 1, greedy, DraftTokens::coupled, Verification::exact);
    of_all -= stood;
    CHECK(coupled(2, 5) == plain);
    of_all += stood;
    model.draft_from({1, 2, 5, 6, 9, 10, 13, 17, 20, 22, 25, 30, 31});
    of_some -= stood;
    CHECK(coupled(2, 5) == plain);
    of_some += stood;
    for (const Index k : {Index{1}, Index{3}, GenerateOptions::automatic}) {
      if (k > design.depth && !model.design.chains) continue;
      INFO("design " << static_cast<int>(design.heads) << ", K = " << k);
      CHECK(coupled(k, k == 3 ? 1 : 5) == plain);
    }
    // Greedy, every exact rule has the likeliest tokens.
    for (const Verification rule : {Verification::exact, Verification::block}) {
      CHECK(texts(2, 5, greedy, DraftTokens::drawn, rule) == likeliest);
    }
    model.draft_from({0});
    CHECK(coupled(2, 5) == plain);
  }
  CHECK(of_some > 10);
  CHECK(of_some < of_all);
}

TEST_CASE("drafts from some tokens: one that is left out is written, and never stands") {
  auto model = counting_model(8, {true, true});
  model.draft_from({0, 1, 2, 3, 4, 6, 7});
  GenerateOptions options;
  SomeIds stood;
  for (const Index k : {1, 2, 3}) {
    options.draft = k;
    Speculator speculator(model, options);
    speculator.add(SomeIds{0}, 0);
    while (speculator.tokens().size() < 40) {
      speculator.step();
      const auto emitted = speculator.emitted();
      stood.insert(stood.end(), emitted.begin(), emitted.end() - 1);
    }
    const SomeIds& text = speculator.tokens();
    for (std::size_t i = 0; i < text.size(); ++i) CHECK(text[i] == static_cast<std::int32_t>(i % 8));
  }
  for (std::int32_t id = 0; id < 8; ++id) {
    CAPTURE(id);
    CHECK((std::count(stood.begin(), stood.end(), id) > 0) == (id != 5));
  }
}

TEST_CASE("drafts from some tokens stand as the formulas say, and what comes out has the model's chances") {
  const Numbers p{1.0, 0.2, -0.5, 0.8, -1.5}, q{0.1, 0.9, -0.5, 1.1, 0.4};
  const SomeIds ids{1, 3, 4};
  auto model = constant_model(p, q);
  model.draft_from(ids);
  const std::vector<SomeIds> prompts(700, SomeIds{0});
  struct Way {
    DraftTokens tokens;
    Verification rule;
    SamplingOptions sampling;
  };
  for (const Way& way : {Way{DraftTokens::coupled, Verification::exact, {1.0}},
                         Way{DraftTokens::coupled, Verification::exact, {0.8, 2}},
                         Way{DraftTokens::drawn, Verification::exact, {1.0}},
                         Way{DraftTokens::drawn, Verification::exact, {1.0, 0, 0.8}},
                         Way{DraftTokens::drawn, Verification::block, {1.0}}}) {
    GenerateOptions options;
    options.max_tokens = 9;
    options.draft = 2;
    options.sampling = way.sampling;
    options.draft_tokens = way.tokens;
    options.verification = way.rule;
    Numbers seen(p.size(), 0.0);
    const auto s = generate_batch(model, prompts, 50, options, [&](std::size_t, std::int32_t token) {
      ++seen[static_cast<std::size_t>(token)];
    });
    const Numbers of_p = distribution(std::span<const double>(p), way.sampling);
    const Numbers of_q = distribution_of(q, ids, way.sampling);
    double shared = 0;
    for (std::size_t x = 0; x < p.size(); ++x) shared += std::min(of_p[x], of_q[x]);
    const double chance = way.tokens == DraftTokens::coupled ? coupled_chance(of_p, of_q) : shared;
    INFO("drafts " << static_cast<int>(way.tokens) << ", rule " << static_cast<int>(way.rule) << ", top_k "
                   << way.sampling.top_k << ", top_p " << way.sampling.top_p);
    if (way.rule != Verification::block) check_stood(s, chance);
    CHECK(s.accepted[0] > 0);
    check_seen(seen, of_p, s.tokens);
  }
}

namespace {

/// A drafter of a program's own on a Transformer, with ids that it drafts from.
struct OwnDrafter {
  using value_type = double;
  using device_type = Device;
  const Transformer<double, Device>& model;
  SomeIds ids;
  const Config& config = model.config;
  const MtpDesign& design = model.design;

  const Device& device() const { return model.device(); }
  auto decode(Tape& tape, const Tensor<std::int32_t, Device>& tokens, const DecodeRows<Device>& rows,
              const std::vector<LatentCache<double, Device>>& caches) const {
    return model.decode(tape, tokens, rows, caches);
  }
  auto decode_mtp(Tape& tape, Index k, const Var<double, Device>& h,
                  const Tensor<std::int32_t, Device>& tokens, const DecodeRows<Device>& rows,
                  const LatentCache<double, Device>& cache) const {
    return model.decode_mtp(tape, k, h, tokens, rows, cache);
  }
  auto head(Index k) const { return model.head(k); }
  std::span<const std::int32_t> draft_ids() const { return ids; }
};

}  // namespace

TEST_CASE("a drafter of a program's own may say what it drafts from; ids that are none are refused") {
  const auto model = counting_model(8, {true});
  const auto accepted = [&](SomeIds ids) {
    SomeIds text;
    const auto s = generate(OwnDrafter{model, std::move(ids)}, {0}, {.max_tokens = 30, .draft = 1},
                            [&](std::int32_t token) { text.push_back(token); });
    for (std::size_t i = 0; i < text.size(); ++i) CHECK(text[i] == static_cast<std::int32_t>((i + 1) % 8));
    return s.accepted[0];
  };
  CHECK(accepted({}) > accepted({2, 3}));
  CHECK(accepted({2, 3}) > 0);
  CHECK(error_text<ConfigError>([&] {
          accepted({3, 2});
        }) == "[draft vocabulary] id 1 is 2: must be above the one before it, 3");
  CHECK(error_text<ConfigError>([&] {
          accepted({3, 8});
        }) == "[draft vocabulary] id 1 is 8: outside the vocabulary of 8");
}

TEST_SUITE_END();
