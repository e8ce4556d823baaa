#pragma once
// The keys of a configuration file, each asked for once.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/io/json.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mtpx::detail {

/// Takes keys out of an object one by one and notes what is wrong with them; what is left was not asked for.
class KeyReader {
 public:
  KeyReader(Json object, std::string prefix, std::vector<std::string>& problems)
      : rest_(std::move(object)), prefix_(std::move(prefix)), problems_(problems) {}

  Json& rest() { return rest_; }

  /// The value of `key`; nothing if it is absent.
  std::optional<Json> take(const char* key) {
    const auto place = rest_.find(key);
    if (place == rest_.end()) return std::nullopt;
    Json value = std::move(*place);
    rest_.erase(place);
    return value;
  }

  bool read(const char* key, Index& into, bool needed) {
    return read_if(key, needed, "a whole number from 0 to 9223372036854775807", [&](const Json& value) {
      constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) return false;
      into = value.get<Index>();
      return true;
    });
  }
  bool read(const char* key, double& into, bool needed) {
    return read_if(key, needed, "a number", [&](const Json& value) {
      if (value.is_number()) into = value.get<double>();
      return value.is_number();
    });
  }
  bool read(const char* key, bool& into, bool needed) {
    return read_if(key, needed, "true or false", [&](const Json& value) {
      if (value.is_boolean()) into = value.get<bool>();
      return value.is_boolean();
    });
  }

  /// Like read, but null is a value too: it stands for `none`.
  void read_or_null(const char* key, Index& into, Index none, bool needed) {
    const auto place = rest_.find(key);
    if (place == rest_.end() || !place->is_null()) {
      read(key, into, needed);
      return;
    }
    rest_.erase(place);
    into = none;
  }

  /// A list of whole numbers; an absent one is empty.
  void read_list(const char* key, std::vector<Index>& into) {
    const std::optional<Json> list = take(key);
    if (list && !numbers(*list, into)) note(key, *list, "must be a list of whole numbers");
  }

  /// A token, or several in a list; null and absence stand for none.
  void read_tokens(const char* key, Index& first, std::vector<Index>& others) {
    const auto place = rest_.find(key);
    if (place == rest_.end() || !place->is_array()) return read_or_null(key, first, -1, false);
    const Json list = *take(key);
    std::vector<Index> all;
    if (!numbers(list, all)) return note(key, list, "must be a whole number or a list of them");
    first = all.empty() ? -1 : all[0];
    if (!all.empty()) others.assign(all.begin() + 1, all.end());
  }

  /// A key that may be absent, and otherwise must have this one value; it is kept.
  void expect(const char* key, const Json& only) {
    const auto place = rest_.find(key);
    if (place != rest_.end() && *place != only) note(key, *place, cat("only ", only.dump(), " is supported"));
  }

  /// A key that may be absent, and otherwise has one of the named values.
  template <typename Choice>
  void read_choice(const char* key, Choice& into,
                   const std::vector<std::pair<const char*, Choice>>& choices) {
    const std::optional<Json> value = take(key);
    if (!value) return;
    std::string known;
    for (const auto& [name, choice] : choices) {
      if (*value == name) {
        into = choice;
        return;
      }
      known += cat(known.empty() ? "" : " and ", quote(name));
    }
    note(key, *value, cat("only ", known, " are supported"));
  }

  /// A key that may be absent, and otherwise must have this one value.
  void demand(const char* key, const Json& only) {
    const std::optional<Json> value = take(key);
    if (value && *value != only) note(key, *value, cat("only ", only.dump(), " is supported"));
  }

  void note(const char* key, const Json& value, const std::string& rule) {
    problems_.push_back(cat(prefix_, key, " = ", json_text(value), ": ", rule));
  }
  void note_missing(const char* key) { problems_.push_back(cat(prefix_, key, " is missing")); }

 private:
  /// Appends the numbers of a list. False where it is none, or one of them is not whole or has not 31 bits.
  static bool numbers(const Json& list, std::vector<Index>& to) {
    if (!list.is_array()) return false;
    for (const Json& one : list) {
      if (!one.is_number_unsigned() || one > std::numeric_limits<std::int32_t>::max()) return false;
      to.push_back(one.get<Index>());
    }
    return true;
  }

  template <typename Accept>
  bool read_if(const char* key, bool needed, const char* kind, Accept&& accept) {
    const std::optional<Json> value = take(key);
    if (!value) {
      if (needed) note_missing(key);
      return false;
    }
    if (!accept(*value)) note(key, *value, cat("must be ", kind));
    return true;
  }

  Json rest_;
  std::string prefix_;
  std::vector<std::string>& problems_;
};

}  // namespace mtpx::detail
