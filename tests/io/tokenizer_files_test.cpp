#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

#include <string>

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

namespace {
std::string path_in(const Folder& folder, SafeTensorsOptions options = {}) {
  return tokenizer_path(folder.root, options).filename().string();
}
}  // namespace

TEST_CASE(
    "tokenizer_path: the tokenizer that was written with the weights, or an error with both checksums") {
  const Folder folder;
  const auto model = random_model<float>(dense_config(0), 1);
  CHECK(path_in(folder) == "");
  folder.write("tokenizer.json", "other");
  CHECK(path_in(folder) == "tokenizer.json");
  save_model(folder.root, model);  // says nothing of a tokenizer
  CHECK(folder.read("tokenizer.json") == "other");
  CHECK(path_in(folder) == "tokenizer.json");

  save_model(folder.root, model, {}, true, TokenizerFiles{"mine", "settings", "template", "generation"});
  CHECK(folder.read("tokenizer.json") == "mine");
  CHECK(folder.read("tokenizer_config.json") == "settings");
  CHECK(folder.read("chat_template.jinja") == "template");
  CHECK(folder.read("generation_config.json") == "generation");
  CHECK(folder.files() == 6);
  CHECK(path_in(folder) == "tokenizer.json");
  const std::string mine = checksum_text(checksum("mine")), other = checksum_text(checksum("other"));
  folder.write("tokenizer.json", "other");
  CHECK(folder.error([&] { path_in(folder); }) ==
        "[tokenizer] tokenizer.json: is not the one that was written with the weights: its checksum is " +
            other + ", the weights' has " + mine);
  CHECK(path_in(folder, {.verify = false}) == "tokenizer.json");
  // What a save leaves that ends behind the weights.
  folder.write("tokenizer.json.new", "mine");
  CHECK(path_in(folder) == "tokenizer.json.new");
  folder.write("tokenizer.json.new", "another");
  CHECK(folder.error([&] { path_in(folder); }).find("its checksum is " + other) != std::string::npos);
  std::filesystem::remove(folder.root / "tokenizer.json");
  CHECK(folder.error([&] { path_in(folder); }) ==
        "[tokenizer] tokenizer.json: is missing, the weights' has " + mine);

  folder.write("tokenizer.json", "other");
  save_model(folder.root, model, {}, true, TokenizerFiles{});
  CHECK(folder.files() == 2);  // of a model of bytes
  folder.write("tokenizer.json", "other");
  CHECK(path_in(folder) == "");
  CHECK(path_in(folder, {.verify = false}) == "tokenizer.json");
}
