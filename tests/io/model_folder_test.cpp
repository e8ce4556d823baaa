#include "io/folders.hpp"

#include <chrono>
#include <thread>

using namespace folder_test;

TEST_SUITE_BEGIN("mtpx/io/model_folder.hpp");

TEST_CASE("a folder keeps the tokens that drafts are picked from; ones that cannot be are refused by name") {
  const Folder folder;
  Config c = mixture_config(1);
  auto model = random_model<float>(c, 1);
  model.draft_from({1, 4, 10});
  save_model(folder.root, model);
  c.mtpx_draft_vocabulary = 3;
  const auto loaded = load_model<float>(device(), folder.root);
  CHECK(loaded.model.draft_ids() == model.draft_ids());
  CHECK(loaded.model.config == c);
  CHECK(loaded.extra.dump() ==
        Json({{"architectures", {"DeepseekV3ForCausalLM"}}, {"torch_dtype", "float32"}}).dump());
  const std::string once = InputFile("test", folder.root / "model.safetensors").read_text(1 << 20);
  save_model(folder.root, loaded.model, loaded.extra);
  CHECK(InputFile("test", folder.root / "model.safetensors").read_text(1 << 20) == once);

  // Other tensors under that name, and a folder that has none or should not.
  const auto error = [&](const auto& ids, DType dtype, Index count) {
    std::vector<TensorBytes> out;
    std::vector<std::pair<SafeTensorsEntry, std::vector<float>>> kept;
    {
      const SafeTensors file = SafeTensors::open(folder.root / "model.safetensors");
      for (const SafeTensorsEntry& entry : file.tensors())
        if (entry.name != "mtpx.draft_ids") kept.emplace_back(entry, file.read<float>(entry));
    }
    for (const auto& [entry, numbers] : kept)
      out.push_back({entry.name, DType::f32, entry.shape, std::as_bytes(std::span(numbers))});
    if (!ids.empty())
      out.push_back(
          {"mtpx.draft_ids", dtype, {static_cast<Index>(ids.size())}, std::as_bytes(std::span(ids))});
    const std::filesystem::path other = folder.root / "other";
    std::filesystem::create_directories(other);
    write_safetensors(other / "model.safetensors", out);
    Config says = c;
    says.mtpx_draft_vocabulary = count;
    write_config(other / "config.json", says);
    const std::string text = error_text<FileError>([&] { load_model<float>(device(), other); });
    return text.substr(std::min(text.size(), text.find("\n  ") + 3));
  };
  using Ids32 = std::vector<std::int32_t>;
  CHECK(error(Ids32{1, 4, 10}, DType::i32, 3).empty());
  CHECK(error(Ids32{1, 4, 11}, DType::i32, 3) ==
        "unusable mtpx.draft_ids: [draft vocabulary] id 2 is 11: outside the vocabulary of 11");
  CHECK(error(Ids32{4, 1, 10}, DType::i32, 3) ==
        "unusable mtpx.draft_ids: [draft vocabulary] id 1 is 1: must be above the one before it, 4");
  CHECK(error(std::vector<float>{1, 4, 10}, DType::f32, 3) ==
        "unreadable mtpx.draft_ids: dtype \"F32\" instead of \"I32\"");
  CHECK(error(Ids32{}, DType::i32, 3) == "missing mtpx.draft_ids");
  CHECK(error(Ids32{1}, DType::i32, 0) == "unexpected mtpx.draft_ids");
  CHECK(error(Ids32{1}, DType::i32, 2).find("mtpx.draft_ids") != std::string::npos);

  save_model(folder.root, model, Json::object(), false);
  const auto main = load_model<float>(device(), folder.root);
  CHECK(main.model.draft_ids().empty());
  CHECK(main.model.config.mtpx_draft_vocabulary == 0);
}

TEST_CASE("load_model: slices read their parts of the folder, and compare the checksums of these alone") {
  const Folder folder;
  auto whole = random_model<float>(mixture_config(2), 1);
  whole.draft_from({1, 4, 10});
  save_model(folder.root, whole);
  const ModelSlice first{true, 0, 2, false}, last{false, 2, 3, true};
  std::set<std::string> seen;
  for (const ModelSlice& slice : {first, last.with_experts(0, 2), last.with_experts(1, 2)}) {
    const auto part = load_model<float>(device(), folder.root, {}, {}, slice);
    CHECK(part.model.slice == slice);
    CHECK(part.model.draft_ids() == whole.draft_ids());
    const auto got = tensors(part.model);
    check_bits(got, tensors(slice_of(whole, slice)));
    for (const auto& [name, values] : got) seen.insert(name);
  }
  CHECK(seen.size() == tensors(whole).size());

  const std::filesystem::path file = folder.root / "model.safetensors";
  std::string bytes = folder.read("model.safetensors"), norm(32, '\0');
  {
    const SafeTensors weights = SafeTensors::open(file);
    weights.read_bytes(weights.at("model.norm.weight"), 0, std::as_writable_bytes(std::span(norm)));
  }
  REQUIRE(bytes.find(norm) == bytes.rfind(norm));
  bytes[bytes.find(norm)] ^= 1;
  folder.write("model.safetensors", bytes);
  CHECK_NOTHROW(load_model<float>(device(), folder.root, {}, {}, first));
  CHECK(folder.error<FileError>([&] { load_model<float>(device(), folder.root, {}, {}, last); })
            .find("model.norm.weight") != std::string::npos);
}

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

TEST_CASE("save_model, load_model: every design of heads, and the folder says which it is") {
  for (const auto& [name, heads] : detail::mtpx_heads_names()) {
    const Folder folder;
    Config c = mixture_config(3);
    c.mtpx_heads = heads;
    const auto model = random_model<float>(c, 1);
    save_model(folder.root, model);
    const auto loaded = load_model<float>(device(), folder.root);
    CHECK(loaded.model.config == c);
    CHECK(tensors(loaded.model) == tensors(model));
    CHECK(folder.read("config.json").find(cat("\"mtpx_heads\": \"", name, '"')) != std::string::npos);
    Index numbers = 0;
    for_each_parameter(model,
                       [&](const std::string&, auto& parameter) { numbers += parameter.value().size(); });
    CHECK(numbers == c.parameter_count());
    save_model(folder.root, model, Json::object(), false);  // the main model alone
    CHECK(load_model<float>(device(), folder.root).model.mtp.empty());
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

TEST_CASE("load_model: tensors of many parts, mapped or read, at any number of threads") {
  const Folder folder;
  Config c = smallest();
  c.vocab_size = 30011;
  const auto model = random_model<bf16>(c, 1);
  REQUIRE(model.embed_tokens.value().size() > 3 << 16);
  save_model(folder.root, model);
  const auto check = [&] {
    for (const bool mmap : {true, false}) {
      std::vector<Index> said;
      const auto progress = [&](Index done, Index all) {
        said.push_back(done);
        if (done == all) said.push_back(-1);
      };
      CHECK(tensors(load_model<float>(device(), folder.root, {mmap}, progress).model) == tensors(model));
      const auto count = static_cast<std::ptrdiff_t>(tensors(model).size());
      REQUIRE(static_cast<std::ptrdiff_t>(said.size()) == 2 * count + 1);  // looked at, read; the end
      CHECK(said.back() == -1);
      CHECK(said[0] > 0);
      CHECK(std::is_sorted(said.begin(), said.end() - 1));
      CHECK(said[said.size() - 2] == 2 * said[static_cast<std::size_t>(count) - 1]);
      CHECK(tensors(load_model<bf16>(device(), folder.root, {mmap}).model) == tensors(model));
    }
  };
  check();
  other_ways(check);
}

TEST_CASE("in_parts: every number once, and the first part that fails is heard") {
  for (const int threads : {1, 2, 3}) {
    const Cpu cpu(threads);
    std::vector<int> seen(200001);
    mtpx::detail::in_parts(cpu, 200001, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    CHECK(seen == std::vector<int>(200001, 1));
    mtpx::detail::in_parts(cpu, 0, [&](Index, Index) { FAIL("there are no parts"); });
    for (int run = 0; run < 20; ++run) {
      CHECK(Folder().error([&] {
        mtpx::detail::in_parts(cpu, 1 << 20, [&](Index begin, Index) {
          if (begin == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          if (begin > 0) throw FileError(cat("part at ", begin));
        });
      }) == "part at 65536");
    }
  }
}

TEST_CASE("load_model F9: missing, misshapen and unexpected tensors are listed") {
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

TEST_CASE("load_model F9: ten of many are listed, all are counted") {
  const Folder folder;
  save_model(folder.root, random_model<float>(smallest(), 1));
  rewrite(folder.root / "model.safetensors", [](Tensors& all) {
    for (int i = 0; i < 25; ++i) all[cat("x", i)] = {{1}, {0.0f}};
  });
  const std::string text = folder.error([&] { load_model<float>(device(), folder.root); });
  CHECK(text.starts_with("[model] model.safetensors: 25 tensors do not fit config.json\n  unexpected x0\n"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 10);
}

TEST_CASE("load_model F10: MTP weights and num_nextn_predict_layers must agree, both ways") {
  const Folder folder;
  Config c = smallest();
  save_model(folder.root, random_model<float>(c, 1));
  c.num_nextn_predict_layers = 1;
  write_config(folder.root / "config.json", c);
  CHECK(folder.error([&] { load_model<float>(device(), folder.root, {.verify = false}); })
            .starts_with("[model] model.safetensors: 14 tensors do not fit config.json\n"
                         "  missing model.layers.1.enorm.weight\n"));
  save_model(folder.root, random_model<float>(c, 1));
  c.num_nextn_predict_layers = 0;
  write_config(folder.root / "config.json", c);
  CHECK(folder.error([&] { load_model<float>(device(), folder.root, {.verify = false}); })
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

TEST_CASE(
    "load_model F3: a file that does not fit a huge configuration is refused before anything is allocated") {
  const Folder folder;
  Config c = smallest();
  save_model(folder.root, random_model<float>(c, 1));
  c.vocab_size = c.hidden_size = 1 << 20;  // 8 terabytes
  write_config(folder.root / "config.json", c);
  const Cpu cpu(1);
  const std::string text = folder.error([&] { load_model<float>(cpu, folder.root, {.verify = false}); });
  CHECK(
      text.starts_with("[model] model.safetensors: 11 tensors do not fit config.json\n"
                       "  misshapen model.embed_tokens.weight: [11, 8] instead of [1048576, 1048576]\n"));
  CHECK(cpu.pool().allocations() == 0);
}

TEST_CASE("load_model F9: integers and unknown types are no weights") {
  const Folder folder;
  save_model(folder.root, random_model<float>(smallest(), 1));
  std::string bytes = folder.read("model.safetensors");
  for (const char* type : {"I32", "F4X"}) {
    const std::size_t at = bytes.find("\"F32\"", bytes.find("\"model.norm.weight\""));
    std::string changed = bytes;
    changed.replace(at, 5, cat('"', type, '"'));
    folder.write("model.safetensors", changed);
    CHECK(folder.error([&] { load_model<float>(device(), folder.root, {.verify = false}); }) ==
          cat("[model] model.safetensors: 1 tensors do not fit config.json\n"
              "  unreadable model.norm.weight: dtype \"",
              type, "\" is no type of weights"));
  }
}

TEST_CASE("load_model F8: 8-bit weights need scales of the right shape, and only they have scales") {
  const Folder folder;
  save_model(folder.root, random_model<float>(smallest(), 1));
  const std::string name = "model.layers.0.mlp.down_proj.weight";  // [8, 12]
  const auto quantised = [&](std::vector<Index> scales, const std::string& of) {
    const std::vector<std::uint8_t> codes(8 * 12, 0x38);
    const std::vector<float> ones(static_cast<std::size_t>(*detail::element_count(scales)), 0.5f);
    Tensors all;
    std::vector<TensorBytes> out;
    const SafeTensors file = SafeTensors::open(folder.root / "model.safetensors");
    for (const SafeTensorsEntry& entry : file.tensors())
      all[entry.name] = {entry.shape, file.read<float>(entry)};
    all.erase(name);
    for (const auto& [key, tensor] : all)
      out.push_back({key, DType::f32, tensor.first, std::as_bytes(std::span(tensor.second))});
    out.push_back({name, DType::f8_e4m3, {8, 12}, std::as_bytes(std::span(codes))});
    out.push_back({of + "_scale_inv", DType::f32, scales, std::as_bytes(std::span(ones))});
    std::filesystem::create_directories(folder.root / "q");
    write_safetensors(folder.root / "q" / "model.safetensors", out);
    std::filesystem::copy_file(folder.root / "config.json", folder.root / "q" / "config.json",
                               std::filesystem::copy_options::overwrite_existing);
    return folder.error([&] {
      const auto model = load_model<float>(device(), folder.root / "q");
      CHECK(tensors(model.model).at(name) == Numbers(8 * 12, 0.5));
    });
  };
  CHECK(quantised({1, 1}, name) == "");
  CHECK(quantised({1, 2}, name) ==
        "[model] q/model.safetensors: 1 tensors do not fit config.json\n"
        "  misshapen " +
            name + "_scale_inv: [1, 2] instead of [1, 1]");
  CHECK(quantised({1, 1}, "lm_head.weight") ==
        "[model] q/model.safetensors: 2 tensors do not fit config.json\n"
        "  missing " +
            name +
            "_scale_inv, the scales of an F8_E4M3 weight\n"
            "  unexpected lm_head.weight_scale_inv");
}

TEST_CASE("save_model: without MTP layers the folder is the main model's") {
  const Folder folder;
  const auto model = random_model<float>(mixture_config(2), 1);
  save_model(folder.root, model, {{"dtype", "bfloat16"}}, false);
  const auto loaded = load_model<float>(device(), folder.root);
  CHECK(loaded.model.config.num_nextn_predict_layers == 0);
  CHECK(loaded.extra.at("dtype") == "float32");
  CHECK(!loaded.extra.contains("torch_dtype"));
  auto want = tensors(model);
  std::erase_if(want, [](const auto& item) {
    return item.first.starts_with("model.layers.3.") || item.first.starts_with("model.layers.4.");
  });
  CHECK(tensors(loaded.model) == want);
}

TEST_CASE("save_model: without MTP layers, where all layers were dense and MTP layers counted among them") {
  const Folder folder;
  Config c = mixture_config(1);
  c.first_k_dense_replace = c.num_layers();
  save_model(folder.root, random_model<float>(c, 1), {}, false);
  CHECK(load_model<float>(device(), folder.root).model.config.first_k_dense_replace == c.num_layers());
}

TEST_CASE("load_model S17: shards give the model that one file gives") {
  const Folder folder;
  const auto model = random_model<float>(mixture_config(1), 1);
  save_model(folder.root, model);
  std::vector<TensorBytes> shards[3];
  std::vector<std::vector<float>> floats;
  Json map = Json::object();
  {
    const SafeTensors file = SafeTensors::open(folder.root / "model.safetensors");
    for (const SafeTensorsEntry& entry : file.tensors()) floats.push_back(file.read<float>(entry));
    for (std::size_t i = 0; i < floats.size(); ++i) {
      const SafeTensorsEntry& entry = file.tensors()[i];
      shards[i % 3].push_back({entry.name, DType::f32, entry.shape, std::as_bytes(std::span(floats[i]))});
      map[entry.name] = cat("model-", i % 3, ".safetensors");
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    write_safetensors(folder.root / cat("model-", i, ".safetensors"), shards[i]);
  }
  std::filesystem::remove(folder.root / "model.safetensors");
  folder.write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  for (const bool mmap : {true, false}) {
    CHECK(tensors(load_model<float>(device(), folder.root, {mmap}).model) == tensors(model));
  }
}

TEST_SUITE_END();
