#include <mtpx/text/pattern.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/pattern.hpp");

namespace {
std::string pattern_error(const std::string& pattern) {
  try {
    to_pcre2(pattern);
  } catch (const ConfigError& error) {
    const std::string head = "[tokenizer] the pattern " + pattern + ' ';
    REQUIRE(std::string(error.what()).starts_with(head));
    return std::string(error.what()).substr(head.size());
  }
  return "";
}
}  // namespace

TEST_CASE("to_pcre2: what the two read alike is kept") {
  CHECK(to_pcre2("ab|c") == R"(\x{61}\x{62}|\x{63})");
  CHECK(to_pcre2("a?b*?c++d{1,3}") == R"(\x{61}?\x{62}*?\x{63}++\x{64}{1,3})");
  CHECK(to_pcre2(R"(\p{N}{1,3}|[^\r\n\p{L}]?)").starts_with(R"(\p{N)"));
  CHECK(to_pcre2("(?i:'s|'t|'re)") == "(?i:'s|'t|'re)");
  CHECK(to_pcre2("'(?i:[sdmt]|ll|ve|re)") == R"(\x{27}(?i:[sdmt]|ll|ve|re))");
  CHECK(to_pcre2("(a)(?:b)(?=c)(?!d)") == R"((?:\x{61})(?:\x{62})(?=\x{63})(?!\x{64}))");
  CHECK(to_pcre2("[a-c\\-\\]-]") == R"([\x{61}-\x{63}\x{2d}\x{5d}\x{2d}])");
  CHECK(to_pcre2("\\x{4e00}\\x41\\u4e01\u4e02") == R"(\x{4e00}\x{41}\x{4e01}\x{4e02})");
}

TEST_CASE("to_pcre2: what they read differently is written out") {
  // PCRE2's \s has U+180E.
  CHECK(
      to_pcre2("\\s+") ==
      R"([\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+)");
  CHECK(to_pcre2("\\v") == R"(\x{b})");           // a class of its own in PCRE2
  CHECK(to_pcre2("a$") == R"(\x{61}(?=\n|\z))");  // the end of any line
  CHECK(to_pcre2("[ab&&[^b]]*") == R"((?:(?![\x{62}])[\x{61}\x{62}])*)");
}

TEST_CASE("to_pcre2: the rest is refused by name") {
  CHECK(pattern_error(".") == "has ., which is not supported here (at byte 0)");
  CHECK(pattern_error("^a") == "has ^, which is not supported here (at byte 0)");
  CHECK(pattern_error("\\w") == "has \\w, which is not supported (at byte 1)");
  CHECK(pattern_error("(a)\\1") == "has \\1, which is not supported (at byte 4)");
  CHECK(pattern_error("(?<=a)b") == "has a group of a kind that is not supported (at byte 0)");
  CHECK(pattern_error("[[:alpha:]]") == "has a [ inside a class, which is not supported (at byte 1)");
  CHECK(pattern_error("\\p{Klingon}") == "has \\p of a property that is not supported (at byte 2)");
  CHECK(pattern_error("(?i:ss)") == "has (?i: around what is not supported there (at byte 6)");
  CHECK(pattern_error("(?i:\u00e9)") == "has (?i: around what is not supported there (at byte 5)");
  CHECK(pattern_error("\\x80") == "has a number of a character that is not supported (at byte 4)");
  CHECK(pattern_error("a**") == "repeats a repetition (at byte 2)");
  CHECK(pattern_error("a{2}+") == "repeats a repetition (at byte 4)");
  CHECK(pattern_error("(?!a)*") == "repeats what has no width (at byte 5)");
  CHECK(pattern_error("a{,2}") == "has a { that is no count below 1000 (at byte 2)");
  CHECK(pattern_error("(a") == "has a ( that nothing closes (at byte 2)");
  CHECK(pattern_error("a)") == "has a ) that closes nothing (at byte 1)");
  CHECK(pattern_error("[a") == "has a [ that nothing closes (at byte 2)");
  CHECK(pattern_error("[]a]") == "has an empty class (at byte 1)");
  CHECK(pattern_error("[b-a]") == "has a range that is none (at byte 4)");
  CHECK(pattern_error("\\") == "ends with a backslash (at byte 1)");
  CHECK(pattern_error(std::string(100, '(')) == "is nested too deeply (at byte 21)");
}

TEST_SUITE_END();
