// Folders whose MTP layers share the embedding and the head, have their own, or whose head is the embedding.

#include "io/folders.hpp"

using namespace folder_test;

TEST_SUITE_BEGIN("mtpx/io/model_folder.hpp");

TEST_CASE("load_model F11: an MTP layer's copies of embedding and head are accepted") {
  const Folder folder;
  const Config c = mixture_config(2);
  const auto model = random_model<float>(c, 1);
  save_model(folder.root, model);
  const std::string plain = folder.read("model.safetensors");
  rewrite(folder.root / "model.safetensors", [](Tensors& all) {
    all["model.layers.3.embed_tokens.weight"] = all["model.layers.4.embed_tokens.weight"] =
        all["model.embed_tokens.weight"];
    all["model.layers.4.shared_head.head.weight"] = all["lm_head.weight"];
  });
  const auto loaded = load_model<float>(device(), folder.root);
  CHECK(tensors(loaded.model) == tensors(model));
  save_model(folder.root / "again", loaded.model, loaded.extra);
  CHECK(folder.read("again/model.safetensors") == plain);

  rewrite(folder.root / "model.safetensors",
          [](Tensors& all) { all["model.layers.4.embed_tokens.weight"].first = {88}; });
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        "[model] model.safetensors: 1 tensors do not fit config.json\n"
        "  misshapen model.layers.4.embed_tokens.weight: [88] instead of [11, 8]");
}

TEST_CASE("load_model, save_model: an MTP layer's embedding and head that are no copies are its own") {
  const Folder folder;
  const auto model = random_model<float>(mixture_config(2), 1);
  save_model(folder.root, model);
  std::vector<float> embedding, head;
  rewrite(folder.root / "model.safetensors", [&](Tensors& all) {
    for (const char* layer : {"model.layers.3.", "model.layers.4."}) {
      all[cat(layer, "embed_tokens.weight")] = all["model.embed_tokens.weight"];
      all[cat(layer, "shared_head.head.weight")] = all["lm_head.weight"];
    }
    all["model.layers.3.embed_tokens.weight"].second[5] += 1;
    all["model.layers.4.shared_head.head.weight"].second.back() = -1e-20f;
    embedding = all["model.layers.3.embed_tokens.weight"].second;
    head = all["model.layers.4.shared_head.head.weight"].second;
  });
  const auto loaded = load_model<float>(device(), folder.root);
  Config want = model.config;
  want.mtpx_own_embeddings = {1};
  want.mtpx_own_heads = {2};
  REQUIRE(loaded.model.config == want);
  CHECK(read_model_config(folder.root).config == want);
  CHECK(loaded.model.mtp[0].embed_tokens->value().to_host() == embedding);
  CHECK(loaded.model.mtp[1].head->weight.value().to_host() == head);
  CHECK_FALSE(loaded.model.mtp[1].embed_tokens.has_value());

  // Back under the same names, without the copies; and what is its own stays so, whatever its numbers.
  save_model(folder.root / "again", loaded.model, loaded.extra);
  const SafeTensors again = SafeTensors::open(folder.root / "again" / "model.safetensors");
  CHECK(again.read<float>(again.at("model.layers.3.embed_tokens.weight")) == embedding);
  CHECK(again.read<float>(again.at("model.layers.4.shared_head.head.weight")) == head);
  CHECK(again.find("model.layers.4.embed_tokens.weight") == nullptr);
  loaded.model.mtp[0].embed_tokens->value().assign(model.embed_tokens.value().to_host());
  save_model(folder.root / "equal", loaded.model, loaded.extra);
  CHECK(load_model<float>(device(), folder.root / "equal").model.config == want);
  save_model(folder.root / "main", loaded.model, loaded.extra, false);
  CHECK(load_model<float>(device(), folder.root / "main").model.config.mtpx_own_heads.empty());

  rewrite(folder.root / "again" / "model.safetensors",
          [](Tensors& all) { all.erase("model.layers.3.embed_tokens.weight"); });
  CHECK(folder.error([&] { load_model<float>(device(), folder.root / "again", {.verify = false}); })
            .ends_with("1 tensors do not fit config.json\n  missing model.layers.3.embed_tokens.weight"));
}

TEST_CASE("save_model, load_model: a tied head is written once, and a copy of it accepted where it is one") {
  const Folder folder;
  Config c = mixture_config(1);
  c.tie_word_embeddings = true;
  const auto model = random_model<float>(c, 1);
  save_model(folder.root, model);
  const std::string plain = folder.read("model.safetensors");
  CHECK(plain.find("lm_head") == std::string::npos);
  const auto loaded = load_model<float>(device(), folder.root);
  CHECK(loaded.model.config == c);
  CHECK(tensors(loaded.model) == tensors(model));

  rewrite(folder.root / "model.safetensors", [](Tensors& all) {
    all["lm_head.weight"] = all["model.layers.3.shared_head.head.weight"] = all["model.embed_tokens.weight"];
  });
  const auto again = load_model<float>(device(), folder.root);
  CHECK(tensors(again.model) == tensors(model));
  save_model(folder.root / "again", again.model, again.extra);
  CHECK(folder.read("again/model.safetensors") == plain);

  rewrite(folder.root / "model.safetensors", [](Tensors& all) { all["lm_head.weight"].second[5] += 1; });
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        "[model] model.safetensors: 1 tensors do not fit config.json\n"
        "  different lm_head.weight: must equal model.embed_tokens.weight, which the model takes in its "
        "place");
}

TEST_CASE("load_model F11: copies in another type are compared by value") {
  const Folder folder;
  const auto model = random_model<float>(mixture_config(1), 1);  // exact in bf16
  save_model(folder.root, model);
  std::vector<TensorBytes> out;
  std::vector<std::vector<float>> floats;
  std::vector<bf16> copy;
  const SafeTensors file = SafeTensors::open(folder.root / "model.safetensors");
  for (const SafeTensorsEntry& entry : file.tensors()) floats.push_back(file.read<float>(entry));
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const SafeTensorsEntry& entry = file.tensors()[i];
    out.push_back({entry.name, DType::f32, entry.shape, std::as_bytes(std::span(floats[i]))});
    if (entry.name != "lm_head.weight") continue;
    for (const float value : floats[i]) copy.push_back(bf16(value));
  }
  out.push_back({"model.layers.3.shared_head.head.weight", DType::bf16, file.at("lm_head.weight").shape,
                 std::as_bytes(std::span(copy))});
  std::filesystem::create_directory(folder.root / "b");
  write_safetensors(folder.root / "b" / "model.safetensors", out);
  write_config(folder.root / "b" / "config.json", model.config);
  CHECK(tensors(load_model<float>(device(), folder.root / "b").model) == tensors(model));
}

TEST_SUITE_END();
