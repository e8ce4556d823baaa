#include <mtpx/io/generation_config.hpp>

#include "io/support.hpp"

#include <string>

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/generation_config.hpp");

TEST_CASE("read_generation_config: sampling where do_sample is true, and tokens that end a text") {
  const Folder folder;
  const auto read = [&](const std::string& text) {
    folder.write("generation_config.json", text);
    return read_generation_config(folder.root);
  };
  CHECK(!read_generation_config(folder.root).sampling);
  CHECK(read_generation_config(folder.root).end.empty());

  GenerationConfig config = read(
      R"({"bos_token_id": 0, "eos_token_id": [1, 7], "do_sample": true, "temperature": 0.6, "top_p": 0.95})");
  REQUIRE(config.sampling);
  CHECK(config.sampling->temperature == 0.6);
  CHECK(config.sampling->top_p == 0.95);
  CHECK(config.sampling->top_k == 0);
  CHECK(config.end == std::vector<std::int32_t>{1, 7});

  config = read(R"({"eos_token_id": 3, "temperature": 0.6, "top_k": 50})");
  CHECK(!config.sampling);
  CHECK(config.end == std::vector<std::int32_t>{3});

  config = read(R"({"do_sample": true, "temperature": null, "top_k": 20, "eos_token_id": null})");
  REQUIRE(config.sampling);
  CHECK(config.sampling->temperature == 1);
  CHECK(config.sampling->top_k == 20);
  CHECK(config.end.empty());
}

TEST_CASE("read_generation_config: values that are none are listed") {
  const Folder folder;
  const auto error = [&](const std::string& text) {
    folder.write("generation_config.json", text);
    return folder.error([&] { (void)read_generation_config(folder.root); });
  };
  const std::string head = "[generation] generation_config.json: ";
  CHECK(error("[1]") == head + "is not an object");
  CHECK(error(R"({"do_sample": 1, "top_p": "x", "eos_token_id": [-1]})") ==
        head +
            "do_sample = 1: must be true or false; top_p = \"x\": must be a number; eos_token_id = an array: "
            "must be a whole number or a list of them");
  CHECK(error(R"({"do_sample": true, "temperature": -1})") ==
        head + "temperature = -1: must be 0 (greedy) or positive");
}
