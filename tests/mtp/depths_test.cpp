// Depths of any facts, most of which no design with a name has: they train, and windows, caches and drafts
// agree.

#include <mtpx/core/meta.hpp>
#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/mtp/depths.hpp");

namespace {

using Model = Transformer<double, Device>;
using TokenIds = std::vector<std::int32_t>;

constexpr Index most_depths = 3, vocabulary = 5;

/// Calls check(model) for a random model of every combination of facts.
template <typename Check>
void for_all_facts(const Check& check) {
  for (int facts = 0; facts < 64; ++facts) {
    MtpDesign design;
    design.chains = (facts & 1) != 0;
    design.reads_token = (facts & 2) != 0;
    design.attends = (facts & 4) != 0;
    design.own_norm = (facts & 8) != 0;
    design.shares_weights = (facts & 16) != 0;
    design.own_layers = facts / 32;
    Config c = dense_config(most_depths);
    c.vocab_size = vocabulary;
    Model model(device(), c, design);
    randomize(model, 17, 0.5);
    INFO("facts " << facts);
    check(model);
  }
}

/// All depths over `tokens`, row by row against caches.
struct RowByRow {
  KvCache<double, Device> cache;
  std::vector<Numbers> normed;  // [k]

  RowByRow(const Model& model, const TokenIds& tokens)
      : cache(model, 1, static_cast<Index>(tokens.size()), most_depths) {
    Tape tape(Mode::inference);
    const bool chains = model.design.chains;
    const auto count = static_cast<Index>(tokens.size());
    for (Index k = 0; k <= most_depths; ++k) {
      const auto at = static_cast<std::size_t>(k);
      Numbers& out = normed.emplace_back();
      const Index ahead = model.design.reads_token ? k : 0;
      for (Index p = 0; p + ahead < count; ++p) {
        const auto rows = decode_rows(device(), 0, p, 1);
        const auto token = tensor<std::int32_t>({1, 1}, {tokens[static_cast<std::size_t>(p + ahead)]});
        Hidden<double, Device> h;
        if (k == 0) {
          h = model.decode(tape, token, rows, cache.trunk);
        } else {
          const auto from = gather_rows(cache.states[chains ? at - 1 : 0], rows);
          h = model.decode_mtp(tape, k, tape.constant(from), token, rows, cache.modules[at - 1]);
        }
        if (k == 0 || (chains && k < most_depths)) store_rows(h.carried.value(), rows, cache.states[at]);
        const Numbers row = host(h.normed.value());
        out.insert(out.end(), row.begin(), row.end());
      }
    }
  }
};

/// The first entries of the only sequence.
Numbers first(const LatentCache<double, Device>& cache, Index count) {
  const Numbers all = host(cache.entries);
  return {all.begin(), all.begin() + count * cache.entries.shape().width()};
}

}  // namespace

TEST_CASE("MtpDepths: every weight trains, and mtp_backward gives the gradients of the common tape") {
  for_all_facts([](Model& model) {
    CHECK(model.mtp.size() == (model.design.shares_weights ? 1 : most_depths));
    const auto batch = random_batch(2, 6, vocabulary);
    const MtpLossOptions options{.lambda = 0.7};
    Tape tape;
    tape.backward(mtp_loss(model, model(tape, batch), batch, options).total);
    const auto want = gradients(model);
    model.zero_grad();
    mtp_backward(model, batch, options);
    check_bits(gradients(model), want);
    for (const auto& gradient : want) {
      INFO(gradient.first);
      CHECK(!gradient.second.empty());
    }
  });
}

TEST_CASE("MtpDepths: windows and caches give the same states") {
  for_all_facts([](const Model& model) {
    Tape tape(Mode::inference);
    const Batch<Device> window{random_ids({1, 7}, 3, 0, vocabulary), {}, false};
    TokenIds tokens = window.tokens.to_host();
    tokens.pop_back();  // the last one's label
    const auto whole = model(tape, window);
    const RowByRow rows(model, tokens);
    for (std::size_t k = 0; k <= most_depths; ++k) {
      const Numbers want = host(whole.normed[k].value());  // rows that have a target
      Numbers got = rows.normed[k];
      got.resize(want.size());
      check_close(got, want, 1e-12, cat("depth ", k));
    }
  });
}

TEST_CASE("MtpDepths: drafts leave the text as it is, and final entries as without them") {
  Index accepted = 0;
  for_all_facts([&](const Model& model) {
    const auto run = [&](Index k, Index count) {
      GenerateOptions options;
      options.draft = k;
      auto decoder = std::make_unique<Speculator<double, Device>>(model, options);
      decoder->add(TokenIds{1, 2, 3}, 0);
      while (static_cast<Index>(decoder->tokens().size()) < count) decoder->step();
      return decoder;
    };
    const TokenIds plain = run(0, 40)->tokens();
    for (const Index k : {Index{2}, most_depths, most_depths + 2}) {
      if (k > most_depths && !model.design.chains) continue;  // these cannot run again
      INFO("K = " << k);
      const auto decoder = run(k, 28);
      const TokenIds before = decoder->tokens();
      decoder->step();
      const TokenIds& text = decoder->tokens();
      CHECK(std::equal(text.begin(), text.end(), plain.begin()));
      for (const Index a : decoder->statistics().accepted) accepted += a;
      if (!model.design.attends) continue;
      const RowByRow fresh(model, before);
      for (Index module = 1; module <= std::min(k, model.design.drafting(most_depths)); ++module) {
        const auto at = static_cast<std::size_t>(module - 1);
        const Index final_entries =
            static_cast<Index>(before.size()) - (model.design.reads_token ? module : 1);
        check_bits(first(decoder->cache().modules[at], final_entries),
                   first(fresh.cache.modules[at], final_entries), cat("module ", module));
      }
    }
  });
  CHECK(accepted > 200);
}

TEST_CASE("Transformer: a head cannot own more layers than there are") {
  MtpDesign design;
  design.own_layers = 3;
  CHECK_THROWS_WITH_AS(
      (Transformer<double, Meta>(Meta(), dense_config(1), design)),
      "[model] own_layers = 3, num_hidden_layers = 2: the next-token head has no more layers "
      "than there are",
      ConfigError);
}

TEST_SUITE_END();
