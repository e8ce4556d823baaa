#include <mtpx/core/cpu.hpp>
#include <mtpx/nn/module.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/nn/module.hpp");

namespace {

const Cpu cpu(1);

struct Leaf {
  Parameter<float, Cpu> weight{cpu, {2}};
  static void members(auto& self, auto&& visit) { visit("weight", self.weight); }
};

struct Stack {
  StackedWeight<float, Cpu> up_proj{Parameter<float, Cpu>(cpu, {3, 2, 5})};
  static void members(auto& self, auto&& visit) { visit("up_proj", self.up_proj); }
};

/// One member of every kind.
struct All {
  Parameter<double, Cpu> table{cpu, {4, 2}};
  std::vector<Leaf> layers = std::vector<Leaf>(2);
  std::optional<Leaf> present = Leaf(), absent;
  Leaf unnamed;
  Stack experts;
  State<double, Cpu> bias{Tensor<double, Cpu>::zeros(cpu, {3})};

  static void members(auto& self, auto&& visit) {
    visit("table", self.table);
    visit("layers", self.layers);
    visit("present", self.present);
    visit("absent", self.absent);
    visit("", self.unnamed);
    visit("mlp.experts", self.experts);
    visit("bias", self.bias);
  }
};

struct Elsewhere {
  Leaf leaf;
  Cpu other{2};
  const Cpu& device() const { return other; }
  static void members(auto& self, auto&& visit) { visit("leaf", self.leaf); }
};

struct Empty {
  State<double, Cpu> bias{Tensor<double, Cpu>::zeros(cpu, {3})};
  static void members(auto& self, auto&& visit) { visit("bias", self.bias); }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("for_each_parameter: what is trained, experts stacked, in the order of the members") {
  All all;
  Names names;
  for_each_parameter(all, [&](const std::string& name, auto& parameter) {
    names.push_back(cat(name, ' ', parameter.shape().str()));
  });
  CHECK(names == Names{"table [4, 2]", "layers.0.weight [2]", "layers.1.weight [2]", "present.weight [2]",
                       "weight [2]", "mlp.experts.up_proj.weight [3, 2, 5]"});
}

TEST_CASE("for_each_tensor: what a file holds, experts one by one, states too; const modules as well") {
  const All all;
  Names names;
  for_each_tensor(all, [&](const std::string& name, const auto& tensor) {
    names.push_back(cat(name, ' ', tensor.shape().str()));
  });
  CHECK(names == Names{"table [4, 2]", "layers.0.weight [2]", "layers.1.weight [2]", "present.weight [2]",
                       "weight [2]", "mlp.experts.0.up_proj.weight [2, 5]",
                       "mlp.experts.1.up_proj.weight [2, 5]", "mlp.experts.2.up_proj.weight [2, 5]",
                       "bias [3]"});
}

TEST_CASE("device_of: what device() says, or where the first parameter is") {
  const All all;
  CHECK(&device_of<Cpu>(all).pool() == &all.table.device().pool());
  const Elsewhere elsewhere;
  CHECK(&device_of<Cpu>(elsewhere).pool() == &elsewhere.other.pool());
  CHECK_THROWS_WITH_AS(device_of<Cpu>(Empty()),
                       "[device_of] the module has no parameter: its members() visits none", Error);
}

TEST_CASE("for_each_tensor: an expert is a view into the stack") {
  All all;
  for_each_tensor(all, [&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    if (name == "mlp.experts.1.up_proj.weight")
      tensor.assign(std::vector<N>(static_cast<std::size_t>(tensor.size()), N(7)));
  });
  const std::vector<float> stack = all.experts.up_proj.weight.value().to_host();
  for (std::size_t i = 10; i < 20; ++i) CHECK(stack[i] == 7.0f);
}

TEST_CASE("for_each_gradient: of the parameters alone, undefined where there is none") {
  All all;
  all.experts.up_proj.weight.sink().data[29] = 3;
  Names defined;
  const auto look = [&](const std::string& name, const auto& tensor) {
    if (tensor.defined()) defined.push_back(name);
    if (name == "mlp.experts.2.up_proj.weight") CHECK(static_cast<double>(tensor.to_host()[9]) == 3.0);
  };
  for_each_gradient(all, look);
  CHECK(defined == Names{"mlp.experts.0.up_proj.weight", "mlp.experts.1.up_proj.weight",
                         "mlp.experts.2.up_proj.weight"});
}

TEST_SUITE_END();
