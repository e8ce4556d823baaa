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
