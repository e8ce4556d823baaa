#pragma once
// JSON that came from outside: bounded depth, no key twice, errors with a place; and where two of them
// differ.

#include <mtpx/core/error.hpp>
#include <mtpx/text/utf8.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

/// A JSON value that keeps the order of its keys.
using Json = nlohmann::ordered_json;

namespace detail {
/// A name or value from a file as an error text shows it: in quotes, control characters escaped, 80 bytes at
/// most.
inline std::string quote(std::string_view text) {
  constexpr std::size_t limit = 80;
  const bool clipped = text.size() > limit;
  std::size_t end = clipped ? limit : text.size();
  while (clipped && end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U)
    --end;  // whole characters
  const Json shown(std::string(text.substr(0, end)));
  return shown.dump(-1, ' ', false, Json::error_handler_t::replace) + (clipped ? "..." : "");
}

/// A JSON value as an error text shows it: on one line, 80 bytes at most. Nested values only by their kind.
template <typename Value>
std::string json_text(const Value& value) {
  if (value.is_string()) return quote(value.template get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return value.dump();
}

/// Tells reader what stands in JSON text, in order. A template, as a parser is much to compile for each file
/// that reads one, so that a library can hold it (io/instances.hpp).
template <typename Value>
void read_events(std::string_view text, nlohmann::json_sax<Value>& reader) {
  Value::sax_parse(text.begin(), text.end(), &reader);
}
}  // namespace detail

/// Parses JSON text. `file` names it in errors, which begin with "[op] file: ". Throws FileError for text
/// that is not UTF-8 or not JSON, for a key that stands twice in one object, for nesting deeper than 32 and
/// for more than `max_values` keys and values.
///
/// Value is Json, whose objects keep their order and look keys up one by one (the bound keeps hostile text
/// from taking minutes), or nlohmann::json, which sorts them and has no such trouble.
template <typename Value = Json>
Value parse_json(std::string_view op, std::string_view text, const std::string& file,
                 std::size_t max_values = 20000) {
  const auto fail = [&](const std::string& cause) { throw FileError(cat('[', op, "] ", file, ": ", cause)); };
  const std::size_t sound = detail::utf8_prefix(text);
  if (sound != text.size()) fail(cat("is not UTF-8 at byte ", sound));
  // The parser takes a zero byte for the end of the text and would not see what follows.
  const std::size_t zero = text.find('\0');
  if (zero != std::string_view::npos) fail(cat("is not JSON at byte ", zero + 1));
  constexpr int max_depth = 32;
  std::size_t values = 0;
  std::vector<std::set<std::string>> open;  // the keys of every object around the current place
  const auto watch = [&](int depth, typename Value::parse_event_t event, Value& parsed) {
    using Event = typename Value::parse_event_t;
    if (++values > max_values) fail(cat("holds more than ", max_values, " keys and values"));
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth) fail(cat("is nested deeper than ", max_depth));
    }
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(parsed.template get<std::string>()).second) {
      fail(cat("the key ", detail::quote(parsed.template get<std::string>()), " stands twice"));
    }
    return true;
  };
  try {
    return Value::parse(text.begin(), text.end(), watch);
  } catch (const typename Value::parse_error& error) {
    fail(cat("is not JSON at byte ", error.byte));
  } catch (const typename Value::out_of_range&) {
    fail("holds a number beyond the range of a double");
  }
  return {};
}

/// A value that is not the same in two JSON texts, as a person names it.
struct JsonDifference {
  std::string field;   ///< keys joined by dots
  std::string before;  ///< its JSON, or "absent"
  std::string now;     ///< the same of the other
};

/// Where two values differ, field by field, in the order of `before`. How keys are ordered and numbers
/// written makes no difference.
inline std::vector<JsonDifference> json_differences(const Json& before, const Json& now) {
  std::vector<JsonDifference> all;
  const auto text = [](const Json* value) {
    return value == nullptr ? std::string("absent") : value->dump();
  };
  const std::function<void(const std::string&, const Json*, const Json*)> compare =
      [&](const std::string& field, const Json* a, const Json* b) {
        if (a != nullptr && b != nullptr && *a == *b) return;
        if ((a == nullptr || !a->is_object()) && (b == nullptr || !b->is_object())) {
          all.push_back({field, text(a), text(b)});
          return;
        }
        const auto inner = [&](const std::string& key) { return field.empty() ? key : cat(field, '.', key); };
        const auto find = [](const Json* in, const std::string& key) {
          return in != nullptr && in->is_object() && in->contains(key) ? &(*in)[key] : nullptr;
        };
        if (a != nullptr && a->is_object()) {
          for (const auto& [key, value] : a->items()) compare(inner(key), &value, find(b, key));
        }
        if (b != nullptr && b->is_object()) {
          for (const auto& [key, value] : b->items()) {
            if (find(a, key) == nullptr) compare(inner(key), nullptr, &value);
          }
        }
      };
  compare("", &before, &now);
  return all;
}

/// Where they differ, as lines of an error text: "\n  lr: 0.01 then, 0.02 now". Empty where they do not, but
/// in fields that `overrides` names, or what they are in.
inline std::string json_differences_text(const Json& before, const Json& now,
                                         const std::vector<std::string>& overrides = {}) {
  std::string text;
  for (const JsonDifference& d : json_differences(before, now)) {
    const bool meant = std::any_of(overrides.begin(), overrides.end(), [&](const std::string& field) {
      return d.field == field || d.field.starts_with(field + '.');
    });
    if (!meant) text += cat("\n  ", d.field, ": ", d.before, " then, ", d.now, " now");
  }
  return text;
}

/// What a library can hold of this, as in io/instances.hpp.
#define MTPX_JSON(HOW)                                                          \
  HOW template decltype(parse_json<Json>) parse_json<Json>;                     \
  HOW template decltype(parse_json<nlohmann::json>) parse_json<nlohmann::json>; \
  HOW template decltype(detail::read_events<nlohmann::json>) detail::read_events<nlohmann::json>;

#ifdef MTPX_COMPILED_IO
MTPX_JSON(extern)
#endif

}  // namespace mtpx
