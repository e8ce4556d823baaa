// Sampled text is the text of plain decoding, whatever drafts, and how often drafts stand.

#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"
#include "support/races.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/speculator.hpp: sampled text");

namespace {

using TokenIds = std::vector<std::int32_t>;

/// Drafts seen and drafts that stood.
struct Counts {
  Index drafted = 0, stood = 0;

  void add(const DecodeStatistics& s) {
    for (const Index n : s.drafted) drafted += n;
    for (const Index n : s.accepted) stood += n;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("sampled text is byte-equal to plain text: designs, K, auto, batches, cuts", T, float,
                   bf16) {
  const std::vector<SamplingOptions> ways{{0.8}, {1.0}, {0.8, 5}, {1.0, 0, 0.9}, {}, {1.0, 12, 0.8}};
  std::vector<TokenIds> prompts;
  std::vector<SamplingOptions> sampling;
  for (std::uint64_t i = 0; i < prompts_wanted(); ++i) {
    prompts.push_back(random_ids<Device>({1 + static_cast<Index>(i % 7)}, i, 0, 32).to_host());
    sampling.push_back(ways[i % ways.size()]);
  }
  Counts counts;
  struct Design {
    MtpHeads heads;
    Index depth;
  };
  for (const Design& design : {Design{MtpHeads::sequential, 2}, Design{MtpHeads::repeated, 3},
                               Design{MtpHeads::parallel, 3}, Design{MtpHeads::linear, 2}}) {
    Config c = mixture_config(design.depth);
    c.vocab_size = 32;
    c.mtpx_heads = design.heads;
    const auto model = random_model<T>(c, 91, 0.4);
    const auto texts = [&](Index k, Index batch) {
      GenerateOptions options;
      options.max_tokens = 10;
      options.draft = k;
      options.seed = 17;
      std::vector<TokenIds> all(prompts.size());
      const auto keep = [&](std::size_t i, std::int32_t token) { all[i].push_back(token); };
      counts.add(generate_batch(model, prompts, batch, options, keep, sampling));
      return all;
    };
    const std::vector<TokenIds> plain = texts(0, 1);
    for (const Index k : {Index{1}, Index{2}, Index{3}, GenerateOptions::automatic}) {
      if (k > design.depth && !model.design.chains) continue;
      for (const Index batch : {1, 5}) {
        if (batch == 1 && k % 2 != 0 && k > 0) continue;
        INFO("design " << static_cast<int>(design.heads) << ", K = " << k << ", batch " << batch);
        CHECK(texts(k, batch) == plain);
      }
    }
  }
  CHECK(counts.stood > counts.drafted / 10);
  CHECK(counts.stood < counts.drafted * 9 / 10);
}

TEST_CASE_TEMPLATE("1000 rounds in which sequences come, step and go: each has the text of plain decoding", T,
                   float, bf16) {
  Config c = mixture_config(2);
  c.vocab_size = 32;
  c.max_position_embeddings = 96;
  const auto model = random_model<T>(c, 92, 0.4);
  const std::vector<SamplingOptions> ways{{}, {0.8}, {1.0, 5}, {1.0, 0, 0.9}};
  // What each prompt says alone, to the end of the context; of a few tokens, and of more than fused kernels
  // take.
  std::vector<TokenIds> prompts, plain;
  for (std::uint64_t i = 0; i < 10; ++i) {
    prompts.push_back(random_ids<Device>({1 + static_cast<Index>(i * i % 40)}, 40 + i, 0, 32).to_host());
    Speculator<T, Device> alone(model, {});
    alone.add(prompts[i], i, ways[i % ways.size()]);
    while (!alone.full(0)) alone.step();
    plain.push_back(alone.tokens());
    // What is said here is drawn as it was asked for: else both sides could lose the same and agree.
    Speculator<T, Device> greedy(model, {});
    greedy.add(prompts[i], i);
    while (!greedy.full(0)) greedy.step();
    CHECK((greedy.tokens() == plain[i]) == ways[i % ways.size()].greedy());
  }
  for (const Index k : {Index{0}, Index{2}, GenerateOptions::automatic}) {
    GenerateOptions options;
    options.draft = k;
    Speculator<T, Device> together(model, options, 4);
    std::vector<std::size_t> prompt_of(4, prompts.size());  // none
    const auto has_its_text = [&](Index slot) {
      const std::size_t prompt = prompt_of[static_cast<std::size_t>(slot)];
      const TokenIds& got = together.tokens(slot);
      return got.size() <= plain[prompt].size() && std::equal(got.begin(), got.end(), plain[prompt].begin());
    };
    Index added = 0, removed = 0, stepped = 0, wrong = 0;
    for (std::uint64_t round = 0; round < 1000; ++round) {
      const auto dice = Philox::block(93, static_cast<std::uint64_t>(k + 2), round);
      const auto slot = static_cast<Index>(dice[1] % 4);
      std::size_t& prompt = prompt_of[static_cast<std::size_t>(slot)];
      const bool taken = prompt < prompts.size();
      if (dice[0] % 8 == 0 && taken) {
        wrong += has_its_text(slot) ? 0 : 1;
        together.remove(slot);
        prompt = prompts.size();
        ++removed;
      } else if (dice[0] % 4 == 1 && std::count(prompt_of.begin(), prompt_of.end(), prompts.size()) > 0) {
        const std::size_t which = dice[2] % prompts.size();
        const Index got = together.add(prompts[which], which, ways[which % ways.size()]);
        prompt_of[static_cast<std::size_t>(got)] = which;
        ++added;
      } else {
        together.step();
        ++stepped;
      }
    }
    for (Index slot = 0; slot < 4; ++slot) {
      if (prompt_of[static_cast<std::size_t>(slot)] < prompts.size()) wrong += has_its_text(slot) ? 0 : 1;
    }
    INFO("K = " << k << ": " << added << " added, " << removed << " removed, " << stepped << " steps");
    CHECK(wrong == 0);
    CHECK(std::min({added, removed, stepped}) > 50);
  }
}

TEST_CASE("drafts stand as often as the formula says, and what comes out has the model's chances") {
  const Numbers p{1.0, 0.2, -0.5, 0.8, -1.5}, q{0.1, 0.9, -0.5, 1.1, 0.4};
  const auto model = constant_model(p, q);
  const std::vector<TokenIds> prompts(700, TokenIds{0});
  for (const SamplingOptions& sampling :
       {SamplingOptions{1.0}, SamplingOptions{0.8, 3}, SamplingOptions{1.0, 0, 0.8}}) {
    GenerateOptions options;
    options.max_tokens = 9;
    options.draft = 2;
    options.sampling = sampling;
    Numbers seen(p.size(), 0.0);
    const auto s = generate_batch(model, prompts, 50, options, [&](std::size_t, std::int32_t token) {
      ++seen[static_cast<std::size_t>(token)];
    });
    const Numbers of_p = distribution(std::span<const double>(p), sampling);
    const double chance = coupled_chance(of_p, distribution(std::span<const double>(q), sampling));
    INFO("top_k " << sampling.top_k << ", top_p " << sampling.top_p);
    check_stood(s, chance);
    check_seen(seen, of_p, s.tokens);
  }
}

TEST_SUITE_END();
