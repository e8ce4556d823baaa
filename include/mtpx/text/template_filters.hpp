#pragma once
// Jinja's filters, as far as chat templates use them; tojson as transformers has it.

#include <mtpx/text/template_library.hpp>

namespace mtpx::detail {

/// The item of a value as filters reach for it: of a mapping by key, of a list by number; "a.b" goes on
/// inside.
inline TemplateValue attribute_of(const TemplateValue& v, std::string_view path) {
  TemplateValue at = v;
  while (true) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    const std::string_view name = path.substr(0, dot);
    const TemplateValue* found = at.find(name);
    if (at.undefined() != nullptr) template_fault(at.undefined()->text);
    std::size_t number = 0;
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (found == nullptr && at.list() != nullptr && failed == std::errc{} &&
        end == name.data() + name.size() && number < at.list()->items.size())
      found = &at.list()->items[number];
    if (found == nullptr && at.space() != nullptr) template_fault("an attribute of a namespace in a filter");
    at = found != nullptr
             ? TemplateValue(*found)
             : TemplateValue(TemplateValue::Undefined{cat("'", name, "' is not in ", at.kind())});
    if (dot == path.size()) return at;
    path.remove_prefix(dot + 1);
  }
}

inline TemplateValue template_filter(std::string_view name, const TemplateValue& v, TemplateArguments& given,
                                     TemplateWork& work);

/// map, select, reject, selectattr and rejectattr.
inline TemplateValue filter_items(std::string_view name, const TemplateValue& v, TemplateArguments& given,
                                  TemplateWork& work) {
  TemplateValue::List all{TemplateValue::Sequence::generator};
  const TemplateValue::List items = items_of(v, work);
  if (name == "map") {
    if (const TemplateValue* const path = given.find(999, "attribute"); path != nullptr) {
      const TemplateValue* const otherwise = given.find(999, "default");
      if (path->string() == nullptr) template_fault("'map' by ", path->kind());
      for (const TemplateValue& item : items.items) {
        TemplateValue found = attribute_of(item, *path->string());
        all.items.push_back(found.undefined() != nullptr && otherwise != nullptr ? *otherwise
                                                                                 : std::move(found));
      }
      given.all_taken(name);
      return all;
    }
    const std::string& filter = given.text(0, "filter");
    if (!is_one_of(template_filters, filter)) template_fault("the filter '", filter, "'");
    const TemplateArguments rest = given.from(1);
    for (const TemplateValue& item : items.items) {
      TemplateArguments own = rest;
      all.items.push_back(template_filter(filter, item, own, work));
    }
    return all;
  }
  const bool by_attribute = name.ends_with("attr"), wanted = name.starts_with("select");
  const std::string path = by_attribute ? given.text(0, "attribute") : "";
  const TemplateValue* const test = given.find(by_attribute ? 1 : 0, "test");
  if (test != nullptr && (test->string() == nullptr || !is_one_of(template_tests, *test->string())))
    template_fault("the test ", test->string() == nullptr ? test->kind() : cat("'", *test->string(), "'"));
  const TemplateArguments rest = given.from(by_attribute ? 2 : 1);
  for (const TemplateValue& item : items.items) {
    const TemplateValue asked = by_attribute ? attribute_of(item, path) : item;
    TemplateArguments own = rest;
    const bool holds = test == nullptr ? truth(asked) : template_test(*test->string(), asked, own, work);
    if (test != nullptr) own.all_taken(*test->string());
    if (holds == wanted) all.items.push_back(item);
  }
  return all;
}

/// json.dumps(), of which transformers makes the filter.
inline TemplateValue filter_json(const TemplateValue& v, TemplateArguments& given, TemplateWork& work) {
  JsonStyle style;
  style.ascii = given.truth(0, "ensure_ascii", false);
  if (const TemplateValue* const indent = given.find(1, "indent"); indent != nullptr && !indent->none()) {
    if (!indent->whole()) template_fault("'tojson' with an indent of ", indent->kind());
    style.indent = std::clamp<Index>(*indent->whole(), 0, 100);
    style.between = ",";
  }
  if (const TemplateValue* const two = given.find(2, "separators"); two != nullptr && !two->none()) {
    const bool fit = two->list() != nullptr && two->list()->items.size() == 2 &&
                     two->list()->items[0].string() != nullptr && two->list()->items[1].string() != nullptr;
    if (!fit) template_fault("'tojson' with separators that are not two texts");
    style.between = *two->list()->items[0].string();
    style.behind_key = *two->list()->items[1].string();
  }
  style.sorted = given.truth(3, "sort_keys", false);
  std::string out;
  write_json(v, style, work, out);
  return out;
}

/// int and float.
inline TemplateValue filter_number(std::string_view name, const TemplateValue& v, TemplateArguments& given) {
  const TemplateValue* const otherwise = given.find(0, "default");
  const bool whole = name == "int";
  const TemplateValue none = otherwise != nullptr ? *otherwise
                             : whole              ? TemplateValue(0)
                                                  : TemplateValue(0.0);
  if (v.string() != nullptr) {
    if (whole) {
      if (const auto number = number_in<std::int64_t>(*v.string())) return *number;
    }
    const auto number = number_in<double>(*v.string());
    if (!number) return none;
    return whole ? filter_number(name, TemplateValue(*number), given) : TemplateValue(*number);
  }
  if (v.undefined() != nullptr) template_fault(v.undefined()->text);
  if (!v.number()) return none;
  if (!whole) return v.as_double();
  if (v.whole()) return *v.whole();
  if (!std::isfinite(*v.real())) return none;
  if (std::abs(*v.real()) >= 9e18) template_fault("a number of more than 63 bits");
  return static_cast<std::int64_t>(*v.real());
}

/// first, last, list and reverse.
inline TemplateValue filter_sequence(std::string_view name, const TemplateValue& v, TemplateWork& work) {
  const bool generator = v.list() != nullptr && v.list()->kind == TemplateValue::Sequence::generator;
  if (generator && (name == "last" || name == "reverse"))
    template_fault("'", name, "' of what a filter gave: make a list of it");
  TemplateValue::List items = items_of(v, work);
  if (name == "list") return items;
  if (name == "reverse") {
    if (v.undefined() != nullptr) template_fault(v.undefined()->text);
    std::reverse(items.items.begin(), items.items.end());
    if (v.string() != nullptr)
      return joined(items, "", work, [](const TemplateValue& c) { return *c.string(); });
    items.kind = TemplateValue::Sequence::generator;
    return items;
  }
  if (items.items.empty()) return TemplateValue::Undefined{cat("No ", name, " item, sequence was empty.")};
  return name == "first" ? items.items.front() : items.items.back();
}

/// `value | name`.
inline TemplateValue template_filter(std::string_view name, const TemplateValue& v, TemplateArguments& given,
                                     TemplateWork& work) {
  const auto done = [&](TemplateValue value) {
    given.all_taken(name);
    return value;
  };
  const auto is = [&](std::string_view names) { return is_one_of(names, name); };
  if (is(" map select reject selectattr rejectattr ")) return filter_items(name, v, given, work);
  if (name == "tojson") return done(filter_json(v, given, work));
  if (is(" int float ")) return done(filter_number(name, v, given));
  if (is(" first last list reverse ")) return done(filter_sequence(name, v, work));
  if (is(" length count ")) return done(length_of(v, work));
  if (is(" default d ")) {
    const TemplateValue* const otherwise = given.find(0, "default_value");
    const bool falls = v.undefined() != nullptr || (given.truth(1, "boolean", false) && !truth(v));
    return done(!falls ? v : otherwise != nullptr ? *otherwise : TemplateValue(""));
  }
  if (name == "items") {
    TemplateArguments none;
    if (v.undefined() != nullptr) return done(TemplateValue::List{TemplateValue::Sequence::generator});
    if (v.mapping() == nullptr) template_fault("'items' of ", v.kind());
    TemplateValue::List pairs = *mapping_method(v, name, none, work).list();
    pairs.kind = TemplateValue::Sequence::generator;
    return done(pairs);
  }
  if (name == "abs") {
    if (!v.number() || (v.whole() && *v.whole() == std::numeric_limits<std::int64_t>::min()))
      template_fault("'abs' of ", v.kind());
    return done(v.whole() ? TemplateValue(std::abs(*v.whole())) : TemplateValue(std::abs(v.as_double())));
  }
  if (name == "join") {
    const TemplateValue* const between = given.find(0, "d");
    const std::string by = between == nullptr ? "" : text_of(*between, work);
    const TemplateValue* const path = given.find(1, "attribute");
    if (path != nullptr && !path->none() && path->string() == nullptr)
      template_fault("'join' by ", path->kind());
    return done(joined(items_of(v, work), by, work, [&](const TemplateValue& item) {
      return text_of(path == nullptr || path->none() ? item : attribute_of(item, *path->string()), work);
    }));
  }
  const std::string text = text_of(v, work);
  if (name == "string") return done(text);
  if (name == "title") return done(in_case(text, Case::title_filter));
  TemplateArguments plain;
  if (name == "trim") {
    const TemplateValue* const characters = given.find(0, "chars");
    plain = TemplateArguments({characters == nullptr ? TemplateValue() : *characters}, {});
    return done(text_method(text, "strip", plain, work));
  }
  if (name == "replace") {
    const std::string old = text_of(given.at(0, "old"), work), by = text_of(given.at(1, "new"), work);
    plain = TemplateArguments({old, by, given.whole(2, "count", -1)}, {});
  }
  return done(text_method(text, name, plain, work));  // upper, lower, capitalize, replace
}

}  // namespace mtpx::detail
