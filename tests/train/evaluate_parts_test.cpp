#include <mtpx/train/evaluate_parts.hpp>

#include <mtpx/comm/grid.hpp>
#include <mtpx/train/layout.hpp>

#include "support/shared_run.hpp"
#include "support/thread_ranks.hpp"

#include <mutex>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/evaluate_parts.hpp");

namespace {

/// So many windows of documents of 14 tokens, two at a time: of an odd number the last batch has one.
ValidationWindows windows_of_documents(Index limit) {
  Tokens tokens;
  for (Index document = 0; document < 9; ++document) {
    std::vector<std::int32_t> ids;
    for (Index i = 0; i < 14; ++i) ids.push_back(static_cast<std::int32_t>((document * i + i * i) % 11));
    tokens.add(ids);
  }
  return {tokens, {2, 12, limit, 2}};
}

Numbers figures_of(const Evaluation& e) {
  Numbers all{static_cast<double>(e.bytes)};
  for (const auto* part : {&e.loss, &e.accuracy, &e.agreement})
    all.insert(all.end(), part->begin(), part->end());
  all.insert(all.end(), e.rows.begin(), e.rows.end());
  return all;
}

/// Every rank has the figures of the whole model, and trains on from there as if nobody had looked.
template <typename T>
void check_parts(const Config& config, const std::string& text, int ranks, bool experts, double room,
                 Index limit = 5) {
  CAPTURE(text);
  CAPTURE(ranks);
  CAPTURE(experts);
  CAPTURE(limit);
  const ValidationWindows windows = windows_of_documents(limit);
  REQUIRE(windows.windows() == limit);
  const Layout layout = Layout::parse(text);
  Transformer<T, Cpu> whole(Cpu(1), config);
  randomize(whole, 1);
  const Numbers want = figures_of(evaluate(whole, windows, true));
  std::mutex one_at_a_time;
  on_ranks(
      ranks, [] { return Cpu(1); },
      [&](const Group<Cpu>& all) {
        const Grid<Cpu> grid(all, static_cast<int>(layout.stages()));
        ModelSlice slice = layout.slice(grid.stages.rank());
        if (experts) slice = slice.with_experts(grid.data.rank(), grid.data.size());
        Transformer<T, Cpu> part = slice_of(whole, slice);
        TrainOptions options{.steps = 2, .accumulation = 4};
        options.step.expert_room = room;
        Trainer<T, Cpu> trainer(part, options, &SharedRun::batch, grid.data, grid.stages);
        const Numbers got = figures_of(evaluate(trainer, part, windows, true, {}, all));
        const StepReport first = trainer.step();
        const std::lock_guard lock(one_at_a_time);
        check_bits(got, want, "figures");
        CHECK(std::isfinite(first.total));
      });
}

}  // namespace

TEST_CASE_TEMPLATE("evaluate: stages and their copies have the figures of the whole model", T, float, bf16) {
  for (const Index depth : {0, 1, 2}) {
    const std::string m(static_cast<std::size_t>(depth), 'm');
    check_parts<T>(mixture_config(depth), "Et|tt" + m + "L", 2, false, 1.5);
    check_parts<T>(mixture_config(depth), "E|tt|t" + m + "L", 6, false, 1.5);
  }
  Config parallel = mixture_config(2);
  parallel.mtpx_heads = MtpHeads::parallel;
  check_parts<T>(parallel, "Et|ttmmL", 4, false, 1.5);
}

TEST_CASE_TEMPLATE("evaluate: parts of the experts, with too little room at first, have the figures of all",
                   T, float, double) {
  for (const double room : {1.0, 2.0}) {
    CAPTURE(room);
    for (const Index limit : {3, 5})  // a row less beside two, a batch less
      check_parts<T>(mixture_config(2), "EtttmmL", 2, true, room, limit);
    check_parts<T>(mixture_config(1), "Et|ttmL", 4, true, room);
  }
}

TEST_SUITE_END();
