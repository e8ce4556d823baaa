#include <mtpx/io/model_folder.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/model_folder.hpp");

namespace {

template <typename T>
std::map<std::string, Numbers> tensors(const Transformer<T, Cpu>& model) {
  std::map<std::string, Numbers> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
  return all;
}

/// The smallest model there is: 13 tensors.
Config smallest() {
  Config c = dense_config(0);
  c.num_hidden_layers = 1;
  return c;
}

using Tensors = std::map<std::string, std::pair<std::vector<Index>, std::vector<float>>>;

/// Reads a file of floats, lets `change` have it, and writes it again.
template <typename Change>
void rewrite(const std::filesystem::path& path, const Change& change) {
  Tensors all;
  {
    const SafeTensors file = SafeTensors::open(path);
    for (const SafeTensorsEntry& entry : file.tensors())
      all[entry.name] = {entry.shape, file.read<float>(entry)};
  }
  change(all);
  std::vector<TensorBytes> out;
  for (const auto& [name, tensor] : all)
    out.push_back({name, DType::f32, tensor.first, std::as_bytes(std::span(tensor.second))});
  write_safetensors(path, out);
}

}  // namespace

TEST_CASE_TEMPLATE("save_model, load_model, save_model: the same bytes and numbers", T, float, double, bf16) {
  const Folder folder;
  Config c = mixture_config(2);
  c.mtp_concat = MtpConcat::hidden_embedding;
  c.mtp_hidden = MtpHidden::pre_norm;
  const auto model = random_model<T>(c, 1);
  const Json extra = {{"note", "kept"}, {"numbers", {1, 2, 3}}};
  save_model(folder.root / "a" / "deep", model, extra);
  const auto loaded = load_model<T>(device(), folder.root / "a" / "deep");
  CHECK(loaded.model.config == c);
  for (const std::string key : {"note", "numbers"}) CHECK(loaded.extra.at(key) == extra.at(key));
  CHECK(tensors(loaded.model) == tensors(model));
  save_model(folder.root / "b", loaded.model, loaded.extra);
  for (const std::string file : {"config.json", "model.safetensors"}) {
    CHECK(folder.read(cat("a/deep/", file)) == folder.read(cat("b/", file)));
    CHECK(folder.read(cat("b/", file)).size() > 500);
  }
}

TEST_CASE("save_model: the published names, embedding and head once, router biases in float") {
  const Folder folder;
  const auto model = random_model<bf16>(mixture_config(2), 1);
  save_model(folder.root, model);
  const SafeTensors file = SafeTensors::open(folder.root / "model.safetensors");
  std::size_t names = 0;
  for_each_tensor(model, [&](const std::string& name, const auto&) {
    ++names;
    CHECK_MESSAGE(file.find(name) != nullptr, name);
  });
  CHECK(file.tensors().size() == names);
  CHECK(file.find("model.layers.3.embed_tokens.weight") == nullptr);
  CHECK(file.find("model.layers.3.shared_head.head.weight") == nullptr);
  CHECK(file.at("model.layers.2.mlp.experts.5.down_proj.weight").shape == std::vector<Index>{8, 3});
  CHECK(file.at("model.layers.2.mlp.experts.5.down_proj.weight").dtype_name == "BF16");
  CHECK(file.at("model.layers.2.mlp.gate.e_score_correction_bias").dtype_name == "F32");
  CHECK(file.at("model.layers.2.input_layernorm.weight").dtype_name == "F32");
}

TEST_CASE("load_model: float weights in a double model, double weights in a float model") {
  const Folder folder;
  const auto narrow = random_model<float>(mixture_config(1), 1);
  save_model(folder.root / "float", narrow);
  CHECK(tensors(load_model<double>(device(), folder.root / "float").model) == tensors(narrow));
  const auto wide = random_model<double>(mixture_config(1), 2);
  save_model(folder.root / "double", wide);
  CHECK(tensors(load_model<float>(device(), folder.root / "double").model) == tensors(wide));
}

TEST_CASE("load_model: missing, misshapen and unexpected tensors are listed") {
  const Folder folder;
  save_model(folder.root, random_model<float>(smallest(), 1));
  rewrite(folder.root / "model.safetensors", [](Tensors& all) {
    CHECK(all.size() == 13);
    all.erase("lm_head.weight");
    all.erase("model.layers.0.self_attn.o_proj.weight");
    all["model.norm.weight"] = {{2, 4}, std::vector<float>(8)};
    all["model.layers.1.enorm.weight"] = {{8}, std::vector<float>(8)};
    all["extra"] = {{1}, {0.0f}};
  });
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        "[model] model.safetensors: 5 tensors do not fit config.json\n"
        "  missing model.layers.0.self_attn.o_proj.weight\n"
        "  misshapen model.norm.weight: [2, 4] instead of [8]\n"
        "  missing lm_head.weight\n"
        "  unexpected extra\n"
        "  unexpected model.layers.1.enorm.weight");
}

TEST_CASE("load_model: ten of many are listed, all are counted") {
  const Folder folder;
  save_model(folder.root, random_model<float>(smallest(), 1));
  rewrite(folder.root / "model.safetensors", [](Tensors& all) {
    for (int i = 0; i < 25; ++i) all[cat("x", i)] = {{1}, {0.0f}};
  });
  const std::string text = folder.error([&] { load_model<float>(device(), folder.root); });
  CHECK(text.starts_with("[model] model.safetensors: 25 tensors do not fit config.json\n  unexpected x0\n"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 10);
}

TEST_CASE("load_model: MTP weights and num_nextn_predict_layers must agree, both ways") {
  const Folder folder;
  Config c = smallest();
  save_model(folder.root, random_model<float>(c, 1));
  c.num_nextn_predict_layers = 1;
  write_config(folder.root / "config.json", c);
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); })
            .starts_with("[model] model.safetensors: 14 tensors do not fit config.json\n"
                         "  missing model.layers.1.enorm.weight\n"));
  save_model(folder.root, random_model<float>(c, 1));
  c.num_nextn_predict_layers = 0;
  write_config(folder.root / "config.json", c);
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); })
            .starts_with("[model] model.safetensors: 14 tensors do not fit config.json\n"
                         "  unexpected model.layers.1.eh_proj.weight\n"));
}

TEST_CASE("load_model, save_model: what is not there or cannot be made is named") {
  const Folder folder;
  CHECK(
      folder.error([&] { load_model<float>(device(), folder.root); }).starts_with("[config] config.json: "));
  write_config(folder.root / "config.json", smallest());
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); })
            .starts_with("[safetensors] model.safetensors: "));
  folder.write("file", "");
  const auto model = random_model<float>(smallest(), 1);
  CHECK(folder.error([&] { save_model(folder.root / "file", model); }) != "");
  CHECK(folder.error([&] { save_model(folder.root / "file" / "under", model); })
            .starts_with("[model] file/under: cannot be made: "));
  CHECK(folder.read("file") == "");
}

TEST_SUITE_END();
