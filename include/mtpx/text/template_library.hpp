#pragma once
// What chat templates may call: Jinja's filters and tests, Python's methods of texts and mappings, as far as
// templates of models use them. What Python has and this has not is a fault that names it.

#include <mtpx/text/template_value.hpp>

#include <ctime>
#include <functional>

namespace mtpx::detail {

inline constexpr std::string_view template_filters =
    " trim tojson length count default d join upper lower capitalize title replace first last list string "
    "int "
    "float abs reverse items map select reject selectattr rejectattr ";
inline constexpr std::string_view template_tests =
    " defined undefined none string mapping iterable sequence number integer float boolean true false odd "
    "even "
    "divisibleby callable in eq equalto == ne != lt lessthan < le <= gt greaterthan > ge >= ";

/// What a call gives to what it calls; each asks for its own, by place or name.
class TemplateArguments {
 public:
  using Values = std::vector<TemplateValue>;

  TemplateArguments() = default;
  TemplateArguments(Values values, std::vector<std::string> names)
      : values_(std::move(values)), names_(std::move(names)), taken_(values_.size(), false) {}

  /// The argument at a place, or with a name; null if it is not there.
  const TemplateValue* find(std::size_t place, std::string_view name) {
    const std::size_t plain = values_.size() - names_.size();
    for (std::size_t i = 0; i < names_.size() && place >= plain; ++i) {
      if (names_[i] == name) place = plain + i;
    }
    if (place >= values_.size() || taken_[place] || (place >= plain && names_[place - plain] != name))
      return nullptr;
    taken_[place] = true;
    return &values_[place];
  }
  /// The same, which must be there.
  const TemplateValue& at(std::size_t place, std::string_view name) {
    const TemplateValue* const found = find(place, name);
    if (found == nullptr) template_fault("the argument '", name, "' is missing");
    return *found;
  }
  const std::string& text(std::size_t place, std::string_view name) {
    const TemplateValue& value = at(place, name);
    if (value.string() == nullptr)
      template_fault("the argument '", name, "' must be a text, not ", value.kind());
    return *value.string();
  }
  Index whole(std::size_t place, std::string_view name, Index otherwise) {
    const TemplateValue* const value = find(place, name);
    if (value == nullptr || value->none()) return otherwise;
    if (!value->whole())
      template_fault("the argument '", name, "' must be a whole number, not ", value->kind());
    return *value->whole();
  }
  bool truth(std::size_t place, std::string_view name, bool otherwise) {
    const TemplateValue* const value = find(place, name);
    return value == nullptr ? otherwise : detail::truth(*value);
  }
  /// Refuses arguments that nobody asked for.
  void all_taken(std::string_view what) const {
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      const std::size_t plain = values_.size() - names_.size();
      if (taken_[i]) continue;
      if (i >= plain) template_fault("'", what, "' with the argument '", names_[i - plain], '\'');
      template_fault("'", what, "' with more than ", i, " arguments");
    }
  }
  const Values& values() const { return values_; }
  const std::vector<std::string>& names() const { return names_; }
  /// Those from `first` on, without names before them.
  TemplateArguments from(std::size_t first) {
    std::fill(taken_.begin(), taken_.end(), true);
    first = std::min(first, values_.size() - names_.size());
    return {Values(values_.begin() + static_cast<std::ptrdiff_t>(first), values_.end()), names_};
  }

 private:
  Values values_;
  std::vector<std::string> names_;  // of the last values
  std::vector<bool> taken_;
};

/// What this language knows of Python's methods, and what Python has besides: those are faults, while other
/// names are no attributes at all.
inline constexpr std::string_view text_methods =
    " strip lstrip rstrip split rsplit startswith endswith replace upper lower title capitalize find count "
    "join "
    "removeprefix removesuffix splitlines ";
inline constexpr std::string_view mapping_methods = " get items keys values ";
inline constexpr std::string_view other_text_methods =
    " casefold center encode expandtabs format format_map index isalnum isalpha isascii isdecimal isdigit "
    "isidentifier islower isnumeric isprintable isspace istitle isupper ljust maketrans partition rfind "
    "rindex rjust "
    "rpartition swapcase translate zfill ";
inline constexpr std::string_view other_mapping_methods =
    " clear copy fromkeys pop popitem setdefault update ";
inline constexpr std::string_view other_list_methods =
    " append clear copy count extend index insert pop remove reverse sort ";

/// Whether Python's object of this kind has a method of this name, known here or not.
inline bool has_method(const TemplateValue& v, std::string_view name) {
  if (v.string() != nullptr) return is_one_of(text_methods, name) || is_one_of(other_text_methods, name);
  if (v.mapping() != nullptr)
    return is_one_of(mapping_methods, name) || is_one_of(other_mapping_methods, name);
  return v.list() != nullptr && is_one_of(other_list_methods, name);
}

/// How many parts split_text() cuts a text into, or a few more.
inline std::size_t most_parts(std::string_view text, const std::string* separator) {
  std::size_t parts = 1;
  if (separator == nullptr) {
    // Beyond ASCII, white space begins with one of these.
    for (const char c : text)
      parts +=
          std::string_view(" \t\n\v\f\r\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3").find(c) != std::string_view::npos
              ? 1
              : 0;
    return parts;
  }
  for (std::size_t at = 0;
       !separator->empty() && (at = find_in(text, *separator, at)) != std::string_view::npos;
       at += separator->size())
    ++parts;
  return parts;
}

inline TemplateValue strings(std::vector<std::string> parts, TemplateWork& work) {
  work.steps(parts.size());
  return TemplateValue::list_of({parts.begin(), parts.end()});
}

/// Items with `between` between them.
template <typename Text>
std::string joined(const TemplateValue::List& items, std::string_view between, TemplateWork& work,
                   const Text& text) {
  std::string out;
  for (std::size_t i = 0; i < items.items.size(); ++i) {
    if (i > 0) out += between;
    out += text(items.items[i]);
    if (out.size() > work.most()) break;
  }
  work.bytes(out.size());
  return out;
}

/// A method of a text.
inline TemplateValue text_method(const std::string& self, std::string_view name, TemplateArguments& given,
                                 TemplateWork& work) {
  const std::string_view text = work.text(self);
  const auto ends = [&](const auto& holds) {
    const TemplateValue& what = given.at(0, "prefix");
    const auto one = [&](const TemplateValue& v) {
      if (v.string() == nullptr) template_fault("'", name, "' of ", v.kind());
      return holds(*v.string());
    };
    if (what.list() == nullptr) return one(what);
    return std::any_of(what.list()->items.begin(), what.list()->items.end(), one);
  };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const TemplateValue* const which = given.find(0, "chars");
    const std::string* const characters = which == nullptr || which->none() ? nullptr : which->string();
    if (characters == nullptr && which != nullptr && !which->none())
      template_fault("'", name, "' of ", which->kind());
    if (characters != nullptr) work.steps(text.size() * characters->size() / 64);
    return strip(text,
                 name == "strip"    ? left_side | right_side
                 : name == "lstrip" ? left_side
                                    : right_side,
                 characters);
  }
  if (name == "split" || name == "rsplit") {
    const TemplateValue* const by = given.find(0, "sep");
    if (by != nullptr && !by->none() && by->string() == nullptr)
      template_fault("'", name, "' by ", by->kind());
    const Index count = given.whole(1, "maxsplit", -1);
    work.steps(most_parts(text, by == nullptr ? nullptr : by->string()));
    return strings(split_text(text, by == nullptr ? nullptr : by->string(), count, name == "rsplit"), work);
  }
  if (name == "startswith") return ends([&](const std::string& with) { return text.starts_with(with); });
  if (name == "endswith") return ends([&](const std::string& with) { return text.ends_with(with); });
  if (name == "replace") {
    const std::string &old = given.text(0, "old"), &by = given.text(1, "new");
    std::string out = replaced(text, old, by, given.whole(2, "count", -1), work.most());
    work.bytes(out.size());
    return out;
  }
  if (name == "upper") return in_case(text, Case::upper);
  if (name == "lower") return in_case(text, Case::lower);
  if (name == "title") return in_case(text, Case::title);
  if (name == "capitalize") return in_case(text, Case::capitalize);
  if (name == "find") {
    const std::size_t found = find_in(text, given.text(0, "sub"));
    return found == std::string_view::npos ? Index{-1} : count_characters(text.substr(0, found));
  }
  if (name == "count") {
    const std::string& part = given.text(0, "sub");
    if (part.empty()) return count_characters(text) + 1;
    Index count = 0;
    for (std::size_t at = 0; (at = find_in(text, part, at)) != std::string_view::npos; at += part.size())
      ++count;
    return count;
  }
  if (name == "join") {
    return joined(items_of(given.at(0, "iterable"), work), text, work, [&](const TemplateValue& item) {
      if (item.string() == nullptr) template_fault("'join' of ", item.kind());
      return *item.string();
    });
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const bool front = name == "removeprefix";
    const std::string& part = given.text(0, "part");
    if (!(front ? text.starts_with(part) : text.ends_with(part))) return text;
    return front ? text.substr(part.size()) : text.substr(0, text.size() - part.size());
  }
  if (name == "splitlines") {
    if (text.find_first_of("\v\f\x1c\x1d\x1e\r") != std::string_view::npos ||
        text.find("\xc2\x85") != std::string_view::npos ||
        text.find("\xe2\x80\xa8") != std::string_view::npos ||
        text.find("\xe2\x80\xa9") != std::string_view::npos)
      template_fault("'splitlines' of other line ends than \\n");
    if (text.empty()) return TemplateValue::list_of({});
    const std::string line = "\n";
    work.steps(most_parts(text, &line));
    return strings(
        split_text(text.ends_with('\n') ? text.substr(0, text.size() - 1) : text, &line, -1, false), work);
  }
  template_fault("the method '", name, "' of a text");
}

/// A method of a mapping.
inline TemplateValue mapping_method(const TemplateValue& self, std::string_view name,
                                    TemplateArguments& given, TemplateWork& work) {
  using List = TemplateValue::List;
  using Sequence = TemplateValue::Sequence;
  work.steps(self.mapping()->size());
  if (name == "get") {
    const TemplateValue& key = given.at(0, "key");
    const TemplateValue* const otherwise = given.find(1, "default");
    const TemplateValue* const found = key.string() == nullptr ? nullptr : self.find(*key.string());
    return found != nullptr ? *found : otherwise != nullptr ? *otherwise : TemplateValue();
  }
  if (!is_one_of(mapping_methods, name)) template_fault("the method '", name, "' of a mapping");
  List all{Sequence::view};
  for (const auto& [key, value] : *self.mapping()) {
    if (name == "items") all.items.emplace_back(List{Sequence::tuple, {key, value}});
    if (name == "keys") all.items.emplace_back(key);
    if (name == "values") all.items.push_back(value);
  }
  return all;
}

/// `value is name`.
inline bool template_test(std::string_view name, const TemplateValue& v, TemplateArguments& given,
                          TemplateWork& work) {
  const auto is = [&](std::string_view names) { return is_one_of(names, name); };
  const bool text = v.string() != nullptr, nothing = v.undefined() != nullptr;
  if (name == "defined") return !nothing;
  if (name == "undefined") return nothing;
  if (name == "none") return v.none();
  if (name == "string") return text;
  if (name == "mapping") return v.mapping() != nullptr;
  if (name == "iterable") return text || nothing || v.list() != nullptr || v.mapping() != nullptr;
  if (name == "sequence")
    return text || nothing || v.mapping() != nullptr ||
           (v.list() != nullptr && v.list()->kind <= TemplateValue::Sequence::tuple);
  if (name == "number") return v.number();
  if (name == "integer") return v.integer() != nullptr;
  if (name == "float") return v.real() != nullptr;
  if (name == "boolean") return v.boolean() != nullptr;
  if (name == "true") return v.boolean() != nullptr && *v.boolean();
  if (name == "false") return v.boolean() != nullptr && !*v.boolean();
  if (name == "callable") return v.function() != nullptr || nothing;
  if (is(" odd even divisibleby ")) {
    const Index by = name == "divisibleby" ? given.whole(0, "num", 0) : 2;
    if (!v.whole() || by == 0) template_fault("'", name, "' of ", v.kind(), ", or by 0");
    return (by == -1 ? 0 : *v.whole() % by) == 0 ? name != "odd" : name == "odd";
  }
  const TemplateValue& other = given.at(0, "other");
  if (name == "in") return contains(other, v, work);
  if (is(" eq equalto == ")) return equal(v, other, work);
  if (is(" ne != ")) return !equal(v, other, work);
  const int order = order_of(v, other, work);
  if (is(" lt lessthan < ")) return order < 0;
  if (is(" le <= ")) return order <= 0;
  return is(" gt greaterthan > ") ? order > 0 : order >= 0;
}

/// The text of a number, as int() and float() read it: decimal, in ASCII.
template <typename Number>
std::optional<Number> number_in(std::string_view text) {
  text = strip(text, left_side | right_side);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  for (const char c : text) {
    if (c == '_' || (static_cast<unsigned char>(c) & 0x80U) != 0) template_fault("'", text, "' as a number");
  }
  Number value{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || failed == std::errc::invalid_argument) return {};
  if (failed != std::errc{}) template_fault("'", text, "' as a number");
  return value;
}

}  // namespace mtpx::detail
