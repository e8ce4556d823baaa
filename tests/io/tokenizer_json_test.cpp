#include <mtpx/io/tokenizer_json.hpp>
#include <mtpx/text/bpe_train.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <random>

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/tokenizer_json.hpp");

namespace {

using TokenIds = std::vector<std::int32_t>;

[[maybe_unused]] Json tokenizer_goldens() {  // unused without PCRE2
  const InputFile file("test", "tests/golden/tokenizers.json");
  return Json::parse(file.read_text(1 << 20));
}

/// The smallest file: bytes, "he" and "hel", with the splits of our own tokenizers.
Json small_file() {
  TokenizerParts parts = Tokenizer().parts();
  parts.tokens.insert(parts.tokens.end(), {"he", "hel"});
  parts.merges = {{'h', 'e'}, {256, 'l'}};
  Split own;
  own.pattern = own_pattern;
  own.find = OwnPieces::find;
  parts.splits = {own};
  parts.added = {{258, "<s>", true, false}, {259, "<|x|>", false, true}};
  return Json::parse(tokenizer_json(Tokenizer(parts)));
}

/// Why the file is refused after change(file); "" if it is not.
template <typename Change>
std::string refusal(const Change& change) {
  Json file = small_file();
  change(file);
  try {
    (void)parse_tokenizer(file.dump(), "f.json");
  } catch (const FileError& error) {
    const std::string head = "[tokenizer] f.json: ";
    REQUIRE(std::string(error.what()).starts_with(head));
    return std::string(error.what()).substr(head.size());
  }
  return "";
}

}  // namespace

TEST_CASE("tokenizer.json: written and read, a tokenizer does the same") {
  const Folder folder;
  std::string text = "low lower lowest \u65e5\u672c\u8a9e\n\xff\"\\";
  for (int i = 0; i < 4; ++i) text += text;
  const std::string_view document = text;
  const Tokenizer trained =
      train_bpe({&document, 1}, {.vocab_size = 300, .special = {"<eos>", "<\uff5c\">"}});
  write_tokenizer(trained, folder.root / "tokenizer.json");
  const Tokenizer read = read_tokenizer(folder.root / "tokenizer.json");
  CHECK(read.fingerprint() == trained.fingerprint());
  CHECK(read.encode(text, true) == trained.encode(text, true));
  CHECK(tokenizer_json(read) == folder.read("tokenizer.json"));
  CHECK(folder.files() == 1);

  const Tokenizer bytes = parse_tokenizer(tokenizer_json(Tokenizer()), "bytes");
  CHECK(bytes.is_bytes());
  CHECK(bytes.fingerprint() == Tokenizer().fingerprint());
}

TEST_CASE("tokenizer.json: both forms of merges") {
  Json file = small_file();
  CHECK(file["model"]["merges"] == Json::array({"h e", "he l"}));
  const Tokenizer strings = parse_tokenizer(file.dump(), "f.json");
  file["model"]["merges"] = Json::array({Json::array({"h", "e"}), Json::array({"he", "l"})});
  const Tokenizer pairs = parse_tokenizer(file.dump(), "f.json");
  CHECK(strings.fingerprint() == pairs.fingerprint());
  CHECK(pairs.encode("hello <s>", true) == TokenIds{257, 'l', 'o', ' ', 258});
}

TEST_CASE("tokenizer.json: tokens outside the alphabet of bytes keep their ids and texts") {
  Json file = small_file();
  file["model"]["vocab"]["<\uff5cend\uff5c>"] = 400;  // ids between have no text
  file["added_tokens"].push_back({{"id", 400}, {"content", "<\uff5cend\uff5c>"}, {"special", true}});
  const Tokenizer tokenizer = parse_tokenizer(file.dump(), "f.json");
  CHECK(tokenizer.size() == 401);
  CHECK(tokenizer.text(400) == "<\uff5cend\uff5c>");
  CHECK(tokenizer.text(300).empty());
  CHECK(parse_tokenizer(tokenizer_json(tokenizer), "again").fingerprint() == tokenizer.fingerprint());
}

TEST_CASE("tokenizer.json: what a template puts around a text is told, not done") {
  Json file = small_file();
  CHECK(file["post_processor"].is_null());
  file["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|x|>", "type_id": 0}}],
     "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]},
                                    "<|x|>": {"id": "<|x|>", "ids": [259], "tokens": ["<|x|>"]}}}]})");
  const Tokenizer tokenizer = parse_tokenizer(file.dump(), "f.json");
  CHECK(tokenizer.parts().before == TokenIds{258});
  CHECK(tokenizer.parts().after == TokenIds{259});
  CHECK(tokenizer.encode("he") == TokenIds{256});
  const Tokenizer again = parse_tokenizer(tokenizer_json(tokenizer), "again");
  CHECK(again.parts().before == TokenIds{258});
  CHECK(again.parts().after == TokenIds{259});
}

TEST_CASE("tokenizer.json: what would be done differently is refused by name") {
  const auto set = [](const char* pointer, const Json& value) {
    return refusal([&](Json& file) { file[Json::json_pointer(pointer)] = value; });
  };
  CHECK(refusal([](Json&) {}).empty());
  CHECK(set("/surprise", 1) == "\"surprise\" is not known");
  CHECK(set("/truncation", Json::object()) == "truncation = an object: only null is supported");
  CHECK(set("/normalizer", {{"type", "Lowercase"}}) == "normalizer.type = \"Lowercase\": is not supported");
  CHECK(set("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}}) ==
        "normalizer[0].type = \"NFKC\": is not supported");
  CHECK(set("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}}).empty());
  CHECK(set("/model/type", "Unigram") == "model.type = \"Unigram\": only \"BPE\" is supported");
  CHECK(set("/model/dropout", 0.1) == "model.dropout = 0.1: only null is supported");
  CHECK(set("/model/byte_fallback", true) == "model.byte_fallback = true: only false is supported");
  CHECK(set("/model/continuing_subword_prefix", "##") ==
        "model.continuing_subword_prefix = \"##\": only null is supported");
  CHECK(set("/model/continuing_subword_prefix", "").empty());
  CHECK(set("/model/surprise", 1) == "model.\"surprise\" is not known");
  CHECK(set("/model/vocab/hel", 256) == "model.vocab[\"hel\"] = 256: is the id of another token");
  CHECK(set("/model/vocab/new", -1) == "model.vocab[\"new\"] = -1: must be an id of 0 ... 1048575");
  CHECK(set("/model/vocab/new", 99999999) ==
        "model.vocab[\"new\"] = 99999999: must be an id of 0 ... 1048575");
  CHECK(refusal([](Json& file) { file["model"]["vocab"][""] = 300; }) == "model.vocab has an empty token");
  CHECK(refusal([](Json& file) { file["model"]["vocab"].erase("z"); }) == "no token is the byte 122");
  CHECK(set("/model/merges/0", "he") == "model.merges[0] = \"he\": must be two tokens with a blank between");
  CHECK(set("/model/merges/0", 7) == "model.merges[0] = 7: must be two tokens");
  CHECK(set("/model/merges/0", "h qq") == "model.merges[0]: \"qq\" is not in the vocabulary");
  CHECK(set("/model/merges/0", "h x") == "model.merges[0]: \"hx\" is not in the vocabulary");
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    CHECK(set(cat("/added_tokens/0/", key).c_str(), true) ==
          cat("added_tokens[0].", key, " = true (of \"<s>\"): only false is supported"));
  }
  CHECK(set("/added_tokens/0/content", "he") == "added_tokens[0]: \"he\" has the id 256 in the vocabulary");
  CHECK(set("/added_tokens/0/content", "<|x|>") == "added_tokens[1]: \"<|x|>\" stands twice");
  CHECK(set("/added_tokens/0/content", "") == "added_tokens[0].content is empty");
  CHECK(set("/added_tokens/0/id", 5) == "added token 5 has the id of another");
  CHECK(set("/pre_tokenizer", nullptr) == "pre_tokenizer has no ByteLevel: only byte-level BPE is supported");
  CHECK(set("/pre_tokenizer", {{"type", "Metaspace"}}) ==
        "pre_tokenizer.type = \"Metaspace\": is not supported");
  CHECK(set("/pre_tokenizer/pretokenizers/1/add_prefix_space", true) ==
        "pre_tokenizer[1].add_prefix_space = true: only false is supported");
  CHECK(set("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext") ==
        "pre_tokenizer[0].behavior = \"MergedWithNext\": only \"Isolated\" and \"Removed\" are supported");
  CHECK(refusal([](Json& file) {
          Json& list = file["pre_tokenizer"]["pretokenizers"];
          list.push_back(list[0]);
        }) == "pre_tokenizer[2] stands after ByteLevel, which must be the last");
  CHECK(set("/decoder", {{"type", "Metaspace"}}) ==
        "decoder.type = \"Metaspace\": only \"ByteLevel\" is supported");
  CHECK(set("/decoder", nullptr) == "decoder = null: must be an object with a type");
  CHECK(set("/post_processor", {{"type", "BertProcessing"}}) ==
        "post_processor.type = \"BertProcessing\": is not supported");
#ifdef MTPX_PCRE2
  CHECK(set("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a.") ==
        "the pattern a. has ., which is not supported here (at byte 1)");
#else
  CHECK(set("/pre_tokenizer/pretokenizers/0/pattern/Regex", "ab") ==
        "its patterns need PCRE2, which this program was built without: install it (Debian: apt-get install "
        "libpcre2-dev), then configure and build again");
#endif
}

TEST_CASE("tokenizer.json: a file that is missing or no JSON is refused") {
  const Folder folder;
  CHECK(folder.error([&] { (void)read_tokenizer(folder.root / "none.json"); }) ==
        "[tokenizer] none.json: cannot be opened: No such file or directory");
  CHECK(folder.error([&] { (void)read_tokenizer(folder.write("f.json", "[1]")); }) ==
        "[tokenizer] f.json: the file = an array: must be an object");
  CHECK(folder.error([&] { (void)read_tokenizer(folder.write("f.json", "{")); }) ==
        "[tokenizer] f.json: is not JSON at byte 2");
}

#ifdef MTPX_PCRE2
TEST_CASE("tokenizer.json: the ids of Hugging Face's library, behind the splits of published models") {
  const Json golden = tokenizer_goldens();
  REQUIRE(golden["variants"].size() == 8);
  for (const Json& variant : golden["variants"]) {
    CAPTURE(variant["name"].get<std::string>());
    Json file = golden["tokenizer"];
    file["normalizer"] = variant["normalizer"];
    file["pre_tokenizer"] = variant["pre_tokenizer"];
    const Tokenizer tokenizer = parse_tokenizer(file.dump(), "f.json");
    const Tokenizer again = parse_tokenizer(tokenizer_json(tokenizer), "again");
    for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
      const auto text = golden["texts"][i].get<std::string>();
      CAPTURE(text);
      CHECK(tokenizer.encode(text, true) == variant["ids"][i].get<TokenIds>());
      CHECK(again.encode(text, true) == variant["ids"][i].get<TokenIds>());
    }
  }
}

TEST_CASE("tokenizer.json: texts are cut where the ids of both parts are those of the whole") {
  const Json golden = tokenizer_goldens();
  const std::vector<std::string> characters{"\n",
                                            "\n",
                                            "\n",
                                            "\r",
                                            " ",
                                            " ",
                                            "\t",
                                            "a",
                                            "b",
                                            "Z",
                                            "'s",
                                            "'",
                                            ".",
                                            ";",
                                            "/",
                                            "/",
                                            "1",
                                            "23",
                                            "\xC2\x85",
                                            "\xC2\xA0",
                                            "\xE2\x80\x83",
                                            "\xE3\x80\x80",
                                            "\xCC\x81",
                                            "e",
                                            "\xC3\xA9",
                                            "\xE2\x80\xA8",
                                            "\xE4\xBD\xA0",
                                            "\xE3\x80\x82",
                                            "\xE3\x81\x82",
                                            "\xF0\x9F\x98\x80",
                                            "\xFF",
                                            "\xE3",
                                            "\x01",
                                            "\xE1\x9A\x80",
                                            "\xEF\xBC\x81",
                                            "<eos>"};
  for (const Json& variant : golden["variants"]) {
    const auto name = variant["name"].get<std::string>();
    CAPTURE(name);
    Json file = golden["tokenizer"];
    file["normalizer"] = variant["normalizer"];
    file["pre_tokenizer"] = variant["pre_tokenizer"];
    const Tokenizer tokenizer = parse_tokenizer(file.dump(), "f.json");
    // Pieces, too: those that have no merges across a cut would hide a wrong one.
    const auto pieces = [&tokenizer](std::string_view text, std::vector<std::string> before = {}) {
      std::vector<std::vector<Match>> scratch(tokenizer.parts().splits.size());
      detail::split_text(text, tokenizer.parts().splits, 0, scratch,
                         [&before](std::string_view piece) { before.emplace_back(piece); });
      return before;
    };
    std::mt19937 random(7);
    int cuts = 0;
    for (int round = 0; round < 3000; ++round) {
      std::string text;
      for (int i = 0; i < 12; ++i) text += characters[random() % characters.size()];
      const TokenIds whole = tokenizer.encode(text);
      for (std::size_t at = 0, cut; at <= text.size(); at = cut + 1) {
        cut = tokenizer.cut(text, at);
        REQUIRE(cut >= at);
        if (cut == text.size()) break;
        ++cuts;
        const std::string_view left = std::string_view(text).substr(0, cut),
                               right = std::string_view(text).substr(cut);
        TokenIds parts = tokenizer.encode(left);
        const TokenIds rest = tokenizer.encode(right);
        parts.insert(parts.end(), rest.begin(), rest.end());
        CAPTURE(text);
        CHECK(parts == whole);
        if (Utf8Stream::valid(text)) CHECK(pieces(right, pieces(left)) == pieces(text));
      }
    }
    CHECK((name == "digits" ? cuts == 0 : cuts > 300));
  }
}

TEST_CASE(
    "tokenizer.json: the ids of published tokenizers, where MTPX_TOKENIZERS names a folder "
    "NAME/tokenizer.json") {
  const char* const root = std::getenv("MTPX_TOKENIZERS");
  if (root == nullptr) return;
  const Json golden = tokenizer_goldens();
  for (const auto& published : golden["published"].items()) {
    const std::string name = published.key();
    const Json& all = published.value();
    CAPTURE(name);
    const Tokenizer tokenizer = read_tokenizer(std::filesystem::path(root) / name / "tokenizer.json");
    for (std::size_t i = 0; i < golden["texts"].size(); ++i)
      CHECK(tokenizer.encode(golden["texts"][i].get<std::string>(), true) == all[i].get<TokenIds>());
  }
}
#endif

TEST_SUITE_END();
