#include <mtpx/text/tokenizer.hpp>

#include <doctest/doctest.h>

#include <random>
#include <thread>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/tokenizer.hpp");

namespace {

using TokenIds = std::vector<std::int32_t>;

/// Bytes, "he", "ll", "hell", " w", and three added tokens.
TokenizerParts small_parts() {
  TokenizerParts parts = Tokenizer().parts();
  parts.tokens.insert(parts.tokens.end(), {"he", "ll", "hell", " w"});
  parts.merges = {{'h', 'e'}, {'l', 'l'}, {256, 257}, {' ', 'w'}};
  Split own;
  own.pattern = own_pattern;
  own.find = OwnPieces::find;
  parts.splits = {own};
  parts.added = {{300, "<s>", true, false}, {301, "<s>>", false, false}, {302, "<tool>", false, true}};
  return parts;
}

std::string parts_error(const TokenizerParts& parts) {
  try {
    const Tokenizer tokenizer(parts);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("Tokenizer: bytes") {
  const Tokenizer bytes;
  CHECK(bytes.is_bytes());
  CHECK(bytes.size() == 256);
  CHECK(bytes.encode("a\xff\n") == TokenIds{'a', 255, '\n'});
  CHECK(bytes.text(255) == "\xff");
  CHECK(bytes.fingerprint() == Tokenizer().fingerprint());
  CHECK(!Tokenizer(small_parts()).is_bytes());
}

TEST_CASE("Tokenizer: merges, and added tokens that are special only when asked") {
  const Tokenizer tokenizer(small_parts());
  CHECK(tokenizer.size() == 303);
  CHECK(tokenizer.encode("hello world") == TokenIds{258, 'o', 259, 'o', 'r', 'l', 'd'});
  CHECK(tokenizer.encode("a<s>b") == TokenIds{'a', '<', 's', '>', 'b'});
  CHECK(tokenizer.encode("a<s>b", true) == TokenIds{'a', 300, 'b'});
  CHECK(tokenizer.encode("<tool>he<tool>") == TokenIds{302, 256, 302});
  CHECK(tokenizer.encode("<s>>", true) == TokenIds{301});  // the longest one
  CHECK(tokenizer.encode("<s>>", false) == TokenIds{301});
  CHECK(tokenizer.encode("<s<s>", true) == TokenIds{'<', 's', 300});
  CHECK(tokenizer.encode("<tool", true) == TokenIds{'<', 't', 'o', 'o', 'l'});
  CHECK(tokenizer.encode("", true).empty());
  CHECK(tokenizer.decode(TokenIds{258, 'o', 300, 260, 302}) == "hello<s><tool>");  // 260 has no text
  CHECK(tokenizer.added("<s>")->id == 300);
  CHECK(tokenizer.added("<x>") == nullptr);
}

TEST_CASE("Tokenizer: an id outside is refused") {
  const Tokenizer tokenizer(small_parts());
  for (const std::int32_t id : {-1, 303}) {
    std::string text;
    try {
      (void)tokenizer.decode(TokenIds{id});
    } catch (const NumericError& error) {
      text = error.what();
    }
    CHECK(text == cat("[tokenizer] the id ", id, " is outside: ids are 0 ... 302"));
  }
}

TEST_CASE("Tokenizer: form C before everything but raw added tokens") {
  TokenizerParts parts = small_parts();
  parts.nfc = true;
  parts.added.push_back({303, "e\u0301>", false, true});
  parts.added.push_back({304, "e\u0301<", false, false});
  const Tokenizer tokenizer(parts);
  CHECK(tokenizer.decode(tokenizer.encode("o\u0301\xff"
                                          "o\u0301")) == "\u00f3\xff\u00f3");
  CHECK(tokenizer.encode("e\u0301>") == TokenIds{303});
  CHECK(tokenizer.encode("\u00e9>") == TokenIds{303});
  CHECK(tokenizer.encode("e\u0301<") == TokenIds{304});
  CHECK(tokenizer.encode("\u00e9<").size() == 3);
}

TEST_CASE("Tokenizer: random bytes come back, broken UTF-8 and added tokens among them") {
  const Tokenizer own(small_parts());
  TokenizerParts parts = small_parts();
  parts.splits[0].pattern = " ";  // read as UTF-8, in parts
  parts.splits[0].literal = true;
  const Tokenizer other(parts);
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (std::size_t n = random() % 40; n > 0; --n) {
      if (random() % 3 == 0) text += static_cast<char>(random());
      static const char* const bits[] = {"hello", " w", "<s>", "<tool>", "\u00e9", "\xe2\x82", "\n"};
      text += bits[random() % std::size(bits)];
    }
    for (const bool special : {false, true}) {
      REQUIRE(own.decode(own.encode(text, special)) == text);
      REQUIRE(other.decode(other.encode(text, special)) == text);
    }
  }
}

TEST_CASE("Tokenizer: the fingerprint knows whatever decides ids") {
  const std::uint64_t first = Tokenizer(small_parts()).fingerprint();
  CHECK(Tokenizer(small_parts()).fingerprint() == first);
  const auto changed = [&](const auto& change) {
    TokenizerParts parts = small_parts();
    change(parts);
    return Tokenizer(parts).fingerprint() != first;
  };
  CHECK(changed([](TokenizerParts& parts) { std::swap(parts.merges[0], parts.merges[1]); }));
  CHECK(changed([](TokenizerParts& parts) { parts.tokens.emplace_back("xy"); }));
  CHECK(changed([](TokenizerParts& parts) { parts.added[0].content = "<S>"; }));
  CHECK(changed([](TokenizerParts& parts) { parts.added[0].special = false; }));
  CHECK(changed([](TokenizerParts& parts) { parts.added[0].normalized = true; }));
  CHECK(changed([](TokenizerParts& parts) { parts.splits[0].drop_rest = true; }));
  CHECK(changed([](TokenizerParts& parts) { parts.splits.clear(); }));
  CHECK(changed([](TokenizerParts& parts) { parts.whole_first = true; }));
  CHECK(changed([](TokenizerParts& parts) { parts.nfc = true; }));
  CHECK(changed([](TokenizerParts& parts) { parts.others[299] = "\u65e5"; }));
}

TEST_CASE("Tokenizer: threads share it, and a thread may take turns with several") {
  const Tokenizer tokenizer(small_parts()), bytes_in_words([] {
    TokenizerParts parts = small_parts();
    parts.merges.clear();
    return parts;
  }());
  std::vector<TokenIds> ids(4);
  std::vector<std::thread> threads;
  for (TokenIds& mine : ids) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        mine = tokenizer.encode("hello world");
        if (bytes_in_words.encode("hello world").size() != 11) mine.clear();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const TokenIds& mine : ids) CHECK(mine == TokenIds{258, 'o', 259, 'o', 'r', 'l', 'd'});
}

TEST_CASE("Tokenizer: parts that do not fit are refused") {
  TokenizerParts parts = small_parts();
  parts.added.push_back({256, "<x>", true, false});
  CHECK(parts_error(parts) == "[tokenizer] added token 256 has the id of another");
  parts.added.back().id = -1;
  CHECK(parts_error(parts) == "[tokenizer] added token -1 needs an id of 0 ... 1048575 and a text");
  parts.added.back() = {400, "", true, false};
  CHECK(parts_error(parts) == "[tokenizer] added token 400 needs an id of 0 ... 1048575 and a text");
  parts.added.pop_back();
  parts.others[256] = "\u65e5";
  CHECK(parts_error(parts) == "[tokenizer] token 256 has the id of another");
  parts.others.clear();
  parts.splits[0].find = nullptr;
  CHECK(parts_error(parts) == "[tokenizer] a split has nothing that finds its pattern");
}

TEST_CASE("TokenStream: half a character is held back, what is none becomes U+FFFD") {
  TokenStream stream{Tokenizer()};
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xe2) == "");
  CHECK(stream.push(0x82) == "");
  CHECK(stream.push(0xac) == "\u20ac");
  CHECK(stream.push(0xe2) == "");
  CHECK(stream.push('b') ==
        "\ufffd"
        "b");
  CHECK(stream.push(0xc3) == "");
  CHECK(stream.finish() == "\ufffd");
  CHECK(stream.finish() == "");
  CHECK_THROWS_AS(stream.push(256), NumericError);
}

TEST_SUITE_END();
