#include <mtpx/train/pipeline_passes.hpp>

#include "support/pipeline_run.hpp"
#include "support/thread_ranks.hpp"

#include <mtpx/train/across_stages.hpp>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/pipeline_passes.hpp");

namespace {

template <typename T>
void check_pipelines(const PipelineCase& c, const std::vector<std::string>& layouts, int copies = 1) {
  const PipelineEnd want = train_alone<T>(c);
  for (const std::string& layout : layouts) {
    CAPTURE(layout);
    const int ranks = copies * static_cast<int>(Layout::parse(layout).stages());
    std::vector<PipelineEnd> ends(static_cast<std::size_t>(ranks));
    on_ranks(
        ranks, [] { return Cpu(1); },
        [&](const Group<Cpu>& all) {
          ends[static_cast<std::size_t>(all.rank())] = train_rank<T>(c, layout, all);
        });
    std::size_t tensors = 0;
    for (const PipelineEnd& end : ends) tensors += check_rank(end, want);
    CHECK(tensors == static_cast<std::size_t>(copies) * want.tensors.size());
  }
}

std::string depths_of(Index depth) { return std::string(static_cast<std::size_t>(depth), 'm') + "L"; }

}  // namespace

TEST_CASE("TrainStep: pipelines of 2 and 4 stages leave the bytes of none") {
  for (const Index depth : {0, 1, 2}) {
    CAPTURE(depth);
    const std::string end = depths_of(depth);
    const PipelineCase mixture{mixture_config(depth)};  // three layers
    const std::vector<std::string> layouts{"Et|tt" + end, "Et|t|t|" + end};
    check_pipelines<float>(mixture, layouts);
    check_pipelines<double>(mixture, layouts);
    PipelineCase dense{dense_config(depth)};
    check_pipelines<float>(dense, {"Ett|" + end, "E|t|t|" + end});
    check_pipelines<double>(dense, {"Ett|" + end});
  }
}

TEST_CASE(
    "TrainStep: pipelines of parallel heads, detached depths, own embeddings, few and many micro-batches") {
  PipelineCase c{mixture_config(2)};
  c.config.mtpx_heads = MtpHeads::parallel;
  c.loss = published_weights(c.config.design());
  check_pipelines<float>(c, {"Ett|tmmL", "E|t|t|tmmL"});
  check_pipelines<double>(c, {"Et|ttmmL"});
  c = {mixture_config(2)};
  c.detached = true;
  check_pipelines<float>(c, {"Et|t|t|mmL"});
  c.config.mtpx_own_embeddings = {1};
  c.detached = false;
  check_pipelines<float>(c, {"Et|t|t|mmL"});
  for (const Index micros : {1, 2, 7}) {
    c.micros = micros;
    check_pipelines<float>(c, {"Et|t|t|mmL"});
  }
}

TEST_CASE("TrainStep: copies of a pipeline, whose stages share out their optimiser's state") {
  PipelineCase c{mixture_config(1), 4};
  check_pipelines<float>(c, {"Et|ttmL"}, 2);
  check_pipelines<double>(c, {"Ett|tmL"}, 4);
  check_pipelines<bf16>(c, {"EtttmL", "E|ttt|mL"}, 2);
}

TEST_CASE("TrainStep: a step that is not finite changes nothing in any stage") {
  PipelineCase c{mixture_config(1)};
  c.loss.lambda = std::numeric_limits<double>::max();
  const std::string want = error_text<NumericError>([&] { train_alone<float>(c); });
  CHECK(want.find("[train] step 1: loss ") == 0);
  const Layout layout = Layout::parse("Et|t|tmL");
  std::vector<std::string> texts(3);
  on_ranks(
      3, [] { return Cpu(1); },
      [&](const Group<Cpu>& all) {
        texts[static_cast<std::size_t>(all.rank())] = error_text<NumericError>(
            [&] { train_stage<float>(c, layout.slice(all.rank()), Grid<Cpu>(all, 3)); });
      });
  CHECK(texts == std::vector<std::string>(3, want));
}

TEST_CASE("PipelinePasses: another stage's slice, and a frozen main model, are refused") {
  const PipelineCase c{mixture_config(1)};
  const auto refused = [&](const std::vector<ModelSlice>& slices, bool frozen) {
    std::vector<std::string> texts(slices.size());
    on_ranks(
        static_cast<int>(slices.size()), [] { return Cpu(1); },
        [&](const Group<Cpu>& group) {
          const auto rank = static_cast<std::size_t>(group.rank());
          texts[rank] = error_text<ConfigError>([&] {
            Transformer<float, Cpu> model(group.device(), c.config, c.config.design(), slices[rank]);
            if (frozen) model.freeze_main();
            TrainStep<float, Cpu> step(model, {upload(group.device(), random_text(c.config)(0))}, {},
                                       Group<Cpu>(group.device()), group);
            step(1e-3);
          });
        });
    return texts;
  };
  const std::string rule = " the output head: the first stage has the one, the last the other";
  CHECK(refused({{false, 1, 3, true}, {true, 0, 1, false}}, false) ==
        std::vector<std::string>{"[pipeline] stage 0 of 2 lacks the embedding and has" + rule,
                                 "[pipeline] stage 1 of 2 has the embedding and lacks" + rule});
  const std::string frozen =
      "[train] the main model is frozen: all stages but the last have nothing to train";
  CHECK(refused({{true, 0, 1, false}, {false, 1, 3, true}}, true) ==
        std::vector<std::string>{frozen, frozen});
}

TEST_CASE("collect_model: stage 0 has the whole model, slice_of: a slice of it") {
  const Config config = mixture_config(2);
  Transformer<bf16, Cpu> want(Cpu(1), config);
  initialize(want, 3);
  want.draft_from({1, 4, 7});
  const auto numbers = [](const auto& model) {
    std::map<std::string, Numbers> all;
    detail::for_each_shown(model,
                           [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
    return all;
  };
  const auto want_numbers = numbers(want);
  const Layout layout = Layout::parse("Et|t|tmmL");
  std::vector<std::map<std::string, Numbers>> got(3);
  on_ranks(
      3, [] { return Cpu(1); },
      [&](const Group<Cpu>& stages) {
        const Transformer<bf16, Cpu> part = slice_of(want, layout.slice(stages.rank()));
        const auto whole = collect_model(part, stages);
        if (whole && whole->draft_ids() == want.draft_ids() && whole->config == want.config)
          got[static_cast<std::size_t>(stages.rank())] = numbers(*whole);
      });
  check_bits(got[0], want_numbers);
  CHECK(want_numbers.contains("load of layer 4"));
  CHECK((got[1].empty() && got[2].empty()));
}

TEST_CASE("Grid: copies times stages; what does not divide is refused") {
  std::vector<std::string> places(6);
  on_ranks(
      6, [] { return Cpu(1); },
      [&](const Group<Cpu>& all) {
        const Grid<Cpu> grid(all, 3);
        places[static_cast<std::size_t>(all.rank())] =
            cat(grid.data.rank(), '/', grid.data.size(), ' ', grid.stages.rank(), '/', grid.stages.size());
        // Each group hears its own members alone.
        std::vector<int> own{all.rank()}, data(2), stages(3), sent{10 * all.rank(), 10 * all.rank() + 1},
            got(2);
        grid.data.all_gather(own.data(), data.data(), sizeof(int));
        grid.stages.all_gather(own.data(), stages.data(), sizeof(int));
        grid.data.all_to_all(sent.data(), got.data(), sizeof(int));
        grid.stages.barrier();
        const int stage = all.rank() % 3, first = all.rank() - stage;
        if (data != std::vector<int>{stage, stage + 3} ||
            stages != std::vector<int>{first, first + 1, first + 2} ||
            got != std::vector<int>{10 * stage + first / 3, 10 * (stage + 3) + first / 3})
          places[static_cast<std::size_t>(all.rank())] = "other numbers";
      });
  CHECK(places == std::vector<std::string>{"0/2 0/3", "0/2 1/3", "0/2 2/3", "1/2 0/3", "1/2 1/3", "1/2 2/3"});
  CHECK_THROWS_WITH_AS(Grid<Cpu>(Group<Cpu>(Cpu(1)), 2),
                       "[grid] 1 ranks are no copies of a pipeline of 2 stages", ConfigError);
  CHECK_THROWS_WITH_AS(PartWire<Cpu>(Group<Cpu>(Cpu(1)), {1}), "[group] rank 0 is not among the members",
                       Error);
}
