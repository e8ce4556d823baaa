// How far drafts win their races by, against all scores; and drafts of several sequences that are cut by it,
// each by its own.

#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"

#include <algorithm>
#include <functional>
#include <limits>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/draft_leads.hpp");

TEST_CASE("race_for_leads: the winner, and how far its score is above that of the second") {
  const Cpu cpu(1);
  constexpr Index rows = 6, hidden = 8, vocab = 150;
  const auto x = random_tensor<float, Cpu>({rows, hidden}, 3),
             w = random_tensor<float, Cpu>({vocab, hidden}, 4);
  const std::vector<SamplingOptions> ways{{}, {0.8}, {1.0}, {0.8, 5}, {1.0, 0, 0.9}, {1.0, 1}};
  std::vector<Draw> draws;
  for (std::size_t r = 0; r < ways.size(); ++r) draws.push_back({ways[r], 0, {11, 40 + r}});
  const auto on_device = Tensor<Draw, Cpu>::from(cpu, {rows}, draws);
  for (const bool some : {false, true}) {
    const std::vector<std::int32_t> few{3, 9, 77, 140};
    const TokenHead<float, Cpu> head = some ? TokenHead<float, Cpu>(Weight<float, Cpu>(w), few)
                                            : TokenHead<float, Cpu>(Weight<float, Cpu>(w));
    const Tensor<std::int32_t, Cpu> ids(cpu, {rows}), plain(cpu, {rows});
    const Tensor<double, Cpu> leads(cpu, {rows});
    race_for_leads(x, head, on_device, ids, leads);
    race_tokens(x, head, on_device, false, 1, plain);
    const Tensor<float, Cpu> logits = logits_of(x, head);
    for (Index r = 0; r < rows; ++r) {
      const Draw& draw = draws[static_cast<std::size_t>(r)];
      const std::span<const float> z(logits.data() + r * vocab, static_cast<std::size_t>(vocab));
      const std::vector<double> p = distribution(z, draw.sampling);
      std::vector<double> scores;
      for (std::size_t i = 0; i < z.size(); ++i) {
        const bool may = draw.sampling.greedy() ? z[i] > -std::numeric_limits<float>::infinity() : p[i] > 0;
        if (may)
          scores.push_back(
              race_score(static_cast<double>(z[i]), draw.sampling, draw.noise, static_cast<Index>(i)));
      }
      std::sort(scores.begin(), scores.end(), std::greater<>());
      INFO("row " << r << ", " << head.count() << " tokens");
      CHECK(ids.at(r) == plain.at(r));
      CHECK(leads.at(r) ==
            (scores.size() > 1 ? scores[0] - scores[1] : std::numeric_limits<double>::infinity()));
    }
  }
}

TEST_CASE(
    "auto: sequences side by side draft as far as their own leads say, and write what they write alone") {
  Config c = mixture_config(3);
  c.mtpx_heads = MtpHeads::repeated;
  const auto model = random_model<float>(c, 91, 0.4);
  GenerateOptions options;
  options.sampling.temperature = 0.8;
  Speculator<float, Device> decoder(model, options, 4, 120), alone(model, options, 1, 120);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const std::vector<std::int32_t> prompt{static_cast<std::int32_t>(i), 5, 2};
    decoder.add(prompt, i);
  }
  for (int pass = 0; pass < 24; ++pass) decoder.step();
  for (std::uint64_t i = 0; i < 4; ++i) {
    const std::vector<std::int32_t> prompt{static_cast<std::int32_t>(i), 5, 2};
    const Index slot = alone.add(prompt, i);
    const auto& beside = decoder.tokens(static_cast<Index>(i));
    while (alone.tokens(slot).size() < beside.size()) alone.step();
    CHECK(std::equal(beside.begin(), beside.end(), alone.tokens(slot).begin()));
    alone.remove(slot);
  }
}

TEST_SUITE_END();
