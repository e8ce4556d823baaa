// Trees of drafts: the text is that of plain decoding, and candidates stand where they should.

#include <mtpx/decode/generate.hpp>

#include "support/decoding.hpp"
#include "support/races.hpp"

#include <memory>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/tree.hpp");

namespace {

using TreeIds = std::vector<std::int32_t>;

/// Texts of prompts, and how drafts ended.
template <typename T, typename D>
std::pair<std::vector<TreeIds>, DecodeStatistics> tree_texts(const Transformer<T, D>& model,
                                                             const std::vector<TreeIds>& prompts, Index batch,
                                                             const GenerateOptions& options,
                                                             std::span<const SamplingOptions> sampling = {}) {
  std::vector<TreeIds> all(prompts.size());
  const auto keep = [&](std::size_t i, std::int32_t token) { all[i].push_back(token); };
  const DecodeStatistics s = generate_batch(model, prompts, batch, options, keep, sampling);
  return {all, s};
}

GenerateOptions tree_options(Index draft, std::vector<Index> tree, Index tokens = 10) {
  GenerateOptions options;
  options.max_tokens = tokens;
  options.draft = draft;
  options.tree = std::move(tree);
  options.seed = 17;
  return options;
}

/// By the rule alone: how many rounds ended with each number of drafts that stood, for a model that says the
/// same of every place.
std::vector<Index> naive_histogram(const Numbers& p, const Numbers& q, const SamplingOptions& sampling,
                                   const std::vector<Index>& tree, std::uint64_t seed, std::uint64_t place,
                                   Index tokens) {
  std::vector<Index> histogram(tree.size() + 1);
  ++place;  // the first token comes without a draft
  for (Index emitted = 1; emitted < tokens;) {
    std::size_t stood = 0;
    for (; stood < tree.size(); ++stood) {
      TreeIds list(static_cast<std::size_t>(tree[stood]));
      race(std::span<const double>(q), sampling, {seed, place + stood}, list);
      const std::int32_t token = race(std::span<const double>(p), sampling, {seed, place + stood});
      if (std::find(list.begin(), list.end(), token) == list.end()) break;
    }
    ++histogram[stood];
    place += stood + 1;
    emitted += static_cast<Index>(stood) + 1;
  }
  return histogram;
}

/// What the module that all depths share says behind text and drafts: over the text, row by row, and then
/// again on its own output, a draft at a time. `known` tokens of `branch` are text.
Numbers said_again(const Transformer<double, Device>& model, const TreeIds& branch, std::size_t known) {
  const auto count = static_cast<Index>(branch.size());
  KvCache<double, Device> cache(model, 1, count, 1);
  Tape tape(Mode::inference);
  const auto ids = [&](Index p) {
    return tensor<std::int32_t>({1, 1}, {branch[static_cast<std::size_t>(p)]});
  };
  Hidden<double, Device> said;
  for (Index p = 0; p + 1 < count; ++p) {
    const auto rows = decode_rows(device(), 0, p, 1);
    const bool of_text = p + 1 < static_cast<Index>(known);
    const auto from = of_text ? model.decode(tape, ids(p), rows, cache.trunk).carried : said.carried;
    said = model.decode_mtp(tape, 1, tape.constant(from.value()), ids(p + 1), rows, cache.modules[0]);
  }
  return host(linear(said.normed, model.head(1)).value());
}

}  // namespace

TEST_CASE("DraftTree: levels, children, and places that are in order along the first children") {
  DraftTree tree;
  tree.begin(50, 2);
  CHECK(tree.size() == 1);
  CHECK(tree.depth() == 0);
  tree.next_level();
  tree.add(0, 7);
  tree.add(0, 9);
  tree.next_level();
  for (const Index parent : {1, 2}) {
    tree.add(parent, 7);
    tree.add(parent, 8);
  }
  CHECK(tree.depth() == 2);
  CHECK(tree.begin_of(1) == 1);
  CHECK(tree.begin_of(2) == 3);
  CHECK(tree.begin_of(3) == 7);
  TreeIds places;
  for (Index node = 0; node < tree.size(); ++node)
    places.push_back(static_cast<std::int32_t>(tree.place(node)));
  CHECK(places == TreeIds{0, 1, 3, 2, 4, 5, 6});
  CHECK(tree.child(0, 0, 9) == 2);
  CHECK(tree.child(2, 1, 8) == 6);
  CHECK(tree.child(1, 1, 8) == 4);
  CHECK(tree.child(0, 0, 8) == -1);
  CHECK(tree.child(6, 2, 8) == -1);
  CHECK(tree.parent(6) == 2);
}

TEST_CASE_TEMPLATE("trees: text is byte-equal to plain text: designs, trees, batches, cuts", T, float, bf16) {
  const std::vector<SamplingOptions> ways{{0.8}, {1.0}, {0.8, 5}, {1.0, 0, 0.9}, {}, {1.0, 2, 0.8}};
  std::vector<TreeIds> prompts;
  std::vector<SamplingOptions> sampling;
  for (std::uint64_t i = 0; i < prompts_wanted(); ++i) {
    prompts.push_back(random_ids<Device>({1 + static_cast<Index>(i % 7)}, i, 0, 32).to_host());
    sampling.push_back(ways[i % ways.size()]);
  }
  double gained = 0;  // tokens a pass over those of chains, all together
  struct Design {
    MtpHeads heads;
    Index depth;
  };
  struct Drafts {
    Index k;
    std::vector<Index> tree;
  };
  for (const Design& design : {Design{MtpHeads::sequential, 2}, Design{MtpHeads::repeated, 3},
                               Design{MtpHeads::parallel, 3}, Design{MtpHeads::linear, 2}}) {
    Config c = mixture_config(design.depth);
    c.vocab_size = 32;
    c.mtpx_heads = design.heads;
    const auto model = random_model<T>(c, 91, 0.4);
    const auto plain = tree_texts(model, prompts, 1, tree_options(0, {}), sampling).first;
    for (const Drafts& drafts :
         {Drafts{2, {3, 2}}, Drafts{4, {2, 1, 2, 3}}, Drafts{GenerateOptions::automatic, {2, 2}}}) {
      if (drafts.k > design.depth && !model.design.chains) continue;
      for (const Index batch : {1, 4}) {
        INFO("design " << static_cast<int>(design.heads) << ", K = " << drafts.k << ", batch " << batch);
        const auto [texts, s] =
            tree_texts(model, prompts, batch, tree_options(drafts.k, drafts.tree), sampling);
        CHECK(texts == plain);
        if (drafts.k < 0) continue;
        const auto chain = tree_texts(model, prompts, batch, tree_options(drafts.k, {}), sampling).second;
        CHECK(s.nodes > chain.nodes);
        gained += s.mean_length() - chain.mean_length();
      }
    }
  }
  CHECK(gained > 0.5);
}

TEST_CASE("trees: any facts, near the end of the context, with a hook") {
  for (int facts = 0; facts < 32; ++facts) {
    MtpDesign design;
    design.chains = (facts & 1) != 0;
    design.reads_token = (facts & 2) != 0;
    design.attends = (facts & 4) != 0;
    design.shares_weights = (facts & 8) != 0;
    design.markov_rank = (facts & 16) != 0 ? 3 : 0;
    INFO("facts " << facts);
    Config c = dense_config(3);
    c.vocab_size = 9;
    c.max_position_embeddings = 24;
    Transformer<double, Device> model(device(), c, design);
    randomize(model, 5, 0.4);
    const std::vector<TreeIds> prompts{{1, 2, 3}, {4}};
    const auto at = [&](GenerateOptions options) {
      options.sampling.temperature = 1;
      return tree_texts(model, prompts, 2, options).first;
    };
    const auto plain = at(tree_options(0, {}, 40));
    CHECK(plain[0].size() == 21);
    CHECK(at(tree_options(3, {}, 40)) == plain);
    CHECK(at(tree_options(3, {2, 2, 2}, 40)) == plain);
    CHECK(at(tree_options(2, {4, 3}, 40)) == plain);
    if (design.chains) CHECK(at(tree_options(5, {2, 1, 1, 2, 1}, 40)) == plain);
    // A hook that forbids what depends on all that was written, and drafted, before.
    const auto hook = [](std::span<const std::int32_t> text, std::span<double> logits) {
      std::size_t sum = 0;
      for (const std::int32_t id : text) sum = 3 * sum + static_cast<std::size_t>(id);
      logits[sum % logits.size()] = -std::numeric_limits<double>::infinity();
    };
    GenerateOptions hooked = tree_options(3, {2, 2, 1}, 14), alone = tree_options(0, {}, 14);
    hooked.logits_hook = alone.logits_hook = hook;
    CHECK(at(hooked) == at(alone));
  }
}

TEST_CASE("trees: whichever branch wins, entries and states are those of a chain") {
  for (const MtpHeads heads : {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel}) {
    Config c = dense_config(2);
    c.vocab_size = 9;
    c.mtpx_heads = heads;
    const auto model = random_model<float>(c, 5, 0.4);
    const std::vector<std::int32_t> prompt{1, 2, 3};
    const auto decoded = [&](std::vector<Index> tree) {
      GenerateOptions options = tree_options(2, std::move(tree));
      options.sampling.temperature = 1;
      auto decoder = std::make_unique<Speculator<float, Device>>(model, options, 1, 60);
      decoder->add(prompt, 3);
      while (decoder->tokens().size() < 40) decoder->step();
      return decoder;
    };
    const auto chain = decoded({}), tree = decoded({3, 2});
    CHECK(tree->statistics().passes < chain->statistics().passes);
    // Of what the last rounds left some is provisional: not what stood four tokens before.
    const auto settled =
        static_cast<std::size_t>(std::min(chain->tokens().size(), tree->tokens().size()) - 7);
    const auto same = [&](const Tensor<float, Device>& a, const Tensor<float, Device>& b) {
      const std::vector<float> x = a.to_host(), y = b.to_host();
      const std::size_t numbers = settled * static_cast<std::size_t>(a.shape().width());
      CHECK(std::equal(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(numbers), y.begin()));
    };
    for (std::size_t l = 0; l < chain->cache().trunk.size(); ++l)
      same(chain->cache().trunk[l].entries, tree->cache().trunk[l].entries);
    for (std::size_t k = 0; k < chain->cache().modules.size(); ++k)
      same(chain->cache().modules[k].entries, tree->cache().modules[k].entries);
    for (std::size_t k = 0; k < chain->cache().states.size(); ++k)
      same(chain->cache().states[k].entries, tree->cache().states[k].entries);
  }
}

TEST_CASE("trees: the candidates of each branch are what the depths say of that branch") {
  for (const MtpHeads heads : {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel}) {
    Config c = dense_config(3);
    c.vocab_size = 9;
    c.max_position_embeddings = 100;  // there is room for the tree in every round
    c.mtpx_heads = heads;
    c.mtpx_markov_rank = 2;
    const auto model = random_model<double>(c, 6, 0.8);
    GenerateOptions options = tree_options(3, {3, 2, 3});
    options.sampling.temperature = 1;
    Speculator<double, Device> decoder(model, options);
    decoder.add(TreeIds{1, 2, 3}, 3);
    Index third = 0;
    for (std::uint64_t seed = 3; seed < 9;) {
      if (decoder.tokens().size() >= 60) {
        decoder.remove(0);
        decoder.add(TreeIds{1, 2, 3}, ++seed);
      }
      TreeIds branch = decoder.tokens();
      const std::size_t known = branch.size();
      decoder.step();
      std::size_t stands = 0;
      for (; stands < 3; ++stands) {
        TreeIds list(static_cast<std::size_t>(options.tree[stands]));
        const Numbers says = heads == MtpHeads::repeated
                                 ? said_again(model, branch, known)
                                 : logits(model, branch, static_cast<Index>(stands) + 1).back();
        race(std::span<const double>(says), options.sampling, {seed, known + stands}, list);
        branch.push_back(decoder.tokens()[known + stands]);
        if (std::find(list.begin(), list.end(), branch.back()) == list.end()) break;
      }
      CHECK(decoder.emitted().size() == stands + 1);
      third += stands == 3 ? 1 : 0;
      if (decoder.emitted().size() != stands + 1) break;
    }
    CHECK(third > 1);
  }
}

TEST_CASE("trees: rounds end as the rule says, place by place") {
  const Numbers p{1.0, 0.2, -0.5, 0.8, -1.5}, q{0.1, 0.9, -0.5, 1.1, 0.4};
  const auto model = constant_model(p, q);
  for (const SamplingOptions& sampling : {SamplingOptions{1.0}, SamplingOptions{0.7, 3}, SamplingOptions{}}) {
    for (const std::vector<Index>& tree :
         {std::vector<Index>{2, 2}, std::vector<Index>{4, 1, 2}, std::vector<Index>{1, 5}}) {
      GenerateOptions options = tree_options(static_cast<Index>(tree.size()), tree, 12);
      options.sampling = sampling;
      std::vector<Index> want(tree.size() + 1), got(want);
      for (std::uint64_t seed = 0; seed < 60; ++seed) {
        options.seed = seed;
        const auto s = tree_texts(model, {{0, 1}}, 1, options).second;
        const auto naive = naive_histogram(p, q, sampling, tree, seed, 2, options.max_tokens);
        for (std::size_t i = 0; i < want.size(); ++i) {
          want[i] += naive[i];
          got[i] += i < s.histogram.size() ? s.histogram[i] : 0;
        }
      }
      CHECK(got == want);
    }
  }
}

TEST_CASE("trees: what cannot be served is said") {
  const auto model = constant_model({0, 1, 2}, {0, 1, 2});
  const auto refused = [&](const GenerateOptions& options, const char* text) {
    CHECK_THROWS_WITH_AS(tree_texts(model, {{0}}, 1, options), text, ConfigError);
  };
  refused(tree_options(2, {0}), "[generate] tree = 0: a place has one candidate at least");
  refused(
      tree_options(3, {40, 40, 1}),
      "[generate] tree, draft = 3: a pass would have more than 1024 rows; fewer candidates, or fewer drafts");
  // As many places as auto may draft: longest_automatic.
  refused(
      tree_options(GenerateOptions::automatic, {200}),
      "[generate] tree, draft = 7: a pass would have more than 1024 rows; fewer candidates, or fewer drafts");
  GenerateOptions drawn = tree_options(2, {2});
  drawn.sampling.temperature = 1;
  drawn.draft_tokens = DraftTokens::drawn;
  refused(drawn,
          "[generate] tree: candidates of a place need coupled drafts and exact verification, which take the "
          "one that plain decoding picks");
}

TEST_SUITE_END();
