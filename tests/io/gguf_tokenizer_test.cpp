// Tokenizers as llama.cpp reads them from a GGUF file.

#include <mtpx/io/gguf_tokenizer.hpp>

#include "io/gguf_reader.hpp"
#include "io/support.hpp"

using namespace mtpx;
using mtpx_test::Folder;

namespace {

Split split(std::string_view pattern) {
  Split made;
  made.pattern = pattern;
  made.find = OwnPieces::find;  // of no account here
  return made;
}

/// Bytes, two merges, and the splits of DeepSeek-V3.
TokenizerParts parts() {
  TokenizerParts made = Tokenizer().parts();
  for (const char* text : {"th", "the"}) made.tokens.emplace_back(text);
  made.merges = {{'t', 'h'}, {256, 'e'}};
  for (const std::string_view pattern :
       {detail::lineless_patterns[0], detail::lineless_patterns[2], detail::line_patterns[0]})
    made.splits.push_back(split(pattern));
  return made;
}

Config config(Index vocab) {
  Config made;
  made.vocab_size = vocab;
  return made;
}

using Keys = std::map<std::string, std::string>;

/// The keys of a file, without "tokenizer.".
Keys keys(const Folder& folder, const Tokenizer& tokenizer, const Config& config,
          std::vector<std::string>& notices) {
  GgufKeys made;
  add_tokenizer(made, tokenizer, config, folder.root, notices);
  GgufWriter(folder.root / "x", made, {}, Cpu(1)).finish();
  Keys all;
  for (const auto& [key, value] : gguf_test::read(folder.read("x")).keys) all[key.substr(10)] = value;
  return all;
}

std::string part_of_list(const std::string& list, std::size_t first, std::size_t count) {
  std::size_t begin = 0;
  for (std::size_t i = 0; i < first; ++i) begin = list.find(',', begin) + 1;
  std::size_t end = begin;
  for (std::size_t i = 0; i < count; ++i) end = list.find(',', end + 1);
  return list.substr(begin, end == std::string::npos ? end : end - begin);
}

}  // namespace

TEST_CASE("gguf tokenizer: bytes are RWKV's, which spells them out") {
  const Folder folder;
  std::vector<std::string> notices;
  Config c = config(256);
  const Keys all = keys(folder, Tokenizer(), c, notices);
  CHECK(all.at("ggml.model") == "rwkv");
  CHECK(all.at("ggml.tokens").starts_with("\\x00,\\x01,"));
  CHECK(part_of_list(all.at("ggml.tokens"), 97, 2) == "\\x61,\\x62");
  CHECK(all.at("ggml.tokens").ends_with(",\\xff"));
  CHECK(all.at("ggml.add_bos_token") == "false");
  CHECK(!all.contains("ggml.eos_token_id"));
  CHECK(notices.empty());
  c.vocab_size = 300;
  CHECK(folder.error<ConfigError>([&] { keys(folder, Tokenizer(), c, notices); }) ==
        "[gguf] the tokenizer is of bytes, and vocab_size = 300; --no-tokenizer writes the model without it");
}

TEST_CASE("gguf tokenizer: tokens, types, merges, and what stands around a text") {
  const Folder folder;
  std::vector<std::string> notices;
  TokenizerParts made = parts();
  made.added = {{258, "<s>", true, false}, {260, "<think>", false, false}, {261, "</s>", true, false}};
  made.others = {{262, "\u2581x"}};
  made.before = {258};
  Config c = config(264);
  c.eos_token_id = 261;
  c.more_eos_token_ids = {260, 5, 6};
  const Keys all = keys(folder, Tokenizer(made), c, notices);
  CHECK(all.at("ggml.model") == "gpt2");
  CHECK(all.at("ggml.pre") == "deepseek-v3");
  CHECK(part_of_list(all.at("ggml.tokens"), 10, 1) == "\u010a");  // a line end, by its letter
  CHECK(all.at("ggml.tokens").ends_with(",th,the,<s>,[PAD259],<think>,</s>,\u2581x,[PAD263]"));
  CHECK(part_of_list(all.at("ggml.token_type"), 255, 9) == "1,1,1,3,5,4,3,5,5");
  CHECK(all.at("ggml.merges") == "t h,th e");
  CHECK(all.at("ggml.bos_token_id") == "258");
  CHECK(all.at("ggml.add_bos_token") == "true");
  CHECK(all.at("ggml.add_eos_token") == "false");
  CHECK(all.at("ggml.eos_token_id") == "261");
  CHECK(all.at("ggml.eot_token_id") == "260");
  CHECK(all.at("ggml.eom_token_id") == "5");
  CHECK(notices ==
        std::vector<std::string>{"token 6 of eos_token_id has no place in a GGUF file, which has 3; "
                                 "it may not end a text"});
  made.after = {261};
  CHECK(keys(folder, Tokenizer(made), c, notices).at("ggml.add_eos_token") == "true");
}

TEST_CASE("gguf tokenizer: what llama.cpp would make other ids of is refused") {
  const Folder folder;
  std::vector<std::string> notices;
  const auto error = [&](const auto& change) {
    TokenizerParts made = parts();
    Config c = config(258);
    c.eos_token_id = 3;
    change(made, c);
    return folder.error<ConfigError>([&] { keys(folder, Tokenizer(made), c, notices); });
  };
  const auto text = [](const std::string& cause) {
    return "[gguf] the tokenizer " + cause + "; --no-tokenizer writes the model without it";
  };
  CHECK(error([](TokenizerParts&, Config&) {}) == "");
  CHECK(error([](TokenizerParts& p, Config&) { p.splits = {split("x+")}; }) ==
        text("cuts text by \"x+\", which llama.cpp has no name for"));
  CHECK(error([](TokenizerParts& p, Config&) {
          p.splits = {split(own_pattern)};
        }).starts_with("[gguf] the tokenizer cuts text by \""));
  CHECK(error([](TokenizerParts& p, Config&) { p.splits.clear(); }) ==
        text("cuts text by nothing, which llama.cpp has no name for"));
  CHECK(error([](TokenizerParts& p, Config&) { p.splits.back().drop_matches = true; }) != "");
  CHECK(error([](TokenizerParts& p, Config&) { p.splits = {split(detail::line_patterns[3])}; }) != "");
  CHECK(error([](TokenizerParts& p, Config&) { p.splits = {split(detail::line_patterns[1])}; }) ==
        text("has ignore_merges = false; llama.cpp has no name for that with its splits"));
  CHECK(error([](TokenizerParts& p, Config&) {
          p.splits = {split(detail::line_patterns[1])};
          p.whole_first = true;
        }) == "");
  CHECK(error([](TokenizerParts& p, Config&) {
          p.before = {1, 2};
        }) == text("puts more around a text than bos before it and eos behind it"));
  CHECK(error([](TokenizerParts& p, Config&) { p.after = {2}; }) ==
        text("puts more around a text than bos before it and eos behind it"));
  CHECK(error([](TokenizerParts& p, Config&) { p.after = {3}; }) == "");
  CHECK(error([](TokenizerParts& p, Config& c) {
          p.added = {{258, "[PAD259]", true, false}};
          c.vocab_size = 260;
        }) == text("has the text \"[PAD259]\" twice, which llama.cpp takes for one token"));
  CHECK(error([](TokenizerParts&, Config& c) { c.vocab_size = 257; }) ==
        text("has 258 ids, and vocab_size = 257"));
  CHECK(notices.empty());
  CHECK(error([](TokenizerParts& p, Config& c) {
          p.nfc = true;
          c.eos_token_id = -1;
        }) == "");
  CHECK(notices == std::vector<std::string>{
                       "the tokenizer puts text into NFC, llama.cpp does not: other forms become other ids",
                       "no eos_token_id: llama.cpp ends a text at token 11, its default"});
}

TEST_CASE("gguf tokenizer: chat templates of the folder") {
  const Folder folder;
  std::vector<std::string> notices;
  const auto all = [&] { return keys(folder, Tokenizer(), config(256), notices); };
  CHECK(!all().contains("chat_template"));
  folder.write("tokenizer_config.json", R"({"chat_template": "{{ a }}"})");
  CHECK(all().at("chat_template") == "{{ a }}");
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "d"},
    {"name": "tool_use", "template": "t"}]})");
  CHECK(all().at("chat_template") == "d");
  CHECK(all().at("chat_template.tool_use") == "t");
  CHECK(all().at("chat_templates") == "tool_use");
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  CHECK(folder.error([&] { all(); }) ==
        "[gguf] tokenizer_config.json: chat_template is neither a text nor a list of those, each with a name "
        "and "
        "a template");
  folder.write("chat_template.jinja", "j\n");
  CHECK(all().at("chat_template") == "j\n");
}
