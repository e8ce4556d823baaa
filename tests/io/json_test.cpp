#include <mtpx/io/json.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

using namespace mtpx;

namespace {
std::string error(std::string_view text) {
  try {
    parse_json("test", text, "f.json");
  } catch (const FileError& failure) {
    return failure.what();
  }
  return "";
}

std::string repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}
}  // namespace

TEST_CASE("json: keys keep their order") {
  const Json json = parse_json("test", R"({"b": 1, "a": {"z": [1, 2], "b": null}})", "f.json");
  CHECK(json.dump() == R"({"b":1,"a":{"z":[1,2],"b":null}})");
}

TEST_CASE("json: text that is not JSON is refused with the byte") {
  CHECK(error("") == "[test] f.json: is not JSON at byte 1");
  CHECK(error("{\"a\": 1") == "[test] f.json: is not JSON at byte 8");
  CHECK(error("{} x") == "[test] f.json: is not JSON at byte 4");
  CHECK(error("{\"a\": NaN}") == "[test] f.json: is not JSON at byte 7");
  CHECK(error(std::string_view("{}\0", 3)) == "[test] f.json: is not JSON at byte 3");
}

TEST_CASE("json: a key that stands twice is refused, in nested objects too") {
  CHECK(error(R"({"a": 1, "a": 1})") == "[test] f.json: the key \"a\" stands twice");
  CHECK(error(R"({"b": {"a": 1, "\u0061": 2}})") == "[test] f.json: the key \"a\" stands twice");
  CHECK(error(R"({"a": {"a": [{"a": 1}, {"a": 1}]}})").empty());
}

TEST_CASE("json: nesting, size of numbers and number of values are bounded") {
  CHECK(error(repeat("[", 32) + repeat("]", 32)).empty());
  CHECK(error(repeat("[", 33) + repeat("]", 33)) == "[test] f.json: is nested deeper than 32");
  CHECK(error(repeat("[", 1000000)) == "[test] f.json: is nested deeper than 32");
  CHECK(error(repeat("{\"a\":", 1000000)) == "[test] f.json: is nested deeper than 32");
  CHECK(error("[1e999]") == "[test] f.json: holds a number beyond the range of a double");
  CHECK(error("[" + repeat("1,", 20000) + "1]") == "[test] f.json: holds more than 20000 keys and values");
}

TEST_CASE("json: only UTF-8 is text") {
  using detail::utf8_prefix;
  for (const char* good : {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf",
                           "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "M\xc3\xbcller \xf0\x9f\x8c\x8d"}) {
    CHECK(utf8_prefix(good) == std::string_view(good).size());
  }
  for (const char* bad :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2z", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xef\xbf",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    CHECK(utf8_prefix(bad) == 0);
    CHECK(utf8_prefix(std::string("ab") + bad) == 2);
  }
  CHECK(error("{\"\xff\": 1}") == "[test] f.json: is not UTF-8 at byte 2");
}

TEST_CASE("json: names in error texts are quoted, escaped and clipped") {
  CHECK(detail::quote("a\nb\"c") == "\"a\\nb\\\"c\"");
  CHECK(detail::quote(std::string("a\0b", 3)) == "\"a\\u0000b\"");
  CHECK(detail::quote(std::string(10000, 'x')) == "\"" + std::string(80, 'x') + "\"...");
  // Never half a character.
  CHECK(detail::quote(std::string(79, 'x') + "\xc3\xbc and more") == "\"" + std::string(79, 'x') + "\"...");
  CHECK(detail::quote("\xff") == "\"\xef\xbf\xbd\"");
}

TEST_CASE("json: where two values differ, field by field") {
  const Json before = {{"lr", 0.1}, {"model", {{"layers", 2}, {"width", 8}}}, {"gone", "x"}};
  const Json now = {{"lr", 0.2}, {"model", {{"layers", 3}, {"width", 8}}}, {"new", {{"a", 1}}}};
  CHECK(json_differences_text(before, now) ==
        "\n  lr: 0.1 then, 0.2 now\n  model.layers: 2 then, 3 now\n  gone: \"x\" then, absent now\n  new.a: "
        "absent "
        "then, 1 now");
  CHECK(json_differences_text(before, now, {"lr", "model", "new.a"}) == "\n  gone: \"x\" then, absent now");
  CHECK(json_differences(before, before).empty());
  const Json other = {{"gone", "x"}, {"model", {{"width", 8.0}, {"layers", 2}}}, {"lr", 0.1}};
  CHECK(json_differences(before, other).empty());
}
