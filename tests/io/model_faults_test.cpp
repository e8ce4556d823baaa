// Model folders that changed on the disk, belong to another model, or ask for too much.

#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/allocations.hpp"
#include "support/model.hpp"

#include <limits>

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

namespace {

Config one_layer() {
  Config c = dense_config(0);
  c.num_hidden_layers = 1;
  return c;
}

std::vector<Numbers> numbers_in(const Transformer<float, Cpu>& model) {
  std::vector<Numbers> all;
  for_each_tensor(model, [&](const std::string&, const auto& tensor) { all.push_back(host(tensor)); });
  return all;
}

}  // namespace

TEST_CASE(
    "load_model F3: numbers of layers, experts and positions far beyond the weights are refused at once") {
  const Folder folder;
  save_model(folder.root, random_model<float>(mixture_config(1), 1));
  const std::string text = folder.read("config.json");
  const auto with = [&](const std::string& key, const std::string& value) {
    const std::size_t at = text.find(cat('"', key, "\": ")) + key.size() + 4;
    folder.write("config.json", text.substr(0, at) + value + text.substr(text.find(',', at)));
    const std::size_t before = allocations();
    const std::string error =
        folder.error([&] { load_model<float>(device(), folder.root, {.verify = false}); });
    CHECK(allocations() - before < 5000);
    return error;
  };
  CHECK(with("num_hidden_layers", "1000000") ==
        "[model] model.safetensors: 115 tensors are too few for num_hidden_layers = 1000000 and "
        "num_nextn_predict_layers = 1");
  CHECK(with("n_routed_experts", "1000000000") ==
        "[model] model.safetensors: 115 tensors are too few for n_routed_experts = 1000000000 in 2 layers");
  CHECK(with("max_position_embeddings", "1000000000") ==
        "[model] model.safetensors: 16248 bytes of weights are too few for max_position_embeddings = "
        "1000000000, whose rotations take 32000000000 bytes");
  CHECK(with("max_position_embeddings", "1000") == "");
}

TEST_CASE("load_model: any flipped bit of the weights is noticed, unless nobody is to look") {
  const Folder folder;
  const auto model = random_model<float>(one_layer(), 1);
  save_model(folder.root, model);
  const std::string bytes = folder.read("model.safetensors");
  for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += 1 + bit / 64) {
    CAPTURE(bit);
    std::string changed = bytes;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    folder.write("model.safetensors", changed);
    CHECK(folder.error([&] { load_model<float>(device(), folder.root); })
              .starts_with("[safetensors] model.safetensors: "));
  }
  std::string changed = bytes;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  folder.write("model.safetensors", changed);
  for (const bool mmap : {true, false}) {
    const std::string text = folder.error([&] { load_model<float>(device(), folder.root, {mmap}); });
    CHECK(text.starts_with(
        "[safetensors] model.safetensors: tensor \"model.norm.weight\": has other bytes than "
        "were written: their checksum is "));
    CHECK(folder.error([&] { load_model<float>(device(), folder.root, {mmap, false}); }) == "");
  }
}

TEST_CASE("load_model: an edited config.json is refused, field by field; an older one does not count") {
  const Folder folder;
  const auto model = random_model<float>(one_layer(), 1);
  Config other = one_layer();
  other.rope_theta = 500;
  save_model(folder.root, random_model<float>(other, 2));
  const std::string older = folder.read("config.json");
  save_model(folder.root, model, {{"note", "x"}});
  const std::string written = folder.read("config.json");
  const auto edit = [&](const std::string& from, const std::string& to) {
    std::string text = written;
    REQUIRE(text.find(from) != std::string::npos);
    text.replace(text.find(from), from.size(), to);
    folder.write("config.json", text);
  };
  const std::string refused =
      "[model] config.json: is not the one that was written with the weights; --no-verify takes it as it is";

  edit("\"rope_theta\": 100.0", "\"rope_theta\": 700.0");
  CHECK(folder.error([&] { read_model_config(folder.root); }) ==
        refused + "\n  rope_theta: 100.0 then, 700.0 now");
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        refused + "\n  rope_theta: 100.0 then, 700.0 now");
  CHECK(load_model<float>(device(), folder.root, {.verify = false}).model.config.rope_theta == 700);
  edit("\"rope_theta\": 100.0", "\"rope_theta\":\n1e2");  // the same number
  CHECK(load_model<float>(device(), folder.root).model.config.rope_theta == 100);
  edit("\"note\": \"x\"", "\"note\": \"y\"");  // of other programs
  CHECK(load_model<float>(device(), folder.root).extra["note"] == "y");

  folder.write("config.json", older);  // as if a save had ended between its two renames
  const auto loaded = load_model<float>(device(), folder.root);
  CHECK(loaded.model.config.rope_theta == 100);
  CHECK(numbers_in(loaded.model) == numbers_in(model));
  CHECK(!loaded.extra.contains("mtpx_weights"));
  write_config(folder.root / "config.json", other);  // which bears no mark
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        refused + "\n  rope_theta: 100.0 then, 500.0 now");
  CHECK(load_model<float>(device(), folder.root, {.verify = false}).model.config.rope_theta == 500);
  write_config(folder.root / "config.json", one_layer());
  CHECK(numbers_in(load_model<float>(device(), folder.root).model) == numbers_in(model));
}

TEST_CASE("load_model: any flipped bit of config.json is refused, or changes nothing that is read of it") {
  const Folder folder;
  save_model(folder.root, random_model<float>(one_layer(), 1));
  const Config written = read_model_config(folder.root).config;
  const std::string bytes = folder.read("config.json");
  std::size_t refused = 0, taken = 0;
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    CAPTURE(bit);
    std::string changed = bytes;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    folder.write("config.json", changed);
    try {
      Config config = read_model_config(folder.root).config;
      config.first_k_dense_replace = written.first_k_dense_replace;  // without experts, nothing
      CHECK(config == written);
      ++taken;
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find("config.json: ") != std::string::npos);
      ++refused;
    }
  }
  CHECK(refused > 2 * taken);  // what is taken: marks, and what other programs read
}

TEST_CASE("load_model: a file without tensors is refused as one that lacks them") {
  const Folder folder;
  save_model(folder.root, random_model<float>(one_layer(), 1));
  folder.write("model.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10));
  CHECK(folder.error([&] { load_model<float>(device(), folder.root); }) ==
        "[model] model.safetensors: 0 tensors are too few for num_hidden_layers = 1 and "
        "num_nextn_predict_layers = 0");
}

TEST_CASE("save_model: shards and index of a former model go when the new one is there") {
  const Folder folder;
  const auto model = random_model<float>(one_layer(), 1);
  CHECK(!has_model(folder.root));
  const std::string one = "model-1.safetensors";
  save_tensors(folder.root / one, [&](const auto& visit) { for_each_tensor(model, visit); });
  Json map = Json::object();
  for_each_tensor(model, [&](const std::string& name, const auto&) { map[name] = one; });
  map["lm_head.weight"] = "notes.txt";
  folder.write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  folder.write("notes.txt", "");
  folder.write("other.safetensors", "");
  CHECK(has_model(folder.root));
  save_model(folder.root, model);
  CHECK(has_model(folder.root));
  CHECK(folder.files() == 4);
  CHECK(!std::filesystem::exists(folder.root / one));
  CHECK(!std::filesystem::exists(folder.root / "model.safetensors.index.json"));
  folder.write("model.safetensors.index.json", "{");
  save_model(folder.root, model);
  CHECK(!std::filesystem::exists(folder.root / "model.safetensors.index.json"));
  CHECK(numbers_in(load_model<float>(device(), folder.root).model) == numbers_in(model));
}

TEST_CASE("load_model: weights that are not finite are refused, unless nobody is to look") {
  const Folder folder;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const auto model = random_model<float>(one_layer(), 1);
    auto head = model.lm_head->weight.value().to_host();
    head[13] = bad;
    model.lm_head->weight.value().assign(head);
    save_model(folder.root, model);
    CHECK(folder.error<NumericError>([&] { load_model<float>(device(), folder.root); }) ==
          cat("[model] model.safetensors: tensor \"lm_head.weight\": number 13 is ", bad));
    CHECK(folder.error<NumericError>([&] { load_model<bf16>(device(), folder.root, {.verify = false}); }) ==
          "");
  }
}
