#include <mtpx/decode/generate.hpp>
#include <mtpx/io/int8_folder.hpp>

#include "io/folders.hpp"

using namespace folder_test;

TEST_SUITE_BEGIN("mtpx/io/int8_folder.hpp");

namespace {

Ints text_in_8_bits(const Transformer<float, Cpu>& model, Index draft) {
  GenerateOptions options;
  options.max_tokens = 20;
  options.draft = draft;
  Ints text;
  generate(model, Ints{1, 2, 3, 4, 5}, options, [&](std::int32_t token) {
    text.push_back(token);
    return true;
  });
  return text;
}

}  // namespace

TEST_CASE("write_int8: numbers near the model's, the same ones as numbers and in 8 bits") {
  for (const BlockSize block : {BlockSize{1, 128}, BlockSize{2, 3}, BlockSize{128, 5}}) {
    const Folder folder;
    Config c = mixture_config(2);
    c.mtpx_own_heads = {2};
    auto model = random_model<float>(c, 1);
    model.draft_from({1, 2, 5, 7});
    save_model(folder.root / "m", model, {{"of_others", 3}});
    write_int8(folder.root / "q", folder.root / "m", {.blocks = block}, Cpu(1));
    write_int8(folder.root / "q3", folder.root / "m", {.blocks = block}, Cpu(3));
    CHECK(folder.read("q/model.safetensors") == folder.read("q3/model.safetensors"));
    CHECK(folder.read("q/config.json") == folder.read("q3/config.json"));

    const ModelConfig config = read_model_config(folder.root / "q");
    CHECK(config.config.int8_blocks == block);
    CHECK(config.extra.at("of_others") == 3);
    const auto whole = load_model<float>(device(), folder.root / "q");
    CHECK(!whole.model.config.int8_blocks);
    CHECK(whole.model.draft_ids() == model.draft_ids());
    const auto kept = load_model<float>(device(), folder.root / "q", {.keep_int8 = true});

    const auto before = tensors(model), after = tensors(whole.model);
    std::set<std::string> in_8_bits;
    for_each_int8(kept.model, [&](const std::string& name, const Int8Weight<Cpu>& weight, Index e) {
      in_8_bits.insert(name);
      const Int8Weights one = weight.matrix().of_stack(e);
      Numbers numbers, errors;
      double scale = 0;
      for (Index i = 0; i < one.out; ++i) {
        for (Index j = 0; j < one.in; ++j) {
          numbers.push_back(one.at<float>(i, j));
          errors.push_back(std::fabs(numbers.back() - nth(before.at(name), i * one.in + j)));
          scale = std::max<double>(scale, one.scales[one.scale_place(i, j)]);
        }
      }
      check_bits(numbers, after.at(name), name);
      CHECK(*std::max_element(errors.begin(), errors.end()) <= 0.5001 * scale);
    });
    for (const auto& [name, numbers] : after) {
      const bool stays = name.find("norm") != name.npos || name.find("embed") != name.npos ||
                         name.find("kv_b_proj") != name.npos || name.find("mlp.gate.") != name.npos;
      CHECK(in_8_bits.contains(name) != stays);
      if (stays) check_bits(numbers, before.at(name), name);
    }
    for (const Index draft : {0, 2})
      CHECK(text_in_8_bits(kept.model, draft) == text_in_8_bits(whole.model, 0));

    // What decodes alone is not written: the folder stays what it was.
    const std::string bytes = folder.read("m/model.safetensors");
    CHECK(folder.error<Error>([&] { save_model(folder.root / "m", kept.model); })
              .ends_with(
                  "is kept in 8 bits, for decoding alone: its numbers cannot be read, trained or saved"));
    CHECK(folder.read("m/model.safetensors") == bytes);
    CHECK(folder.error<ConfigError>([&] { write_int8(folder.root / "r", folder.root / "q", {}, Cpu(1)); }) ==
          "[int8] q: its weights are in 8 bits already");
    CHECK(!std::filesystem::exists(folder.root / "r"));
    // As numbers it is a model like any other.
    save_model(folder.root / "w", whole.model);
    CHECK(!read_model_config(folder.root / "w").config.int8_blocks);
  }
}

TEST_CASE("write_int8: of 8-bit floats") {
  const Folder folder;
  write_int8(folder.root / "q", "tests/golden/fp8", {.blocks = {1, 16}}, Cpu(2));
  const auto from = tensors(load_model<float>(device(), "tests/golden/fp8").model);
  const auto to = tensors(load_model<float>(device(), folder.root / "q").model);
  REQUIRE(from.size() == to.size());
  // Of 16 numbers each is off by at most max / 254, and max is at most the root of the sum of their squares.
  for (const auto& [name, numbers] : from) check_close(to.at(name), numbers, 4.0 / 254, name);
  const SafeTensors file = SafeTensors::open(folder.root / "q" / "model.safetensors");
  CHECK(file.at("model.layers.0.self_attn.kv_b_proj.weight").dtype == DType::bf16);
}

TEST_CASE("load_model I8: what does not fit is told by name") {
  const Folder folder;
  save_model(folder.root / "m", random_model<float>(smallest(), 1));
  write_int8(folder.root / "q", folder.root / "m", {.blocks = {1, 4}}, Cpu(1));
  const std::string name = "model.layers.0.mlp.down_proj.weight", config = folder.read("q/config.json");
  const auto again = [&](const auto& change) {
    std::vector<TensorBytes> out;
    std::map<std::string, std::vector<std::byte>> bytes;
    const SafeTensors file = SafeTensors::open(folder.root / "q" / "model.safetensors");
    for (const SafeTensorsEntry& entry : file.tensors()) {
      bytes[entry.name].resize(static_cast<std::size_t>(entry.bytes()));
      file.read_bytes(entry, 0, bytes[entry.name]);
      out.push_back({entry.name, *entry.dtype, entry.shape, bytes[entry.name]});
    }
    change(out);
    std::filesystem::create_directories(folder.root / "r");
    write_safetensors(folder.root / "r" / "model.safetensors", out);
    folder.write("r/config.json", config);
    return folder.error([&] { load_model<float>(device(), folder.root / "r", {.keep_int8 = true}); });
  };
  const auto entry = [](std::vector<TensorBytes>& all, const std::string& of) {
    return std::find_if(all.begin(), all.end(), [&](const TensorBytes& one) { return one.name == of; });
  };
  CHECK(again([](auto&) {}) == "");
  CHECK(again([&](auto& all) { all.erase(entry(all, name + "_scale_inv")); }) ==
        "[model] r/model.safetensors: 1 tensors do not fit config.json\n  missing " + name +
            "_scale_inv, the scales of an I8 weight");
  CHECK(again([&](auto& all) {
          entry(all, name + "_scale_inv")->shape = {4, 6};
        }) == "[model] r/model.safetensors: 1 tensors do not fit config.json\n  misshapen " + name +
                  "_scale_inv: [4, 6] instead of [8, 3]");

  // Numbers of no scale are no weights where config.json does not say what they are.
  Json keys = Json::parse(config);
  keys.erase("quantization_config");
  keys.erase("mtpx_weights");
  folder.write("q/config.json", keys.dump());
  CHECK(folder.error([&] { load_model<float>(device(), folder.root / "q", {.verify = false}); })
            .find("dtype \"I8\" is no type of weights") != std::string::npos);
  keys["quantization_config"] = {{"quant_method", "mtpx_int8"}};
  folder.write("q/config.json", keys.dump());
  CHECK(folder.error<ConfigError>([&] { load_model<float>(device(), folder.root / "q"); }) ==
        "[config] q/config.json: these keys cannot be used\n"
        "  quantization_config.weight_block_size is missing");
}

TEST_SUITE_END();
