#include <mtpx/io/weight_files.hpp>

#include "io/support.hpp"

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/weight_files.hpp");

namespace {

/// A shard with one number a tensor, which is its place in `names`.
void shard(const Folder& folder, const std::string& file, const std::vector<std::string>& names) {
  std::vector<float> values;
  for (std::size_t i = 0; i < names.size(); ++i) values.push_back(static_cast<float>(i));
  std::vector<TensorBytes> tensors;
  for (std::size_t i = 0; i < names.size(); ++i) {
    tensors.push_back({names[i], DType::f32, {1}, std::as_bytes(std::span(values).subspan(i, 1))});
  }
  write_safetensors(folder.root / file, tensors);
}

/// Two shards and their index.
void good_folder(const Folder& folder) {
  shard(folder, "one.safetensors", {"a", "b"});
  shard(folder, "two.safetensors", {"c"});
  folder.write("model.safetensors.index.json", R"({"metadata": {"total_size": 12},
    "weight_map": {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"}})");
}

std::string error(const Folder& folder) {
  return folder.error([&] { WeightFiles::open(folder.root); });
}

std::string index_error(const std::string& text) {
  const Folder folder;
  good_folder(folder);
  folder.write("model.safetensors.index.json", text);
  return error(folder);
}

}  // namespace

TEST_CASE("weight files: one file, or the shards that an index lists; the one file comes first") {
  const Folder folder;
  good_folder(folder);
  for (const bool mmap : {true, false}) {
    const WeightFiles files = WeightFiles::open(folder.root, {mmap});
    CHECK(files.path() == (folder.root / "model.safetensors.index.json").string());
    CHECK(files.weights().size() == 3);
    const auto b = files.find("b"), c = files.find("c");
    CHECK(b.file->read<float>(*b.entry) == std::vector<float>{1});
    CHECK(c.file->read<float>(*c.entry) == std::vector<float>{0});
    CHECK(files.find("d").entry == nullptr);
  }
  shard(folder, "model.safetensors", {"d"});
  const WeightFiles single = WeightFiles::open(folder.root);
  CHECK(single.path() == (folder.root / "model.safetensors").string());
  CHECK(single.weights().size() == 1);
  CHECK(single.find("d").entry != nullptr);
}

TEST_CASE("weight files: neither file nor index") {
  const Folder folder;
  CHECK(error(folder) == "[safetensors] model.safetensors: cannot be opened: No such file or directory");
}

TEST_CASE("weight files S17: a shard that is missing or no file") {
  const Folder folder;
  good_folder(folder);
  std::filesystem::remove(folder.root / "two.safetensors");
  CHECK(error(folder) == "[safetensors] two.safetensors: cannot be opened: No such file or directory");
  std::filesystem::create_directory(folder.root / "two.safetensors");
  CHECK(error(folder) == "[safetensors] two.safetensors: is not a regular file");
}

TEST_CASE("weight files S17: a shard's name never leads out of the folder") {
  const auto named = [](const std::string& shard) {
    return index_error(R"({"weight_map": {"a": ")" + shard + R"("}})");
  };
  const auto refused = [](const std::string& shard) {
    return R"([index] model.safetensors.index.json: weight_map: the file of "a", ")" + shard +
           R"(", must lie in the same folder)";
  };
  for (const std::string name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", ""}) {
    CHECK(named(name) == refused(name));
  }
  CHECK(named(R"(sub\\one.safetensors)") == refused(R"(sub\\one.safetensors)"));
  CHECK(named(R"(one.safetensors\u0000)") == refused(R"(one.safetensors\u0000)"));
}

TEST_CASE("weight files S17: listed but absent, present but unlisted, in two shards") {
  const Folder folder;
  good_folder(folder);
  shard(folder, "one.safetensors", {"a", "c", "x"});
  CHECK(error(folder) ==
        "[index] model.safetensors.index.json: 3 tensors do not lie where it says\n"
        "  \"b\" is listed for one.safetensors, which does not hold it\n"
        "  \"c\" lies in one.safetensors too, and is listed for two.safetensors\n"
        "  \"x\" lies in one.safetensors and is not listed");
}

TEST_CASE("weight files S17: ten of many are listed, all are counted") {
  const Folder folder;
  good_folder(folder);
  std::vector<std::string> names;
  for (int i = 0; i < 30; ++i) names.push_back(cat("x", i));
  shard(folder, "two.safetensors", names);
  const std::string text = error(folder);
  CHECK(text.starts_with("[index] model.safetensors.index.json: 31 tensors do not lie where it says\n"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 10);
}

TEST_CASE("weight files S17: an index that is none") {
  const std::string head = "[index] model.safetensors.index.json: ";
  CHECK(index_error("[]") == head + "weight_map must be an object");
  CHECK(index_error("{}") == head + "weight_map must be an object");
  CHECK(index_error(R"({"weight_map": ["a"]})") == head + "weight_map must be an object");
  CHECK(index_error(R"({"weight_map": {}})") == head + "weight_map is empty");
  CHECK(index_error(R"({"weight_map": {"a": 1}})") ==
        head + "weight_map: the file of \"a\" must be a string, not 1");
  CHECK(index_error(R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})") ==
        head + "the key \"a\" stands twice");
  CHECK(index_error("{") == head + "is not JSON at byte 2");
}

TEST_CASE("weight files: an index of a hundred thousand tensors opens at once") {
  const Folder folder;
  std::vector<std::string> names;
  std::string map;
  for (int i = 0; i < 100000; ++i) {
    names.push_back(cat("tensor.", i));
    map += cat(i > 0 ? "," : "", '"', names.back(), "\":\"one.safetensors\"");
  }
  shard(folder, "one.safetensors", names);
  folder.write("model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  CHECK(WeightFiles::open(folder.root).weights().size() == 100000);
}

TEST_SUITE_END();
