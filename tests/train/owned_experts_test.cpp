#include <mtpx/train/owned_experts.hpp>

#include <mtpx/comm/grid.hpp>
#include <mtpx/train/layout.hpp>

#include "support/shared_run.hpp"
#include "support/thread_ranks.hpp"

#include <mutex>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/owned_experts.hpp");

namespace {

const auto host_rank = [] { return Cpu(1); };

/// Two stacks of experts whose parts end where chunks do, or inside one, or many to a chunk.
template <typename T>
struct TwoStacks {
  StackedWeight<T, Cpu> up, down;
  Parameter<T, Cpu> beside;

  TwoStacks(Index experts, Index out, Index in, Index part, Index parts)
      : up{{Cpu(1), {experts / parts, out, in}}, part * experts / parts, experts},
        down{{Cpu(1), {experts / parts, in, out}}, part * experts / parts, experts},
        beside(Cpu(1), {7}) {
    for_each_tensor(*this, [&](const std::string& name, const auto& tensor) {
      fill_normal(tensor, 1, std::hash<std::string>{}(name), 0.5);
    });
  }
  static void members(auto& self, auto&& visit) {
    visit("mlp.up", self.up);
    visit("beside", self.beside);
    visit("mlp.down", self.down);
  }
};

double slope_of(Index micro, std::uint64_t stream, Index at) {
  return Philox::uniform(static_cast<std::uint64_t>(3 + micro), stream, static_cast<std::uint64_t>(at)) - 0.5;
}

/// Writes the gradients of micro-batches `micros` of numbers `from` .. of a weight, one behind the other.
template <typename P>
void write_gradients(P& parameter, std::span<const Index> micros, std::uint64_t stream, Index from) {
  const Index size = parameter.shape().size();
  (void)parameter.sink();
  auto& slot = *parameter.slot();
  for (std::size_t m = 0; m < micros.size(); ++m) {
    for (Index i = 0; i < size; ++i) {
      using A = acc_t<typename P::value_type>;
      slot.grad.data()[static_cast<Index>(m) * size + i] =
          static_cast<A>(slope_of(micros[m], stream, from + i));
    }
  }
}

/// Two steps of as many micro-batches as `all` has, on one rank of `group`; what it has then.
template <typename T>
Everything two_steps(const Group<Cpu>& group, Index all, Index experts, Index out, Index in) {
  const Index ranks = group.size();
  TwoStacks<T> module(experts, out, in, group.rank(), ranks);
  AdamW<T, Cpu> optimizer(AdamWOptions{}, group);
  optimizer.reserve(module);
  GradientSums<T, Cpu> sums;
  Everything end;
  for (Index step = 0; step < 2; ++step) {
    for (Index first = 0; first < all; first += ranks) {
      std::vector<Index> micros;
      for (Index m = 0; m < ranks; ++m) micros.push_back(step * all + first + m);
      const Index own = micros[static_cast<std::size_t>(group.rank())], part = experts / ranks * out * in;
      write_gradients(module.up.weight, micros, 1, group.rank() * part);
      write_gradients(module.beside, std::span(&own, 1), 2, 0);
      write_gradients(module.down.weight, micros, 3, group.rank() * part);
      ranks > 1 ? optimizer.shards()->add(module) : sums.add(module);
    }
    if (ranks == 1) sums.finish(module);
    const GradientClip<Cpu> clip = optimizer.clip(module, 1.0);
    end[cat("norm ", step)] = host(clip.norm);
    optimizer.step(module, clip, 0.1);
  }
  const auto keep = [&](const std::string& name, const auto& tensor) { end[name] = host(tensor); };
  for_each_tensor(module, keep);
  optimizer.for_each_state(module, keep);
  return end;
}

}  // namespace

TEST_CASE_TEMPLATE("OwnedExperts: wherever parts are cut, sums, norms, updates and state are those of one", T,
                   float, double, bf16) {
  const std::pair<Index, Index> sizes[] = {{64, 128}, {3, 5}, {37, 61}, {100, 131}};  // of an expert
  for (const auto& size : sizes) {
    CAPTURE(size.first);
    const Everything want = two_steps<T>(Group<Cpu>(Cpu(1)), 4, 8, size.first, size.second);
    for (const int ranks : {2, 4}) {
      CAPTURE(ranks);
      std::mutex one_at_a_time;
      on_ranks(ranks, host_rank, [&](const Group<Cpu>& group) {
        const Everything got = two_steps<T>(group, 4, 8, size.first, size.second);
        const std::lock_guard lock(one_at_a_time);
        check_part(got, want);
      });
    }
  }
}

TEST_CASE(
    "experts_across: two stages of two ranks, recomputed and cut to little room, have the bits of one") {
  SharedRun run{mixture_config(2)};
  run.config.n_routed_experts = 8;
  run.steps = run.options.steps = 4;
  const Everything want = run.on<double>(Group<Cpu>(Cpu(1)));
  const Layout layout = Layout::parse("Ett|tmmL");
  std::mutex one_at_a_time;
  for (const double room : {1.0, 2.0}) {
    CAPTURE(room);
    on_ranks(4, host_rank, [&](const Group<Cpu>& all) {
      const Grid<Cpu> grid(all, 2);
      Transformer<double, Cpu> whole(Cpu(1), run.config);
      randomize(whole, 1);
      const ModelSlice slice = layout.slice(grid.stages.rank()).with_experts(grid.data.rank(), 2);
      Transformer<double, Cpu> model = slice_of(whole, slice);
      model.activation_checkpointing = true;
      TrainOptions options = run.options;
      options.step.expert_room = room;
      Trainer<double, Cpu> trainer(model, options, &SharedRun::batch, grid.data, grid.stages);
      Everything got;
      for (Index step = 0; step < run.steps; ++step) {
        const StepReport report = trainer.step();
        got[cat("report ", step)] = {report.total, report.gradient_norm};
        for (const double loss : report.loss) got[cat("report ", step)].push_back(loss);
      }
      const auto keep = [&](const std::string& name, const auto& tensor) { got[name] = host(tensor); };
      for_each_tensor(model, keep);
      trainer.optimizer().for_each_state(model, keep);
      const auto together = collect_model(model, grid.stages, grid.data);
      CHECK(together.has_value() == (all.rank() == 0));
      if (together) for_each_tensor(*together, keep);
      const std::lock_guard lock(one_at_a_time);
      check_part(got, want);
    });
  }
}

TEST_CASE("TrainStep: a part of the experts that is not the rank's is refused") {
  Transformer<float, Cpu> whole(Cpu(1), mixture_config(1));
  CHECK_THROWS_WITH_AS(slice_of(whole, whole.slice.with_experts(0, 4)),
                       doctest::Contains("n_routed_experts = 6 has no part 0 of 4 equal ones"), ConfigError);
  Transformer<float, Cpu> half = slice_of(whole, whole.slice.with_experts(0, 2));
  TrainOptions options{.steps = 1, .accumulation = 1};
  CHECK_THROWS_WITH_AS((Trainer<float, Cpu>(half, options, &SharedRun::batch)),
                       doctest::Contains("rank 0 of 1 has part 0 of 2 of the experts"), ConfigError);
}

TEST_SUITE_END();
