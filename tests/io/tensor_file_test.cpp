#include <mtpx/io/tensor_file.hpp>
#include <mtpx/nn/initialize.hpp>
#include <mtpx/nn/linear.hpp>
#include <mtpx/nn/rms_norm.hpp>
#include <mtpx/train/adamw.hpp>

#include "io/support.hpp"

#include <cstring>
#include <optional>

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/tensor_file.hpp");

namespace {

/// A module of a user's own: every kind of member, several types.
struct OwnModule {
  Linear<bf16, Cpu> first;
  RmsNorm<bf16, Cpu> norm;
  std::vector<Linear<double, Cpu>> layers;
  std::optional<Linear<float, Cpu>> extra;
  StackedWeight<float, Cpu> stack;
  State<float, Cpu> bias;
  State<std::int32_t, Cpu> counts;

  explicit OwnModule(const Cpu& cpu, std::uint64_t seed = 1, bool with_extra = true)
      : first(cpu, 3, 2), norm(cpu, 2, 1e-6), stack{{cpu, {2, 3, 4}}} {
    layers.emplace_back(cpu, 2, 2);
    layers.emplace_back(cpu, 300, 300);  // read in several parts
    if (with_extra) extra.emplace(cpu, 2, 3);
    bias.value = Tensor<float, Cpu>(cpu, {4});
    counts.value = Tensor<std::int32_t, Cpu>::from(cpu, {3}, std::vector<std::int32_t>{1, 2, 3});
    for_each_parameter(
        *this, [&](const std::string& name, auto& p) { fill_normal(p.value(), seed, name.size(), 1); });
    fill_normal(bias.value, seed, 99, 1);
  }
  const Cpu& device() const { return bias.value.device(); }

  static void members(auto& self, auto&& visit) {
    visit("first", self.first);
    visit("norm", self.norm);
    visit("layers", self.layers);
    visit("extra", self.extra);
    visit("experts.up", self.stack);
    visit("bias", self.bias);
    visit("counts", self.counts);
  }
};

/// Every tensor's bytes under its name.
std::map<std::string, std::string> bytes_of(const OwnModule& module) {
  std::map<std::string, std::string> all;
  for_each_tensor(module, [&](const std::string& name, const auto& tensor) {
    all[name] = std::string(reinterpret_cast<const char*>(tensor.data()), tensor.bytes());
  });
  return all;
}

/// What one optimiser trains: bf16 weights, which have masters, float gains, experts.
struct Trained {
  Linear<bf16, Cpu> first;
  RmsNorm<bf16, Cpu> norm;
  StackedWeight<bf16, Cpu> stack;

  explicit Trained(const Cpu& cpu) : first(cpu, 3, 2), norm(cpu, 2, 1e-6), stack{{cpu, {2, 3, 4}}} {
    initialize(*this, 1, 1.0);
  }
  const Cpu& device() const { return first.weight.device(); }

  static void members(auto& self, auto&& visit) {
    visit("first", self.first);
    visit("norm", self.norm);
    visit("experts.up", self.stack);
  }

  /// One step on gradients that differ from step to step.
  void step(AdamW<bf16, Cpu>& optimizer) {
    for_each_parameter(*this, [&](const std::string&, auto& p) {
      const Sink<float> sink = p.sink();
      for (Index i = 0; i < p.shape().size(); ++i)
        sink.data[i] = 0.1f * static_cast<float>(optimizer.steps() + i) - 0.25f;
    });
    optimizer.step(*this, clip_norm(*this, 0), 0.01);
  }
};

template <typename T>
struct OneLayer {
  Linear<T, Cpu> first;

  static void members(auto& self, auto&& visit) { visit("first", self.first); }
};

struct Twice {
  Linear<float, Cpu> a, b;

  static void members(auto& self, auto&& visit) {
    visit("same", self.a);
    visit("same", self.b);
  }
};

}  // namespace

TEST_CASE("save_module, load_module: every kind of member, types and bits as they were") {
  const Cpu cpu(2);
  const Folder folder;
  const OwnModule module(cpu, 1);
  save_module(folder.root / "own.safetensors", module);
  CHECK(folder.files() == 1);  // nothing temporary
  {
    const SafeTensors file = SafeTensors::open(folder.root / "own.safetensors");
    CHECK(file.tensors().size() == 9);
    CHECK(file.at("first.weight").dtype == DType::bf16);
    CHECK(file.at("norm.weight").dtype == DType::f32);
    CHECK(file.at("layers.1.weight").dtype == DType::f64);
    CHECK(file.at("experts.1.up.weight").shape == std::vector<Index>{3, 4});
    CHECK(file.at("counts").dtype == DType::i32);
    CHECK(file.metadata() == FileMetadata{{"format", "pt"}});
  }
  for (const bool mmap : {true, false}) {
    OwnModule loaded(cpu, 2);
    const std::map<std::string, const void*> before{{"first", loaded.first.weight.data()}};
    CHECK(bytes_of(loaded) != bytes_of(module));
    load_module(folder.root / "own.safetensors", loaded, {mmap});
    CHECK(bytes_of(loaded) == bytes_of(module));
    CHECK(loaded.first.weight.data() == before.at("first"));  // read into what is there
    save_module(folder.root / "again.safetensors", loaded, {{"format", "pt"}});
    CHECK(folder.read("again.safetensors") == folder.read("own.safetensors"));
  }
  save_module(folder.root / "own.safetensors", module, {{"note", "best so far"}});
  OwnModule loaded(cpu, 2);
  CHECK(load_module(folder.root / "own.safetensors", loaded) == FileMetadata{{"note", "best so far"}});
}

TEST_CASE("load_module: what does not fit is refused by name, a line each, and nothing is changed") {
  const Cpu cpu(1);
  const Folder folder;
  const OwnModule module(cpu, 1);
  OwnModule other(cpu, 2, false);
  other.first = Linear<bf16, Cpu>(cpu, 3, 5);
  initialize(other.first, 1, 1.0);
  other.layers.emplace_back(cpu, 1, 1);
  other.norm.weight =
      Parameter<float, Cpu>(Tensor<float, Cpu>::zeros(cpu, {4, 6}).narrow_last(0, 2).slice_front(0, 2));
  other.counts.value = {};
  initialize(other.layers.back(), 1, 1.0);
  save_module(folder.root / "own.safetensors", module);
  const std::vector<double> square = other.layers[0].weight.value().to_host();
  CHECK(folder.error([&] { load_module(folder.root / "own.safetensors", other); }) ==
        "[load] own.safetensors: 5 tensors do not fit what they are read into\n"
        "  misshapen first.weight: [2, 3] instead of [5, 3]\n"
        "  strided norm.weight: only dense tensors are read into\n"
        "  missing layers.2.weight\n"
        "  undefined counts: there is nothing to read it into\n"
        "  unexpected extra.weight");
  CHECK(other.layers[0].weight.value().to_host() == square);

  OneLayer<float> floats{{cpu, 3, 2}};
  const OneLayer<bf16> halves{{cpu, 3, 2}};
  save_module(folder.root / "half.safetensors", halves);
  CHECK(folder.error([&] { load_module(folder.root / "half.safetensors", floats); }) ==
        "[load] half.safetensors: 1 tensors do not fit what they are read into\n"
        "  of another type first.weight: BF16 instead of F32");
  CHECK(folder.error([&] { load_module(folder.root / "none.safetensors", floats); }) ==
        "[safetensors] none.safetensors: cannot be opened: No such file or directory");
  CHECK(folder.error<Error>([&] { save_module(folder.root / "x.safetensors", other); }) ==
        "[save] x.safetensors: counts is undefined");
  CHECK(!std::filesystem::exists(folder.root / "x.safetensors"));
}

TEST_CASE("save_module: a name that stands twice is refused; a failure leaves the old file") {
  const Cpu cpu(1);
  const Folder folder;
  const Twice twice{{cpu, 1, 1}, {cpu, 1, 1}};
  folder.write("x.safetensors", "before");
  CHECK(folder.error([&] { save_module(folder.root / "x.safetensors", twice); }) ==
        "[safetensors] x.safetensors: tensor \"same.weight\" stands twice");
  CHECK(folder.read("x.safetensors") == "before");
  CHECK(folder.files() == 1);
}

TEST_CASE("save_tensors, load_tensors: any tensors by name, views too") {
  const Cpu cpu(1);
  const Folder folder;
  const auto x = Tensor<double, Cpu>::from(cpu, {2, 4}, std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7});
  const auto y = Tensor<std::int64_t, Cpu>::from(cpu, {}, std::vector<std::int64_t>{7});
  save_tensors(folder.root / "t.safetensors",
               [&](const auto& visit) { visit("columns", x.narrow_last(1, 2)), visit("step", y); });
  const auto columns = Tensor<double, Cpu>::zeros(cpu, {2, 2});
  const auto step = Tensor<std::int64_t, Cpu>::zeros(cpu, {});
  load_tensors(folder.root / "t.safetensors",
               [&](const auto& visit) { visit("columns", columns), visit("step", step); });
  CHECK(columns.to_host() == std::vector<double>{1, 2, 5, 6});
  CHECK(step.item() == 7);
}

TEST_CASE("save_optimizer, load_optimizer: with the module's file a run goes on to the same bits") {
  const Cpu cpu(1);
  const Folder folder;
  const auto weights = folder.root / "weights.safetensors", state = folder.root / "adamw.safetensors";
  Trained straight(cpu);
  AdamW<bf16, Cpu> optimizer;
  for (int i = 0; i < 3; ++i) straight.step(optimizer);
  save_module(weights, straight);
  save_optimizer(state, optimizer, straight);
  {
    const SafeTensors file = SafeTensors::open(state);
    CHECK(file.tensors().size() == 4 + 4 + 3);  // moments of all, masters of bf16 ones
    CHECK(file.at("experts.1.up.weight.master").dtype == DType::f32);
    CHECK(file.at("norm.weight.exp_avg_sq").shape == std::vector<Index>{2});
    CHECK(file.metadata() == FileMetadata{{"format", "pt"}, {"steps", "3"}});
  }

  Trained resumed(cpu);
  AdamW<bf16, Cpu> other;
  load_module(weights, resumed);
  load_optimizer(state, other, resumed);
  CHECK(other.steps() == 3);
  for (int i = 0; i < 3; ++i) {
    straight.step(optimizer);
    resumed.step(other);
  }
  save_module(folder.root / "a.safetensors", straight);
  save_module(folder.root / "b.safetensors", resumed);
  CHECK(folder.read("a.safetensors") == folder.read("b.safetensors"));
  save_optimizer(folder.root / "a.safetensors", optimizer, straight);
  save_optimizer(folder.root / "b.safetensors", other, resumed);
  CHECK(folder.read("a.safetensors") == folder.read("b.safetensors"));
}

TEST_CASE("load_optimizer: a file of something else, or of another module, changes nothing") {
  const Cpu cpu(1);
  const Folder folder;
  const auto state = folder.root / "adamw.safetensors";
  Trained trained(cpu), larger(cpu);
  AdamW<bf16, Cpu> optimizer;
  trained.step(optimizer);
  save_optimizer(state, optimizer, trained);
  larger.first = Linear<bf16, Cpu>(cpu, 3, 4);
  AdamW<bf16, Cpu> other;
  other.set_steps(7);
  CHECK(folder.error([&] { load_optimizer(state, other, larger); }) ==
        "[load] adamw.safetensors: 3 tensors do not fit what they are read into\n"
        "  misshapen first.weight.exp_avg: [2, 3] instead of [4, 3]\n"
        "  misshapen first.weight.exp_avg_sq: [2, 3] instead of [4, 3]\n"
        "  misshapen first.weight.master: [2, 3] instead of [4, 3]");
  CHECK(other.steps() == 7);
  for (const char* steps : {"", "3 ", "-1", "many", "99999999999999999999"}) {
    save_module(state, trained, {{"steps", steps}});
    CHECK(folder.error([&] { load_optimizer(state, other, trained); }) ==
          cat("[load] adamw.safetensors: no optimiser's state: its metadata \"steps\" is \"", steps, '"'));
  }
  save_module(state, trained);
  CHECK(folder.error([&] { load_optimizer(state, other, trained); }) ==
        "[load] adamw.safetensors: no optimiser's state: its metadata \"steps\" is \"\"");
}

TEST_SUITE_END();
