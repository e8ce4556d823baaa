#include <mtpx/text/utf8.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/utf8.hpp");

namespace {

constexpr const char* replacement = "\xEF\xBF\xBD";

/// A code point's bytes (RFC 3629).
std::string encode(unsigned code) {
  const auto byte = [](unsigned value) { return static_cast<char>(value); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xC0 | code >> 6), byte(0x80 | (code & 0x3F))};
  if (code < 0x10000)
    return {byte(0xE0 | code >> 12), byte(0x80 | (code >> 6 & 0x3F)), byte(0x80 | (code & 0x3F))};
  return {byte(0xF0 | code >> 18), byte(0x80 | (code >> 12 & 0x3F)), byte(0x80 | (code >> 6 & 0x3F)),
          byte(0x80 | (code & 0x3F))};
}

std::string through(const std::string& bytes) {
  Utf8Stream stream;
  std::string out;
  for (const char c : bytes) out += stream.push(static_cast<unsigned char>(c));
  return out + stream.finish();
}

}  // namespace

TEST_CASE("Utf8Stream: every code point comes out whole, with its last byte") {
  Utf8Stream stream;
  int wrong = 0;
  for (unsigned code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;  // surrogates
    const std::string bytes = encode(code);
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      out = stream.push(static_cast<unsigned char>(bytes[i]));
      if (i + 1 < bytes.size() && !out.empty()) ++wrong;
    }
    if (out != bytes) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(stream.finish() == "");
}

TEST_CASE("Utf8Stream: what is no character becomes U+FFFD, and what follows is kept") {
  const std::string r = replacement;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"\x80", r},  // a continuation alone
      {"\xBF\xBF", r + r},
      {"\xC0\x80", r + r},  // longer spellings than needed
      {"\xC1\xBF", r + r},
      {"\xE0\x9F\xBF", r + r + r},
      {"\xF0\x8F\xBF\xBF", r + r + r + r},
      {"\xED\xA0\x80", r + r + r},          // a surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},  // above U+10FFFF
      {"\xF5", r},
      {"\xFF", r},
      {"\xC3z", r + "z"},  // a character that breaks off
      {"\xE2\x82z", r + "z"},
      {"\xE2\xE2\x82\xAC", r + "\xE2\x82\xAC"},
      {"\xF0\x9F\x98\xC3\xA9", r + "\xC3\xA9"},
      {"a\xC3\xA9\x80"
       "b",
       "a\xC3\xA9" + r + "b"}};
  for (const auto& [bytes, want] : cases) CHECK(through(bytes) == want);
}

TEST_CASE("Utf8Stream: what comes out is UTF-8, whatever goes in") {
  int wrong = 0;
  for (unsigned a = 0; a < 256; ++a) {
    for (unsigned b = 0; b < 256; ++b) {
      const std::string out = through({static_cast<char>(a), static_cast<char>(b), '\xA0', 'x'});
      if (!Utf8Stream::valid(out) || out.back() != 'x') ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("Utf8Stream: an incomplete end is flushed once, and the stream goes on afresh") {
  Utf8Stream stream;
  for (const char c : std::string("\xF0\x9F\x98")) CHECK(stream.push(static_cast<unsigned char>(c)) == "");
  CHECK(stream.finish() == replacement);
  CHECK(stream.finish() == "");
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xC3) == "");
  CHECK(stream.push(0xA9) == "\xC3\xA9");
}

TEST_CASE("Utf8Stream::valid") {
  CHECK(Utf8Stream::valid(""));
  CHECK(Utf8Stream::valid("plain"));
  CHECK(Utf8Stream::valid("\xE2\x82\xAC"));
  CHECK(Utf8Stream::valid(replacement));
  CHECK(!Utf8Stream::valid("\xE2\x82"));
  CHECK(!Utf8Stream::valid("\x80"));
  CHECK(!Utf8Stream::valid("\xED\xA0\x80"));
}

TEST_SUITE_END();
