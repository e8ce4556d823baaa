#include <mtpx/text/nfc.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/nfc.hpp");

TEST_CASE("nfc: composes, orders marks, leaves the rest") {
  CHECK(nfc("plain \u00e9\n") == "plain \u00e9\n");
  CHECK(nfc("e\u0301") == "\u00e9");
  CHECK(nfc("a\u0301\u0323") == "\u1ea1\u0301");                         // the mark below comes first
  CHECK(nfc("\u00e9\u0323") == "\u1eb9\u0301");                          // a composed letter opens up
  CHECK(nfc("x\u0301") == "x\u0301");                                    // nothing to become
  CHECK(nfc("\u212b\u2126") == "\u00c5\u03a9");                          // Angstrom and Ohm are letters
  CHECK(nfc("\u0958") == "\u0915\u093c");                                // excluded from composition
  CHECK(nfc("\uf900\U0002f800") == "\u8c48\u4e3d");                      // compatibility ideographs
  CHECK(nfc("\u1112\u1161\u11ab\u1100\u1173\u11af") == "\ud55c\uae00");  // Hangul
  CHECK(nfc("\u0301\u0301a") == "\u0301\u0301a");                        // marks without a letter
  CHECK(nfc("a\u08d3\u0301") == "a\u08d3\u0301");  // of Unicode 11, no mark for Hugging Face
  CHECK(nfc("").empty());
}

TEST_CASE("nfc: all characters, alone and among marks, as Hugging Face's library has them") {
  // Hashes (FNV-1a) of what tokenizers 0.23 made of the same texts.
  std::uint64_t alone = 0xcbf29ce484222325, among = alone;
  const auto mix = [](std::uint64_t& hash, const std::string& text) {
    for (const char c : text + '\n') hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  };
  bool again = true;
  for (char32_t code = 0x80; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string one;
    detail::append_utf8(code, one);
    mix(alone, nfc(one));
    mix(among, nfc("a" + one + "\u0301\u0323" + one));
    again = again && nfc(nfc(one)) == nfc(one);
  }
  CHECK(again);
  CHECK(alone == 0xa15de4a2fc9214e9);
  CHECK(among == 0xbdc591757174239c);
}

TEST_SUITE_END();
