// tests/golden: folders in the published format, and what transformers computed with them (make_golden.py).
// The bounds are the project's: in float64 they are what the published router's float32 leaves.

#include <mtpx/io/instances.hpp>
#include <mtpx/model/loss.hpp>
#include <mtpx/ops/linear.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("tests/golden");

namespace {

const char* const cases[] = {"groups_yarn", "no_q_lora", "no_norm_topk_prob", "depth3", "dense", "fp8"};

struct Bounds {
  double logits, grads, loss;
};

template <typename T>
Bounds bounds() {
  return std::is_same_v<T, float> ? Bounds{2e-5, 1e-4, 1e-5} : Bounds{1e-6, 2e-6, 1e-6};
}

template <typename T>
Batch<Device> tokens_of(const SafeTensors& golden) {
  const SafeTensorsEntry& entry = golden.at("tokens");
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : golden.read<std::int64_t>(entry)) ids.push_back(static_cast<std::int32_t>(id));
  return {tensor<std::int32_t>({entry.shape[0], entry.shape[1]}, ids), {}, false};
}

Numbers numbers(const SafeTensors& file, const std::string& name) { return file.read<double>(file.at(name)); }

}  // namespace

TEST_CASE_TEMPLATE("golden: losses, logits and gradients of the published implementation", T, float, double) {
  for (const std::string name : cases) {
    CAPTURE(name);
    const std::filesystem::path folder = std::filesystem::path("tests/golden") / name;
    const SafeTensors golden = SafeTensors::open(folder / "golden.safetensors");
    auto model = load_model<T>(device(), folder).model;
    const Batch<Device> batch = tokens_of<T>(golden);

    Tape tape;
    auto out = model(tape, batch);
    out.balance.clear();  // not part of the golden total
    const auto loss = mtp_loss(model, out, batch);
    tape.backward(loss.total);

    const Numbers ce = numbers(golden, "ce");
    REQUIRE(loss.depths.size() == ce.size());
    CHECK(std::abs(host(loss.total.value())[0] - numbers(golden, "total")[0]) <= bounds<T>().loss);
    for (std::size_t k = 0; k < ce.size(); ++k) {
      CAPTURE(k);
      CHECK(std::abs(host(loss.depths[k].loss.value())[0] - ce[k]) <= bounds<T>().loss);
      Tape inference(Mode::inference);
      const auto logits =
          linear(inference.constant(out.normed[k].value()), model.head(static_cast<Index>(k)));
      check_close(host(logits.value()), numbers(golden, cat("logits.", k)), bounds<T>().logits);
    }
    if (name == "fp8") continue;
    std::size_t gradients = 0;
    for_each_gradient(model, [&](const std::string& parameter, const auto& grad) {
      ++gradients;
      check_close(host(grad), numbers(golden, "grad." + parameter), bounds<T>().grads, parameter);
    });
    CHECK(golden.tensors().size() == gradients + ce.size() + 3);  // and tokens, ce, total
  }
}

TEST_CASE("golden: 8-bit weights are what their scales make of them, at partial blocks too") {
  const std::filesystem::path folder = "tests/golden/fp8";
  const SafeTensors file = SafeTensors::open(folder / "model.safetensors");
  const auto model = load_model<double>(device(), folder).model;
  const std::string name = "model.layers.0.mlp.down_proj.weight";  // [136, 144]: four blocks, three partial
  REQUIRE(file.at(name).dtype_name == "F8_E4M3");
  const std::vector<double> codes = file.read<double>(file.at(name));
  const std::vector<double> scales = file.read<double>(file.at(name + "_scale_inv"));
  REQUIRE(file.at(name).shape == std::vector<Index>{136, 144});
  REQUIRE(scales.size() == 4);
  Numbers want;
  for (std::size_t i = 0; i < 136; ++i) {
    for (std::size_t j = 0; j < 144; ++j) {
      const auto code = static_cast<float>(codes[i * 144 + j]);
      want.push_back(double{code * static_cast<float>(scales[i / 128 * 2 + j / 128])});
    }
  }
  std::size_t seen = 0;
  for_each_tensor(model, [&](const std::string& other, const auto& tensor) {
    if (other != name) return;
    ++seen;
    check_bits(host(tensor), want);
  });
  CHECK(seen == 1);
}

TEST_SUITE_END();
