// tests/golden/published: the configurations of models of DeepSeek-V3's shape as they are published, smaller.
// A folder of each opens, computes, drafts and is written again as it was called. (What transformers makes of
// them: tests/golden/transformers_logits.py.)

#include <mtpx/decode/generate.hpp>
#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("tests/golden/published");

namespace {

std::string text_of(const Transformer<float, Cpu>& model, Index draft) {
  std::string all;
  const GenerateOptions options{.max_tokens = 8, .draft = draft, .sampling = {.temperature = 0.8}, .seed = 3};
  generate(model, {1, 2, 3}, options, [&](std::int32_t token) { all += cat(token, ' '); });
  return all;
}

}  // namespace

TEST_CASE("published: a folder of each model opens, computes, drafts, and keeps its name") {
  std::size_t models = 0;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/published")) {
    CAPTURE(entry.path().string());
    ++models;
    const Folder folder;
    Json published = Json::parse(InputFile("published", entry.path()).read_text(Index{1} << 20));
    // Tables of sines for a hundred thousand positions are all that this would take time for.
    published["max_position_embeddings"] = 4096;
    std::ofstream(folder.root / "config.json") << published.dump();
    const Config config = read_config(folder.root / "config.json").config;
    const auto model = random_model<float, Cpu>(config, 1, 0.05);
    save_module(folder.root / "model.safetensors", model);

    const auto loaded = load_model<float>(Cpu(), folder.root);
    CHECK(loaded.model.config == config);
    std::size_t tensors_seen = 0;
    for_each_tensor(model, [&](const std::string& name, const auto& want) {
      for_each_tensor(loaded.model, [&](const std::string& other, const auto& got) {
        if (other != name) return;
        ++tensors_seen;
        CHECK_MESSAGE(got.to_host() == want.to_host(), name);
      });
    });
    CHECK(tensors_seen > 20);
    const std::string plain = text_of(loaded.model, 0);
    CHECK(text_of(model, 0) == plain);
    if (config.num_nextn_predict_layers > 0) CHECK(text_of(loaded.model, 2) == plain);

    save_model(folder.root / "again", loaded.model, loaded.extra);
    const Json written = Json::parse(folder.read("again/config.json"));
    for (const auto& item : published.items()) {
      const std::string& key = item.key();
      const Json& value = item.value();
      // Null is absence; the last two can have one value only.
      if (value.is_null() || key == "attention_dropout" || key == "rope_interleave") continue;
      CHECK_MESSAGE(written.value(key, Json()) == value, key);
    }
    Config again = config;  // of a model without experts all layers are said to be dense
    if (config.n_routed_experts == 0) again.first_k_dense_replace = config.num_layers();
    CHECK(load_model<float>(Cpu(), folder.root / "again").model.config == again);
  }
  CHECK(models == 9);
}

TEST_SUITE_END();
