// The bias of a depth's logits from the token before, whole and row by row, and how it is kept.

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/with_depths.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/mtp/module.hpp: MtpMarkov");

namespace {

Config markov_config(MtpHeads heads) {
  Config c = dense_config(2);
  c.vocab_size = 11;
  c.mtpx_heads = heads;
  c.mtpx_markov_rank = 3;
  return c;
}

}  // namespace

TEST_CASE("MtpMarkov: logits are those without it, and a row of a matrix of its rank, by the token before") {
  const std::vector<std::int32_t> text{3, 7, 1, 0, 10, 4};
  for (const MtpHeads heads : {MtpHeads::parallel, MtpHeads::linear, MtpHeads::sequential}) {
    INFO("design " << static_cast<int>(heads));
    const auto with = random_model(markov_config(heads), 3);
    auto without = random_model(markov_config(heads), 3);
    for (auto& module : without.mtp) module.markov->embed.value().assign(Numbers(11 * 3, 0.0));
    for (Index k = 0; k <= 2; ++k) {
      const auto got = logits(with, text, k), plain = logits(without, text, k);
      for (std::size_t i = 0; i < got.size(); ++i) {
        Numbers want = plain[i];
        if (k > 0) {
          const auto& markov = *with.mtp[static_cast<std::size_t>(k - 1)].markov;
          const Numbers e = host(markov.embed.value()), p = host(markov.proj.weight.value()),
                        w = host(with.head(k).value());
          const auto t = static_cast<std::size_t>(
              i + static_cast<std::size_t>(k) < text.size() ? text[i + static_cast<std::size_t>(k)] : 0);
          const std::size_t hidden = p.size() / 3;
          for (std::size_t x = 0; x < want.size(); ++x) {
            for (std::size_t c = 0; c < hidden; ++c) {
              for (std::size_t r = 0; r < 3; ++r) want[x] += w[x * hidden + c] * p[c * 3 + r] * e[t * 3 + r];
            }
          }
        }
        check_close(got[i], want, 1e-12);
      }
    }
  }
}

TEST_CASE("MtpMarkov: with_depths keeps it, adds it and takes it away; the main model stays") {
  const auto from = random_model(markov_config(MtpHeads::parallel), 3);
  const auto names = [](const auto& model) {
    std::map<std::string, Numbers> all;
    for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
    return all;
  };
  const auto before = names(from);
  CHECK(before.contains("model.layers.3.markov.embed.weight"));
  CHECK(before.contains("model.layers.3.markov.proj.weight"));
  CHECK(names(with_depths(from, 2, MtpHeads::parallel, 5)) == before);
  const auto none = with_depths(from, 2, MtpHeads::parallel, 5, false, 0);
  CHECK(none.config.mtpx_markov_rank == 0);
  for (const auto& [name, numbers] : names(none)) CHECK(numbers == before.at(name));
  const auto wider = with_depths(none, 2, MtpHeads::parallel, 5, false, 4);
  CHECK(names(wider).at("model.layers.3.markov.embed.weight").size() == 44);
  CHECK(names(wider).at("lm_head.weight") == before.at("lm_head.weight"));
}

TEST_CASE("MtpMarkov: a draft follows from the draft before it, in every branch") {
  // After token t comes t + 1: the main model knows from the token itself, heads from the bias alone.
  constexpr Index vocab = 7;
  Config c = dense_config(3);
  c.vocab_size = c.hidden_size = c.mtpx_markov_rank = vocab;
  c.num_hidden_layers = 1;
  c.mtpx_heads = MtpHeads::linear;
  Transformer<double, Device> model(device(), c);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    Numbers values(static_cast<std::size_t>(tensor.size()), name.ends_with("norm.weight") ? 1.0 : 0.0);
    const auto set = [&](Index row, Index column, double value) {
      values[static_cast<std::size_t>(row * vocab + column)] = value;
    };
    for (Index t = 0; t < vocab; ++t) {
      if (name == "model.embed_tokens.weight" || name.ends_with("markov.embed.weight")) set(t, t, 1);
      if (name.ends_with("markov.proj.weight")) set(t, t, 9);
      if (name == "lm_head.weight") set((t + 1) % vocab, t, 1);
    }
    tensor.assign(values);
  });
  for (const std::vector<Index>& tree : {std::vector<Index>{}, std::vector<Index>{2, 3}}) {
    GenerateOptions options;
    options.max_tokens = 13;
    options.draft = 3;
    options.tree = tree;
    std::vector<std::int32_t> text;
    const DecodeStatistics s =
        generate(model, {5}, options, [&](std::int32_t token) { text.push_back(token); });
    CHECK(text == std::vector<std::int32_t>{6, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4});
    CHECK(s.drafts == 3);
    CHECK(s.accepted == s.drafted);
  }
}

TEST_SUITE_END();
