#include <mtpx/io/stop_text.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/io/stop_text.hpp");

namespace {

/// What comes out of `text`, pushed in pieces of `size`.
std::string through(const std::vector<std::string>& stops, const std::string& text, std::size_t size) {
  StopText stop(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += size) {
    out += stop.push(text.substr(i, size));
    for (const std::string& s : stops) CHECK(out.find(s) == std::string::npos);
  }
  if (!stop.found()) out += stop.finish();
  return out;
}

}  // namespace

TEST_CASE("StopText: the text before the first of the strings, however it arrives") {
  for (std::size_t size = 1; size <= 12; ++size) {
    CHECK(through({}, "hello world", size) == "hello world");
    CHECK(through({"world"}, "hello world", size) == "hello ");
    CHECK(through({"xyz"}, "hello xy", size) == "hello xy");
    CHECK(through({"aab"}, "aaaab", size) == "aa");
    CHECK(through({"\n\n"}, "a\nb\n\nc", size) == "a\nb");
    CHECK(through({"lo w", "ll"}, "hello world", size) == "he");
    CHECK(through({"h"}, "hello", size) == "");
  }
}

TEST_CASE("StopText: text streams as soon as it is certain") {
  StopText stop({"END"});
  CHECK(stop.push("abc") == "abc");
  CHECK(stop.push("E") == "");
  CHECK(stop.push("x") == "Ex");
  CHECK(stop.push("EN") == "");
  CHECK_FALSE(stop.found());
  CHECK(stop.push("Dy") == "");
  CHECK(stop.found());
  CHECK(stop.push("more") == "");
}

TEST_SUITE_END();
