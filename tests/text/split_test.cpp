#include <mtpx/text/split.hpp>
#ifdef MTPX_PCRE2
#include <mtpx/text/pcre2.hpp>
#endif

#include <doctest/doctest.h>

#include <random>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/split.hpp");

namespace {

std::string code_points(std::initializer_list<unsigned> codes) {
  std::string out;
  for (const unsigned code : codes) {
    const auto byte = [&](unsigned value) { out += static_cast<char>(value); };
    if (code < 0x80) {
      byte(code);
    } else if (code < 0x800) {
      byte(0xC0 | code >> 6), byte(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      byte(0xE0 | code >> 12), byte(0x80 | (code >> 6 & 0x3F)), byte(0x80 | (code & 0x3F));
    } else {
      byte(0xF0 | code >> 18), byte(0x80 | (code >> 12 & 0x3F)), byte(0x80 | (code >> 6 & 0x3F)),
          byte(0x80 | (code & 0x3F));
    }
  }
  return out;
}

std::vector<std::string> own_pieces(const std::string& text) {
  std::vector<Match> matches;
  OwnPieces::find(text, matches);
  std::vector<std::string> pieces;
  for (const Match& match : matches) pieces.push_back(text.substr(match.begin, match.end - match.begin));
  return pieces;
}

/// A random text of characters that the pattern tells apart, and of others.
std::string random_characters(std::mt19937& random, std::size_t count) {
  static constexpr unsigned edges[] = {
      ' ',    ' ',    '\n',   '\n',   '\r',   '\t',   '\v',   '\f',    0,      8,      0x0e,   0x1f,
      '!',    '\'',   '/',    '0',    '9',    ':',    '@',    'A',     'Z',    '[',    '`',    'a',
      'z',    '{',    0x7f,   0x80,   0x85,   0xa0,   0xbf,   0xc0,    0xe9,   0x1fff, 0x2000, 0x2019,
      0x2028, 0x206f, 0x2070, 0x2fff, 0x3000, 0x3001, 0x303f, 0x3040,  0x4e2d, 0xfeff, 0xff00, 0xff0c,
      0xff0f, 0xff10, 0xff19, 0xff1a, 0xff20, 0xff21, 0xffff, 0x10000, 0x1f600};
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    unsigned code = edges[random() % std::size(edges)];
    if (random() % 8 == 0) code = static_cast<unsigned>(random() % 0x110000);
    if (code >= 0xd800 && code < 0xe000) code = 'x';
    out += code_points({code});
  }
  return out;
}

std::vector<std::string> through_splits(const std::string& text, const std::vector<Split>& splits) {
  std::vector<std::vector<Match>> scratch(splits.size());
  std::vector<std::string> pieces;
  detail::split_text(text, splits, 0, scratch, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

}  // namespace

TEST_CASE("OwnPieces: words, numbers, signs, blanks") {
  using Pieces = std::vector<std::string>;
  CHECK(own_pieces("Hello world, it's 12345 o'clock!") ==
        Pieces{"Hello", " world", ",", " it", "'s", " ", "123", "45", " o", "'clock", "!"});
  CHECK(own_pieces("a  b\n\n  c \n\td\n") == Pieces{"a", " ", " b", "\n\n", " ", " c", " \n", "\td", "\n"});
  CHECK(own_pieces("x = {};\n\ny") == Pieces{"x", " =", " {};\n\n", "y"});
  CHECK(own_pieces("   ") == Pieces{"   "});
  CHECK(own_pieces("") == Pieces{});
  CHECK(own_pieces("caf\u00e9 \u201cna\u00efve\u201d \u4f60\u597d\uff0c\u4e16\u754c") ==
        Pieces{"caf\u00e9", " \u201c", "na\u00efve", "\u201d", " \u4f60\u597d", "\uff0c\u4e16\u754c"});
}

TEST_CASE("OwnPieces: any bytes are covered, without gaps") {
  std::mt19937 random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 60, '\0');
    for (char& c : text)
      c = random() % 2 == 0 ? "\xc2\xe2\xe3\xef\x80\xbc a\n1!"[random() % 11] : static_cast<char>(random());
    std::string all;
    for (const std::string& piece : own_pieces(text)) {
      REQUIRE(!piece.empty());
      all += piece;
    }
    REQUIRE(all == text);
  }
}

TEST_CASE("OwnPieces::cut: the pieces of two parts are those of the whole") {
  std::mt19937 random(3);
  int cuts = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string text = random_characters(random, 40);
    const std::size_t at = OwnPieces::cut(text, random() % (text.size() + 1));
    REQUIRE(at <= text.size());
    if (at == text.size()) continue;
    ++cuts;
    std::vector<std::string> parts = own_pieces(text.substr(0, at));
    for (const std::string& piece : own_pieces(text.substr(at))) parts.push_back(piece);
    REQUIRE(parts == own_pieces(text));
  }
  CHECK(cuts > 500);
}

TEST_CASE("split_text: matches and what stands between, kept or dropped") {
  using Pieces = std::vector<std::string>;
  Split comma;
  comma.pattern = ", ";
  comma.literal = true;
  const std::string text = "a, bc, , d";
  CHECK(through_splits(text, {comma}) == Pieces{"a", ", ", "bc", ", ", ", ", "d"});
  comma.drop_matches = true;
  CHECK(through_splits(text, {comma}) == Pieces{"a", "bc", "d"});
  comma.drop_matches = false;
  comma.drop_rest = true;
  CHECK(through_splits(text, {comma}) == Pieces{", ", ", ", ", "});
  Split own;
  own.pattern = own_pattern;
  own.find = OwnPieces::find;
  comma.drop_rest = false;
  CHECK(through_splits(text, {comma, own}) == Pieces{"a", ",", " ", "bc", ",", " ", ",", " ", "d"});
  CHECK(through_splits(text, {}) == Pieces{text});
}

#ifdef MTPX_PCRE2
TEST_CASE("OwnPieces: what PCRE2 finds with own_pattern, over all characters and random texts") {
  const FindMatches pattern = pcre2_matches(std::string(own_pattern));
  std::mt19937 random(4);
  const auto same = [&](const std::string& text) {
    std::vector<Match> by_hand, by_pattern;
    OwnPieces::find(text, by_hand);
    pattern(text, by_pattern);
    return by_hand == by_pattern;
  };
  int wrong = 0;
  for (int i = 0; i < 20000; ++i) wrong += !same(random_characters(random, 1 + random() % 60));
  for (unsigned code = 0; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    wrong += !same(code_points({code, 'a', ' ', code, '!', code, code, '\n', code, '1', code}));
  }
  CHECK(wrong == 0);
}

TEST_CASE("pcre2_matches: empty matches as Oniguruma's iterator gives them") {
  std::vector<Match> matches;
  pcre2_matches("a*")("baa\u00e9", matches);
  CHECK(matches == std::vector<Match>{{0, 0}, {1, 3}, {5, 5}});
}

TEST_CASE("pcre2_matches: a text that costs too much is refused, and blanks do not cost much") {
  std::vector<Match> matches;
  const FindMatches bad = pcre2_matches("(?:a+)+b");
  std::string text;
  try {
    bad(std::string(60, 'a') + "cb", matches);
  } catch (const Error& error) {
    text = error.what();
  }
  CHECK(text ==
        "[tokenizer] the pattern (?:a+)+b fails at byte 0 of a text of 62 bytes: match limit exceeded");
  matches.clear();
  pcre2_matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)")(std::string(1U << 20U, ' ') + "x", matches);
  CHECK(matches.size() == 2);
}
#endif

TEST_SUITE_END();
