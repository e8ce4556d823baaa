#include <mtpx/model/stage.hpp>

#include "support/model.hpp"

#include <mtpx/model/backward.hpp>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/model/stage.hpp");

namespace {

/// Slices that begin at layer 0 and at each of `cuts`.
std::vector<ModelSlice> slices_at(const std::vector<Index>& cuts, Index layers) {
  std::vector<ModelSlice> all;
  Index begin = 0;
  for (const Index cut : cuts) {
    all.push_back({all.empty(), begin, cut, false});
    begin = cut;
  }
  all.push_back({all.empty(), begin, layers, true});
  return all;
}

struct StageRun {
  std::map<std::string, Numbers> gradients;
  Numbers losses;  // the total, then of each head
};

template <typename T>
Numbers stage_losses(const MtpLoss<T, Device>& loss) {
  Numbers all = host(loss.total.value());
  for (const auto& depth : loss.depths) all.push_back(host(depth.loss.value())[0]);
  return all;
}

template <typename T>
void copy_weights(const Transformer<T, Device>& from, Transformer<T, Device>& to) {
  for_each_tensor(to, [&](const std::string& name, const auto& tensor) {
    for_each_tensor(from, [&](const std::string& other, const auto& source) {
      if constexpr (std::is_same_v<decltype(source), decltype(tensor)>) {
        if (other == name) tensor.assign(source.to_host());
      }
    });
  });
}

/// One micro-batch through slices, one after the other and back.
template <typename T, typename Prepare>
StageRun run_slices(const Config& config, const MtpDesign& design, const std::vector<Index>& cuts,
                    const TaughtLossOptions& options, const Batch<Device>& batch, const Prepare& prepare) {
  Transformer<T, Device> whole(device<Device>(), config, design);
  randomize(whole, 4);
  std::vector<Transformer<T, Device>> slices;
  for (const ModelSlice& slice : slices_at(cuts, config.num_hidden_layers)) {
    slices.emplace_back(device<Device>(), config, design, slice);
    copy_weights(whole, slices.back());
    prepare(slices.back());
  }
  std::vector<std::unique_ptr<StagePass<T, Device>>> passes;
  StageState<T, Device> state;
  for (const auto& slice : slices) {
    passes.push_back(std::make_unique<StagePass<T, Device>>(slice, batch, options, acc_t<T>(0.5)));
    passes.back()->forward(state);
    state = passes.back()->made();
    Index place = 0;  // what is made has the shapes that stage_state() says
    const auto shapes = stage_state(slice, batch.batch(), batch.time(), slice.slice.end);
    std::vector<Shape> said;
    shapes.for_each([&](const auto& one) { said.push_back(one.shape()); });
    if (!slice.slice.head) {
      state.for_each([&](const auto& one) { CHECK(one.shape() == nth(said, place++)); });
      CHECK(place == static_cast<Index>(said.size()));
    }
  }
  state = {};
  for (std::size_t s = slices.size(); s-- > 0;) {
    passes[s]->backward(state);
    state = passes[s]->given();
  }
  StageRun run;
  run.losses = stage_losses<T>(passes.back()->loss());
  for (auto& slice : slices) run.gradients.merge(test::gradients(slice));
  return run;
}

template <typename T, typename Prepare>
void check_cuts(const Config& config, const MtpDesign& design, const std::vector<std::vector<Index>>& all,
                const TaughtLossOptions& options, const Prepare& prepare) {
  const Batch<Device> batch = random_batch(2, 7, config.vocab_size);
  Transformer<T, Device> whole(device<Device>(), config, design);
  randomize(whole, 4);
  prepare(whole);
  const Numbers losses = stage_losses<T>(mtp_backward(whole, batch, options, 0.5));
  const auto want = test::gradients(whole);
  for (const auto& cuts : all) {
    const StageRun run = run_slices<T>(config, design, cuts, options, batch, prepare);
    check_bits(run.gradients, want);
    check_bits(run.losses, losses, "losses");
  }
}

const auto as_it_is = [](auto&) {};
const std::vector<std::vector<Index>> everywhere = {{1}, {3}, {0, 1}, {1, 2}, {0, 1, 2, 3}};

}  // namespace

TEST_CASE("StagePass: slices give the whole model's gradients and losses, to the last bit") {
  for (const Index depth : {0, 1, 2}) {
    CAPTURE(depth);
    const Config mixture = mixture_config(depth);  // three layers
    check_cuts<double>(mixture, mixture.design(), everywhere, {}, as_it_is);
    check_cuts<float>(mixture, mixture.design(), everywhere, {}, as_it_is);
    Config dense = dense_config(depth);
    check_cuts<double>(dense, dense.design(), {{1}, {0, 1, 2}}, {}, as_it_is);
    check_cuts<float>(dense, dense.design(), {{1}, {0, 1, 2}}, {}, as_it_is);
  }
}

TEST_CASE("StagePass: of every design") {
  for (const MtpHeads heads : {MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    Config config = mixture_config(2);
    config.mtpx_heads = heads;
    const bool own = config.design().own_layers > 0;
    check_cuts<double>(config, config.design(),
                       {{1}, {0, 2}, own ? std::vector<Index>{2} : std::vector<Index>{3}},
                       published_weights(config.design()), as_it_is);
  }
  MtpDesign design;  // heads side by side that read a token, and share the final norm
  design.chains = design.own_norm = false;
  check_cuts<float>(mixture_config(2), design, everywhere, {}, as_it_is);
  Config config = mixture_config(0);
  config.mtpx_heads = MtpHeads::parallel;  // without depths its own layer may stand anywhere
  check_cuts<double>(config, config.design(), everywhere, {}, as_it_is);
}

TEST_CASE("StagePass: detached depths, own embeddings, checkpoints, depths that learn from the main head") {
  const Config config = mixture_config(2);
  const auto design = config.design();
  check_cuts<double>(config, design, everywhere, {}, [](auto& model) { model.detach_depths = true; });
  check_cuts<double>(config, design, {{1}, {3}}, {},
                     [](auto& model) { model.activation_checkpointing = true; });
  check_cuts<double>(config, design, {{2}}, {{}, 0.5}, as_it_is);
  Config own = config;
  own.mtpx_own_embeddings = {2};
  own.mtpx_own_heads = {1};
  check_cuts<double>(own, design, everywhere, {}, as_it_is);
  Config plain = config;
  plain.aux_loss_alpha = 0;
  check_cuts<double>(plain, design, {{1, 2}}, {}, as_it_is);
}

TEST_CASE("relayed_depths: those that read the shared embedding and have a row") {
  using Whole = Transformer<double, Device>;
  const auto relayed = [](const Config& config, Index time) {
    return relayed_depths(Whole(device<Device>(), config), time);
  };
  Config config = mixture_config(3);
  CHECK(relayed(config, 8) == std::vector<Index>{1, 2, 3});
  CHECK(relayed(config, 2) == std::vector<Index>{1});
  config.mtpx_own_embeddings = {2};
  CHECK(relayed(config, 8) == std::vector<Index>{1, 3});
  config.mtpx_own_embeddings = {};
  config.mtpx_heads = MtpHeads::parallel;
  CHECK(relayed(config, 8).empty());
  config.mtpx_heads = MtpHeads::repeated;
  config.mtpx_own_embeddings = {1};
  CHECK(relayed(config, 8).empty());
}

TEST_CASE("Transformer: a slice has its part under the whole's names; what is none is refused") {
  using Whole = Transformer<double, Device>;
  const Config config = mixture_config(2);
  const auto names = [](const auto& model) {
    std::vector<std::string> all;
    for_each_tensor(model, [&](const std::string& name, const auto&) { all.push_back(name); });
    return all;
  };
  std::vector<std::string> joined;
  for (const ModelSlice& slice : slices_at({0, 2}, 3)) {
    const auto part = names(Whole(device<Device>(), config, config.design(), slice));
    joined.insert(joined.end(), part.begin(), part.end());
  }
  CHECK(joined == names(Whole(device<Device>(), config)));

  const auto refused = [](const Config& c, const ModelSlice& slice) {
    return error_text<ConfigError>([&] { Whole(device<Device>(), c, c.design(), slice); });
  };
  CHECK(refused(config, {true, 0, 4, false}) == "[model] a slice of layers 0 to 4 of 3: there are no such");
  CHECK(refused(config, {false, 2, 1, false}) == "[model] a slice of layers 2 to 1 of 3: there are no such");
  CHECK(refused(config, {true, 1, 3, true}) ==
        "[model] a slice of layers 1 to 3 of 3: the embedding stands before the first layer");
  CHECK(refused(config, {false, 1, 2, true}) ==
        "[model] a slice of layers 1 to 2 of 3: the head stands behind the last layer");
  Config tied = config;
  tied.tie_word_embeddings = true;
  CHECK(
      refused(tied, {false, 1, 3, true}) ==
      "[model] a slice of layers 1 to 3 of 3: tie_word_embeddings = true: embedding and head are one matrix "
      "and stay together");
  Config parallel = config;
  parallel.mtpx_heads = MtpHeads::parallel;
  CHECK(refused(parallel, {false, 3, 3, true}) ==
        "[model] a slice of layers 3 to 3 of 3: depths that do not chain read the state before the last 1 of "
        "them");

  Tape tape;
  const Whole last(device<Device>(), config, config.design(), {false, 1, 3, true});
  CHECK_THROWS_WITH_AS(last(tape, random_batch(1, 4, config.vocab_size)),
                       "[model] a slice without the embedding runs on what the slice before it made", Error);
}
