#include <mtpx/train/sharded.hpp>

#include <mtpx/train/gradient_sums.hpp>

#include "support/shared_run.hpp"
#include "support/thread_ranks.hpp"

#include <mutex>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/sharded.hpp");

namespace {

const auto one_thread = [] { return Cpu(1); };

/// Every rank of 2 and 4 ends with the bytes of one.
template <typename T>
void check_shared(const SharedRun& run, std::initializer_list<int> sizes = {2, 4}) {
  const Everything want = run.on<T>(Group<Cpu>(Cpu(1)));
  for (const int ranks : sizes) {
    CAPTURE(ranks);
    std::mutex one_at_a_time;
    on_ranks(ranks, one_thread, [&](const Group<Cpu>& group) {
      const Everything got = run.on<T>(group);
      const std::lock_guard lock(one_at_a_time);
      CAPTURE(group.rank());
      check_bits(got, want);
    });
  }
}

/// Parameters of several chunks, of less than one, and of a whole one; one has no gradient.
template <typename T>
struct SeveralSizes {
  Parameter<T, Cpu> large, small, whole, idle;
  Parameter<acc_t<T>, Cpu> in_sums;

  explicit SeveralSizes(const Cpu& cpu)
      : large(cpu, {70, 600}),
        small(cpu, {3}),
        whole(cpu, {squares_chunk<acc_t<T>>}),
        idle(cpu, {5}),
        in_sums(cpu, {90, 100}) {
    std::uint64_t stream = 0;
    for_each_parameter(*this, [&](const std::string&, auto& parameter) {
      using V = typename std::remove_cvref_t<decltype(parameter)>::value_type;
      ++stream;
      std::vector<V> values;
      for (Index i = 0; i < parameter.shape().size(); ++i)
        values.push_back(
            V(static_cast<float>(Philox::uniform(1, stream, static_cast<std::uint64_t>(i)) - 0.5)));
      parameter.value().assign(values);
    });
  }
  /// The gradient of micro-batch n.   gaps: some parameters have none in every sixth
  void backward(Index n, bool gaps = false) {
    std::uint64_t stream = 100 * static_cast<std::uint64_t>(n + 1);
    for_each_parameter(*this, [&](const std::string& name, auto& parameter) {
      ++stream;
      if (name == "idle" || (gaps && n % 6 == 4 && name != "whole")) return;
      const auto sink = parameter.sink();
      for (Index i = 0; i < parameter.shape().size(); ++i)
        sink.data[i] = static_cast<acc_t<T>>(Philox::uniform(2, stream, static_cast<std::uint64_t>(i)) - 0.5);
    });
  }
  Everything all() const {
    Everything numbers;
    for_each_parameter(*this,
                       [&](const std::string& name, const auto& p) { numbers[name] = host(p.value()); });
    return numbers;
  }
  static void members(auto& self, auto&& visit) {
    visit("large", self.large);
    visit("small", self.small);
    visit("in_sums", self.in_sums);
    visit("whole", self.whole);
    visit("idle", self.idle);
  }
};

/// Three steps of six micro-batches, by one AdamW and GradientSums.
template <typename T>
Everything steps_of_one(bool gaps) {
  const Cpu cpu(1);
  SeveralSizes<T> module(cpu);
  AdamW<T, Cpu> optimizer;
  GradientSums<T, Cpu> sums;
  Everything all;
  for (Index step = 0; step < 3; ++step) {
    for (Index n = 6 * step; n < 6 * step + 6; ++n) {
      module.backward(n, gaps);
      sums.add(module);
    }
    sums.finish(module);
    const GradientClip<Cpu> clip = optimizer.clip(module, 1.0);
    all[cat("norm ", step)] = host(clip.norm);
    optimizer.step(module, clip, 0.1);
  }
  all.merge(module.all());
  optimizer.for_each_state(module, [&](const std::string& name, const auto& t) {
    if (!name.starts_with("idle")) all[name] = host(t);
  });
  return all;
}

/// The same by ranks whose buckets are as small as they go, or one.
template <typename T>
Everything steps_of_many(const Group<Cpu>& group, Index bucket, bool gaps) {
  SeveralSizes<T> module(group.device());
  AdamW<T, Cpu> optimizer(AdamWOptions{}, group, bucket);
  Everything all;
  for (Index step = 0; step < 3; ++step) {
    for (Index n = 6 * step + group.rank(); n < 6 * step + 6; n += group.size()) {
      module.backward(n, gaps);
      optimizer.shards()->add(module);
    }
    const GradientClip<Cpu> clip = optimizer.clip(module, 1.0);
    all[cat("norm ", step)] = host(clip.norm);
    optimizer.step(module, clip, 0.1);
  }
  all.merge(module.all());
  optimizer.for_each_state(module, [&](const std::string& name, const auto& t) {
    if (!name.starts_with("idle")) all[name] = host(t);
  });
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("Shards: whatever the ranks and buckets, sums, norms, updates and state are those of one",
                   T, float, double, bf16) {
  for (const int ranks : {2, 3, 6}) {
    const bool gaps = ranks < 6;  // each rank has a gradient of the step
    const Everything want = steps_of_one<T>(gaps);
    for (const Index bucket : {1, 1 << 16, 1 << 24}) {
      CAPTURE(ranks);
      CAPTURE(bucket);
      std::mutex one_at_a_time;
      on_ranks(ranks, one_thread, [&](const Group<Cpu>& group) {
        const Everything got = steps_of_many<T>(group, bucket, gaps);
        const std::lock_guard lock(one_at_a_time);
        check_bits(got, want);
      });
    }
  }
}

TEST_CASE("Shards: state that is assigned is gone on from; what trains only later is an error") {
  on_ranks(2, one_thread, [&](const Group<Cpu>& group) {
    const auto run = [&](AdamW<double, Cpu>& optimizer, SeveralSizes<double>& module, Index step) {
      module.backward(2 * step + group.rank());
      optimizer.step(module, 0.1, 1.0);
    };
    SeveralSizes<double> whole(group.device()), resumed(group.device());
    AdamW<double, Cpu> first(AdamWOptions{}, group), second(AdamWOptions{}, group);
    run(first, whole, 0);
    Everything state;
    first.for_each_state(whole, [&](const std::string& name, const auto& t) { state[name] = host(t); });
    for_each_parameter(whole, [&](const std::string& name, auto& p) { state[name] = host(p.value()); });
    for_each_parameter(resumed, [&](const std::string& name, auto& p) { p.value().assign(state.at(name)); });
    second.for_each_state(resumed, [&](const std::string& name, const auto& t) { t.assign(state.at(name)); });
    second.set_steps(1);
    run(first, whole, 1);
    run(second, resumed, 1);
    const Everything got = resumed.all(), want = whole.all();
    for (const auto& [name, numbers] : got) {
      if (numbers != want.at(name)) throw Error(name + " is another one");
    }
  });
  CHECK(error_text<Error>([] {
          on_ranks(2, one_thread, [](const Group<Cpu>& group) {
            SeveralSizes<double> module(group.device());
            module.small.freeze();
            AdamW<double, Cpu> optimizer(AdamWOptions{}, group);
            optimizer.reserve(module);
            module.small.freeze(false);
            module.backward(0);
            optimizer.step(module, 0.1);
          });
        }) == "[shards] small trains now, and did not when the ranks shared the parameters out");
}

TEST_CASE_TEMPLATE("Shards: what is frozen for a while and trains again has the bits of one rank", T, float,
                   bf16) {
  for (const bool experts : {false, true}) {
    if (experts && std::is_same_v<T, bf16>) continue;
    SharedRun run{mixture_config(2)};
    run.steps = run.options.steps = 6;
    run.options.step.bucket = 1;
    run.freezes = 2, run.thaws = 4;
    run.experts = experts;
    CAPTURE(experts);
    const Everything want = run.on<T>(Group<Cpu>(Cpu(1)));
    std::mutex one_at_a_time;
    on_ranks(2, one_thread, [&](const Group<Cpu>& group) {
      const Everything got = run.on<T>(group);
      const std::lock_guard lock(one_at_a_time);
      check_part(got, want);
    });
  }
  CHECK(error_text<Error>([] {
          on_ranks(2, one_thread, [](const Group<Cpu>& group) {
            SeveralSizes<T> module(group.device());
            Shards<T, Cpu> shards(group);
            shards.reserve(module);
            shards.send_ready();
            module.small.freeze();
            module.small.freeze(false);
            module.backward(0);
            shards.add(module);
          });
        }) == "[shards] small trains again, which reserve() was not told");
}

TEST_CASE("Shards: a step that is not finite changes nothing on any rank") {
  SharedRun run{mixture_config(1)};
  run.options.lr.peak = 1e160;  // the second step's weights are no numbers to compute with
  run.options.lr.warmup = 0;
  on_ranks(2, one_thread, [&](const Group<Cpu>& group) {
    if (error_text<NumericError>([&] { run.on<float>(group); }).find("must be finite") == std::string::npos)
      throw Error("a step that is not finite was taken");
  });
}

TEST_CASE("evaluate: ranks that share the windows have the figures of one, to the last bit") {
  Tokens tokens;
  for (Index document = 0; document < 9; ++document) {
    std::vector<std::int32_t> ids;
    for (Index i = 0; i < 14; ++i) ids.push_back(static_cast<std::int32_t>((document * i + i * i) % 11));
    tokens.add(ids);
  }
  const ValidationWindows windows(tokens, {2, 12, 10, 2});
  REQUIRE(windows.size() > 2);
  const auto figures = [&](const Group<Cpu>& ranks) {
    Transformer<float, Cpu> model(Cpu(1), mixture_config(2));
    randomize(model, 1);
    const Evaluation e = evaluate(model, windows, false, {}, ranks);
    Numbers all{static_cast<double>(e.bytes)};
    for (const auto* part : {&e.loss, &e.accuracy, &e.agreement})
      all.insert(all.end(), part->begin(), part->end());
    all.insert(all.end(), e.rows.begin(), e.rows.end());
    return all;
  };
  const Numbers want = figures(Group<Cpu>(Cpu(1)));
  CHECK(want[0] > 40);
  for (const int ranks : {2, 3, 4}) {
    on_ranks(ranks, one_thread, [&](const Group<Cpu>& group) {
      if (figures(group) != want) throw Error("another figure");
    });
  }
}

TEST_CASE("Trainer: the ranks must share the micro-batches evenly") {
  SharedRun run{dense_config(0)};
  run.options.accumulation = 3;
  CHECK(error_text<ConfigError>(
            [&] { on_ranks(2, one_thread, [&](const Group<Cpu>& group) { run.on<double>(group); }); }) ==
        "[train] accumulation = 3: must be a multiple of the 2 ranks, which share a step's micro-batches");
}

TEST_CASE_TEMPLATE("Shards: 4 ranks, 2 and 1 have the same bytes after 20 steps", T, float, double, bf16) {
  each_shared_run([](const std::string& name, const SharedRun& run) {
    CAPTURE(name);
    check_shared<T>(run);
  });
}

TEST_CASE_TEMPLATE("Shards: buckets that leave while backward runs change no bit", T, float, bf16) {
  each_shared_run([](const std::string& name, SharedRun run) {
    CAPTURE(name);
    run.steps = run.options.steps = 4;
    run.options.step.bucket = 1;
    check_shared<T>(run);
    if (name != "parallel heads") return;
    run.options.step.loss.distill = 0.5;  // the main head's tape stays
    check_shared<T>(run, {2});
  });
}

namespace {

/// How many parts have left at each call of a wire that counts them.
struct CountingWire {
  std::shared_ptr<ThreadWires::Wire> to;
  std::vector<std::string>* calls;
  int rank() const { return to->rank(); }
  int size() const { return to->size(); }
  void all_to_all(const Cpu& cpu, const void* from, void* into, std::size_t bytes) {
    calls->push_back("bucket");
    to->all_to_all(cpu, from, into, bytes);
  }
  void all_gather(const Cpu& cpu, const void* from, void* into, std::size_t bytes) {
    to->all_gather(cpu, from, into, bytes);
  }
  void send_receive(const Cpu& cpu, std::span<const Transfer> all) { to->send_receive(cpu, all); }
  void barrier(const Cpu& cpu) { to->barrier(cpu); }
  void check(const Cpu& cpu) { to->check(cpu); }
};

}  // namespace

TEST_CASE("Shards: a bucket leaves when its gradients are final, from the second micro-batch on") {
  ThreadWires wires(1);
  std::vector<std::string> calls;
  const Cpu cpu(1);
  const Group<Cpu> group(cpu, std::make_shared<CountingWire>(
                                  CountingWire{std::make_shared<ThreadWires::Wire>(wires, 0), &calls}));
  SeveralSizes<float> module(cpu);
  Shards<float, Cpu> shards(group, 1);
  shards.reserve(module);
  const auto backward = [&] {  // from the last parameter to the first
    Tape tape;
    std::vector<Var<float, Cpu>> parts;
    const Tensor<float, Cpu> one = filled(cpu, {1}, 1.0F);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      parts.push_back(tape.record(name, one, [&calls, name, &parameter](const Tensor<float, Cpu>&) {
        calls.push_back(name);
        const auto sink = parameter.sink();
        fill_value(parameter.device(), parameter.shape().size(), 1.0F, sink.data);
      }));
      tape.seed(parts.back(), one);
    });
    calls.clear();
    tape.run([&] { shards.send_ready(); });
    shards.add(module);
  };
  backward();
  const std::vector<std::string> names{"idle", "whole", "in_sums", "small", "large"};
  REQUIRE(calls.size() > 10);
  CHECK(std::equal(names.begin(), names.end(), calls.begin()));
  const std::vector<std::string> first = calls;
  backward();
  CHECK(calls[0] == "idle");
  CHECK(calls[1] == "bucket");
  CHECK(calls[2] == "whole");
  CHECK(calls[3] == "bucket");
  CHECK(calls.size() == first.size());
  CHECK(std::find(calls.begin(), calls.end(), "large") > calls.begin() + 8);
}

TEST_SUITE_END();
