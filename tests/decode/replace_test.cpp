// A slot that goes on with another text.

#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/speculator.hpp: replace");

namespace {

using TokenIds = std::vector<std::int32_t>;

/// A text of `count` tokens and more, and what drafts did meanwhile.
struct Continued {
  TokenIds tokens;
  std::vector<Index> drafted, accepted;
  bool operator==(const Continued&) const = default;
};

Continued go_on(Speculator<float, Device>& decoder, Index slot, std::size_t count) {
  const DecodeStatistics before = decoder.statistics();
  while (decoder.tokens(slot).size() < count) decoder.step();
  Continued all{decoder.tokens(slot), decoder.statistics().drafted, decoder.statistics().accepted};
  for (std::size_t i = 0; i < before.drafted.size(); ++i) {
    all.drafted[i] -= before.drafted[i];
    all.accepted[i] -= before.accepted[i];
  }
  return all;
}

}  // namespace

TEST_CASE("a slot that is given another text goes on as one that had it from the start") {
  for (const MtpHeads heads :
       {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    Config c = mixture_config(2);
    c.mtpx_heads = heads;
    const auto model = random_model<float>(c, 31, 0.4);
    for (const Index k : {0, 2}) {
      GenerateOptions options;
      options.draft = k;
      options.sampling.temperature = 0.9;
      Speculator<float, Device> kept(model, options);
      TokenIds text = random_ids<Device>({9}, 3, 0, c.vocab_size).to_host();
      Index slot = kept.add(text, 5);
      (void)go_on(kept, slot, 20);
      // How much of the text so far stays, and how many tokens follow it; the last one begins another text.
      struct Change {
        std::size_t stays;
        int more;
      };
      for (const Change& change : {Change{20, 0}, Change{18, 3}, Change{12, 6}, Change{9, 1}, Change{5, 0},
                                   Change{17, 0}, Change{1, 9}, Change{0, 4}}) {
        const TokenIds& now = kept.tokens(slot);
        const std::size_t same = std::min(change.stays, now.size());
        text.assign(now.begin(), now.begin() + static_cast<std::ptrdiff_t>(same));
        if (same < now.size()) text.push_back((now[same] + 1) % 11);
        for (int i = 0; i < change.more; ++i) text.push_back(static_cast<std::int32_t>(i * 5 % 11));
        INFO("heads " << static_cast<int>(heads) << ", K = " << k << ", stays " << change.stays << ", more "
                      << change.more);
        const Index before = kept.statistics().prompt_tokens;
        kept.replace(slot, text, 7, options.sampling);
        const std::size_t decoded = text.size() - std::min(same, text.size() - 1);
        CHECK(kept.statistics().prompt_tokens - before == static_cast<Index>(decoded));
        const Continued got = go_on(kept, slot, text.size() + 9);
        Speculator<float, Device> fresh(model, options);
        const Index other = fresh.add(text, 7);
        CHECK(got == go_on(fresh, other, text.size() + 9));
      }
    }
  }
}

TEST_CASE("replace: a part of its own text, and what is refused") {
  const auto model = random_model<float>(dense_config(1), 8);
  GenerateOptions options;
  options.draft = 1;
  Speculator<float, Device> decoder(model, options);
  const Index slot = decoder.add(TokenIds{1, 2, 3, 4}, 0);
  const Continued first = go_on(decoder, slot, 12);
  decoder.replace(slot, std::span(decoder.tokens(slot)).first(4), 0, {});
  CHECK(decoder.statistics().prompt_tokens == 5);
  CHECK(go_on(decoder, slot, 12).tokens == first.tokens);
  CHECK(error_text<ConfigError>([&] { decoder.replace(slot, {}, 0, {}); }) ==
        "[generate] the prompt is empty");
  const TokenIds long_one(64, 1);
  CHECK(error_text<ConfigError>([&] { decoder.replace(slot, long_one, 0, {}); }) ==
        "[generate] the prompt has 64 tokens, max_position_embeddings = 64 leaves room for 63");
  CHECK(go_on(decoder, slot, 14).tokens.size() >= 14);  // what was refused changed nothing
}

TEST_SUITE_END();
