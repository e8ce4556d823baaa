// Whole models on the reference and on the host: losses, every gradient, training, decoded text.

#include <mtpx/decode/generate.hpp>
#include <mtpx/reference.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"
#include "support/thread_ranks.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("reference: models");

namespace {

using Host = Transformer<double, Cpu>;
using Read = Transformer<double, Reference>;

/// Dense; a mixture with groups, latent queries and YaRN, without latent queries, and tied but for
/// depths of their own; DeepSeek-V2's router; the other
/// designs. D = 2.
std::vector<Config> configs() {
  Config plain_queries = mixture_config(2);
  plain_queries.q_lora_rank = 0;
  Config tied = mixture_config(2);
  tied.tie_word_embeddings = true;
  tied.mtpx_own_embeddings = {2};
  tied.mtpx_own_heads = {1};
  Config v2 = plain_queries;
  v2.scoring_func = ScoringFunc::softmax;
  v2.norm_topk_prob = false;
  std::vector<Config> all{dense_config(2), mixture_config(2), plain_queries, tied, v2};
  for (const MtpHeads heads : {MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    all.push_back(mixture_config(2));
    all.back().mtpx_heads = heads;
  }
  return all;
}

struct Pass {
  Numbers losses;
  std::map<std::string, Numbers> gradients;
};

template <typename D>
Pass train(const Config& c, bool documents) {
  const AllDigits digits;
  auto model = random_model<double, D>(c, 1);
  Batch<D> batch = random_batch<D>(2, 9, c.vocab_size);
  if (documents) {
    batch.positions =
        tensor<std::int32_t, D>({2, 10}, {0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 0, 1, 0, 1, 2, 3});
    batch.mask_documents = true;
  }
  Tape tape;
  const auto out = model(tape, batch);
  const auto loss = mtp_loss(model, out, batch, {.lambda = 0.6});
  Pass pass;
  for (const auto& depth : loss.depths) pass.losses.push_back(host(depth.loss.value())[0]);
  pass.losses.push_back(host(loss.total.value())[0]);
  tape.backward(loss.total);
  pass.gradients = gradients(model);
  return pass;
}

/// After some steps of training: figures of all steps, then the weights.
template <typename D>
std::pair<Numbers, std::map<std::string, Numbers>> trained(Config c, const Group<D>& group) {
  c.vocab_size = 256;
  Transformer<double, D> model(group.device(), c);
  test::randomize(model, 1);
  std::string text;
  for (std::uint64_t i = 0; i < 500; ++i) text += static_cast<char>('a' + Philox::block(3, 3, i)[0] % 16);
  TrainOptions o;
  o.steps = 4;
  o.accumulation = 2;
  o.step.clip = 0.5;
  Trainer<double, D> trainer(
      model, o, Batches(Corpus::from_text(text), {.batch = 2, .seq = 12, .seed = 1337, .depth = 2}), group);
  Numbers figures;
  for (Index step = 0; step < o.steps; ++step) {
    const StepReport report = trainer.step();
    figures.insert(figures.end(), report.loss.begin(), report.loss.end());
    figures.insert(figures.end(), {report.total, report.gradient_norm});
  }
  std::map<std::string, Numbers> weights;
  for_each_tensor(model, [&](const std::string& name, const auto& x) { weights[name] = host(x); });
  return {figures, weights};
}

template <typename D>
auto trained(const Config& c) {
  return trained<D>(c, Group<D>(device<D>()));
}

struct Text {
  Ints tokens;
  std::vector<Index> accepted;

  bool operator==(const Text&) const = default;
};

template <typename D>
Text text(const Transformer<double, D>& model, const GenerateOptions& options) {
  Text all;
  const DecodeStatistics statistics = generate(model, {1, 2, 3}, options, [&](std::int32_t token) {
    all.tokens.push_back(token);
    return true;
  });
  all.accepted = statistics.accepted;
  return all;
}

}  // namespace

TEST_CASE("reference: two ranks train as one") {
  const auto one = trained<Reference>(mixture_config(2));
  on_ranks(
      2, [] { return Reference(); },
      [&](const Group<Reference>& group) {
        const auto two = trained<Reference>(mixture_config(2), group);
        if (relative_error(two.first, one.first) > 1e-12) throw Error("other figures");
        for (const auto& [name, numbers] : two.second) {
          if (relative_error(numbers, one.second.at(name)) > 1e-11) throw Error(name + " is another one");
        }
      });
}

TEST_CASE("reference: losses and every gradient of whole models") {
  for (const Config& c : configs()) {
    for (const bool documents : {false, true}) {
      CAPTURE(c.n_routed_experts);
      CAPTURE(static_cast<int>(c.mtpx_heads));
      const Pass got = train<Cpu>(c, documents), want = train<Reference>(c, documents);
      check_close(got.losses, want.losses, 1e-12, "losses");
      check_close(got.gradients, want.gradients, 1e-12);
    }
  }
}

TEST_CASE("reference: clipped steps of AdamW and of the routers' biases") {
  for (const Config& c : {dense_config(2), mixture_config(2), configs()[4]}) {
    const auto got = trained<Cpu>(c), want = trained<Reference>(c);
    check_close(got.first, want.first, 1e-12, "losses and norms");
    check_close(got.second, want.second, 1e-12);
  }
}

TEST_CASE("reference: a gradient that is not finite stops all later steps") {
  Read good = random_model<double, Reference>(dense_config(1), 1);
  Read bad = random_model<double, Reference>(dense_config(1), 1);
  bad.embed_tokens.sink().data[0] = std::numeric_limits<double>::infinity();
  const auto halted = tensor<double, Reference>({1}, {0});
  const auto clip = clip_norm(bad, 1.0, halted);
  CHECK(std::isnan(host(clip.scale)[0]));
  CHECK(host(halted) == Numbers{1});
  const Numbers before = host(bad.embed_tokens.value());
  AdamW<double, Reference>().step(bad, clip, 0.1);
  check_bits(host(bad.embed_tokens.value()), before);
  CHECK(std::isnan(host(clip_norm(good, 1.0, halted).scale)[0]));
}

TEST_CASE("reference: decoded text, by every rule") {
  for (const Config& c : configs()) {
    CAPTURE(static_cast<int>(c.mtpx_heads));
    Host host_model = random_model<double, Cpu>(c, 3);
    Read read_model = random_model<double, Reference>(c, 3);
    for (const auto& way : {std::pair{0.0, false}, {1.5, false}, {1.5, true}}) {
      const double temperature = way.first;
      const bool some = way.second;
      if (some) host_model.draft_from({0, 2, 3, 6, 9}), read_model.draft_from({0, 2, 3, 6, 9});
      for (const DraftTokens drafts : {DraftTokens::coupled, DraftTokens::drawn}) {
        if (temperature == 0 && drafts == DraftTokens::drawn) continue;  // one-hot: as coupled
        for (const Verification rule :
             {Verification::exact, Verification::block, Verification::lossy_typical}) {
          CAPTURE(temperature);
          CAPTURE(static_cast<int>(rule));
          GenerateOptions o;
          o.max_tokens = 14;
          o.draft = 2;
          o.sampling = {temperature, 9, temperature > 0 ? 0.95 : 1};
          o.draft_tokens = drafts;
          o.verification = rule;
          CHECK(text(host_model, o) == text(read_model, o));
        }
      }
    }
  }
}

TEST_SUITE_END();
