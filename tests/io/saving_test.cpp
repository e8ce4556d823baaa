// Saving and loading, as docs/saving.md tells it and quotes it: a module of one's own with its optimiser goes
// on to the same bits; and a model folder.

#include <mtpx/io/instances.hpp>
#include <mtpx/io/model_folder.hpp>
#include <mtpx/io/tensor_file.hpp>
#include <mtpx/mtpx.hpp>

#include <doctest/doctest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace saving_page {
namespace {

using mtpx::Cpu;

struct Classifier {
  mtpx::Linear<float, Cpu> up;
  mtpx::RmsNorm<float, Cpu> norm;
  mtpx::Linear<float, Cpu> head;

  explicit Classifier(const Cpu& cpu) : up(cpu, 2, 4), norm(cpu, 4, 1e-6), head(cpu, 4, 2) {}

  const Cpu& device() const { return up.weight.device(); }

  static void members(auto& self, auto&& visit) {
    visit("up", self.up);
    visit("norm", self.norm);
    visit("head", self.head);
  }
};

/// Steps that tell points above the line x_0 + x_1 = 0 from those below; returns the last loss.
float train(Classifier& model, mtpx::AdamW<float, Cpu>& optimizer, int steps) {
  const Cpu cpu = model.device();
  const auto points =
      mtpx::Tensor<float, Cpu>::from(cpu, {4, 2}, std::vector<float>{1, 2, 3, -1, -1, -2, -3, 1});
  const auto labels = mtpx::Tensor<std::int32_t, Cpu>::from(cpu, {4}, std::vector<std::int32_t>{1, 1, 0, 0});
  float loss = 0;
  for (int step = 0; step < steps; ++step) {
    mtpx::Tape tape;
    const auto x = model.norm(model.up(tape.input(points)));
    const auto result = linear_cross_entropy(x, model.head.weight, labels);
    tape.backward(result.loss);
    optimizer.step(model, mtpx::clip_norm(model, 1.0), 0.05);
    loss = result.loss.item();
  }
  return loss;
}

std::string bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

TEST_CASE("saving: the page's program") {
  const Cpu cpu(1);
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / mtpx::cat("mtpx-saving-", ::getpid());
  std::filesystem::create_directories(folder);

  Classifier model(cpu);
  mtpx::initialize(model, 1, 1.0);  // until then the weights are NaN
  mtpx::AdamW<float, Cpu> optimizer;
  train(model, optimizer, 20);
  mtpx::save_module(folder / "model.safetensors", model);
  mtpx::save_optimizer(folder / "adamw.safetensors", optimizer, model);
  train(model, optimizer, 20);

  Classifier resumed(cpu);
  mtpx::AdamW<float, Cpu> its_optimizer;
  mtpx::load_module(folder / "model.safetensors", resumed);
  mtpx::load_optimizer(folder / "adamw.safetensors", its_optimizer, resumed);
  train(resumed, its_optimizer, 20);

  mtpx::save_module(folder / "straight.safetensors", model);
  mtpx::save_module(folder / "resumed.safetensors", resumed);
  CHECK(bytes(folder / "straight.safetensors") == bytes(folder / "resumed.safetensors"));

  // Any tensors, by names of one's own.
  const auto mean = mtpx::Tensor<float, Cpu>::from(cpu, {2}, std::vector<float>{0.5F, -0.5F});
  mtpx::save_tensors(folder / "scaling.safetensors", [&](const auto& visit) { visit("mean", mean); });
  const auto loaded_mean = mtpx::Tensor<float, Cpu>::zeros(cpu, {2});
  mtpx::load_tensors(folder / "scaling.safetensors", [&](const auto& visit) { visit("mean", loaded_mean); });
  CHECK(loaded_mean.at(1) == mean.at(1));

  // What does not fit is refused by name, before anything is overwritten.
  Classifier other(cpu);
  other.head = mtpx::Linear<float, Cpu>(cpu, 4, 3);
  CHECK_THROWS_AS(mtpx::load_module(folder / "model.safetensors", other), mtpx::FileError);

  // A whole model, in DeepSeek-V3's format.
  mtpx::Transformer<float, Cpu> transformer(cpu, mtpx::tiny());
  mtpx::initialize(transformer, 1);
  mtpx::save_model(folder / "tiny", transformer);
  auto loaded = mtpx::load_model<float>(cpu, folder / "tiny");
  mtpx::save_model(folder / "again", loaded.model, loaded.extra);
  CHECK(bytes(folder / "tiny" / "model.safetensors") == bytes(folder / "again" / "model.safetensors"));
  std::filesystem::remove_all(folder);
}

}  // namespace saving_page
