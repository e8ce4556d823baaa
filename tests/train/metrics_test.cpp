// The rows that the program's training writes (examples/mtpx/metrics.hpp).

#include "../../examples/mtpx/metrics.hpp"

#include "io/support.hpp"
#include "support/model.hpp"

#include <string>
#include <vector>

using namespace mtpx;
using namespace mtpx::test;

namespace {

Config bytes_config() {
  Config c = mixture_config(2);
  c.vocab_size = 256;
  return c;
}

/// A model after a step on a text.
Transformer<double, Device> trained(bool frozen) {
  Transformer<double, Device> model = random_model(bytes_config(), 1);
  if (frozen) model.freeze_main();
  Corpus corpus;
  corpus.add(std::string(100, 'a') + std::string(100, 'b'), "text");
  Trainer<double, Device> trainer(model, {.steps = 10},
                                  Batches(corpus, {.batch = 2, .seq = 12, .seed = 1337, .depth = 2}));
  trainer.step();
  return model;
}

}  // namespace

TEST_CASE("metrics: loads are shares of the latest step, layer by layer, depths behind") {
  const auto model = trained(false);
  const Config c = bytes_config();
  const auto loads = program::expert_loads(model);
  REQUIRE(loads.size() == static_cast<std::size_t>(c.num_hidden_layers + 2));
  for (Index layer = 0; layer < c.num_hidden_layers + 2; ++layer) {
    const std::vector<double>& shares = loads[static_cast<std::size_t>(layer)];
    REQUIRE(shares.size() == static_cast<std::size_t>(c.is_moe(layer) ? c.n_routed_experts : 0));
    double sum = 0;
    for (const double share : shares) sum += share;
    if (c.is_moe(layer)) CHECK(sum == doctest::Approx(1).epsilon(1e-12));
  }
  const Numbers counts = host(model.mtp[1].block->moe->last_load);
  CHECK(counts[0] ==
        doctest::Approx(loads.back()[0] * 2 * 10 * 2));  // windows, rows of depth 2, experts a token
  CHECK(program::largest_over_balanced({0.5, 0.25, 0.25, 0}) == 2);
}

TEST_CASE("metrics: routers that do not train, and models without, have no loads") {
  const auto loads = program::expert_loads(trained(true));
  const Config c = bytes_config();
  for (Index layer = 0; layer < c.num_hidden_layers; ++layer)
    CHECK(loads[static_cast<std::size_t>(layer)].empty());
  CHECK(!loads.back().empty());
  for (const auto& layer : program::expert_loads(random_model(bytes_config(), 1))) CHECK(layer.empty());
}

TEST_CASE("metrics: rows") {
  CHECK(program::step_row({3, {5.5, 6}, 7.25, 0.001, 0.3, 1.5}).dump() ==
        R"({"step":3,"loss":[5.5,6.0],"total":7.25,"lr":0.001,"lambda":0.3,"gradient_norm":1.5})");
  CHECK(program::time_row(3, 100.5).dump() == R"({"step":3,"tokens_per_s":100.5})");
  const Evaluation e{{5.5}, {0.25}, {1}, {8}, 0};
  CHECK(program::evaluation_row(4, e, "", {{}, {}}).dump() ==
        R"({"step":4,"validation_loss":[5.5],"acceptance":[0.25],"agreement":[1.0],"bits_per_byte":0.0})");
  CHECK(program::evaluation_row(4, e, "a\"b", {{}, {0.5, 0.5}})["sample"] == "a\"b");
  CHECK(program::evaluation_row(4, e, "", {{}, {0.5, 0.25, 0.25}})["expert_load"].dump() ==
        "[[],[0.5,0.25,0.25]]");
}

TEST_CASE("metrics: figures for TensorBoard") {
  const mtpx_test::Folder folder;
  {
    EventFile file(folder.root / "events");
    program::add_events(file, StepReport{3, {5.5, 6}, 7.25, 0.001, 0.3, 1.5});
    program::add_events(file, 4, {{5.5, 6}, {0.25, 0.5}, {1, 1}, {8, 8}, 8}, {{}, {0.5, 0.5}});
  }
  const std::string bytes = folder.read("events");
  for (const char* tag : {"loss/main", "loss/depth_1", "loss/total", "train/lr", "train/lambda",
                          "train/gradient_norm", "validation/loss_main", "validation/acceptance_depth_1",
                          "validation/bits_per_byte", "expert_load/layer_1_most"}) {
    CHECK_MESSAGE(bytes.find(tag) != std::string::npos, tag);
  }
  CHECK(bytes.find("layer_0") == std::string::npos);
}
