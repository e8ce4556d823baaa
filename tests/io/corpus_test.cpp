// The fuzzers' corpus, replayed: every input that once was interesting still keeps the promises of
// targets.hpp.

#include "fuzz/targets.hpp"
#include "io/support.hpp"

#include <vector>

TEST_SUITE_BEGIN("tests/fuzz");

namespace {

/// Calls target(bytes) for every file of a corpus; how many there were.
template <typename Target>
int replay(const char* name, const Target& target) {
  int files = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(std::filesystem::path("tests/fuzz/corpus") / name)) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    target({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
    ++files;
  }
  return files;
}

}  // namespace

TEST_CASE("fuzz: the corpus of the safetensors reader") {
  CHECK(replay("safetensors", mtpx_test::fuzz_safetensors) >= 20);
}

TEST_CASE("fuzz: the corpus of config.json") { CHECK(replay("config", mtpx_test::fuzz_config) >= 20); }

TEST_CASE("fuzz: the corpus of tokenizer.json") {
  CHECK(replay("tokenizer", mtpx_test::fuzz_tokenizer) >= 10);
}

TEST_CASE("fuzz: the corpus of texts") { CHECK(replay("text", mtpx_test::fuzz_text) >= 6); }

TEST_CASE("fuzz: the corpus of token files") { CHECK(replay("tokens", mtpx_test::fuzz_tokens) >= 10); }

TEST_CASE("fuzz: the corpus of chat templates") { CHECK(replay("template", mtpx_test::fuzz_template) >= 10); }

TEST_CASE("fuzz: the corpora of indices and of stop texts") {
  CHECK(replay("index", mtpx_test::fuzz_index) >= 10);
  CHECK(replay("stop", mtpx_test::fuzz_stop) >= 10);
}

TEST_SUITE_END();
