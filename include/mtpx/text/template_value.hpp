#pragma once
// Values of chat templates, and how Python writes and compares them.

#include <mtpx/text/template_text.hpp>

#include <compare>
#include <memory>
#include <optional>
#include <span>
#include <variant>

namespace mtpx {

namespace detail {
struct TemplateStatement;
struct TemplateNamespace;
}  // namespace detail

/// What a chat template computes with: nothing known, none, a boolean, a number, a text, a list or a mapping.
/// A value, which never changes; copies share what it holds. JSON becomes one by template_value()
/// (<mtpx/io/chat_template_files.hpp>).
class TemplateValue {
 public:
  /// Of a list: a Python list or tuple, what can only be gone through, and what can only once.
  enum class Sequence { list, tuple, view, generator };
  using Pairs = std::vector<std::pair<std::string, TemplateValue>>;  ///< of a mapping, in their order
  /// A sequence of values.
  struct List {
    Sequence kind = Sequence::list;      ///< which of Python's
    std::vector<TemplateValue> items{};  ///< one after the other
    mutable bool used = false;           ///< a generator was gone through
  };
  /// A name that stands for nothing.
  struct Undefined {
    std::string text;  ///< what to say of it
  };
  /// A macro, or a function of the language.
  struct Function {
    const detail::TemplateStatement* macro = nullptr;  ///< null: one of the language's
    std::string_view name;                             ///< as it is called
    bool operator==(const Function&) const = default;  ///< whether it is the same one
  };

  TemplateValue() : TemplateValue(nullptr) {}
  TemplateValue(std::nullptr_t) : value_(nullptr) {}
  TemplateValue(bool value) : value_(value) {}
  TemplateValue(int value) : value_(std::int64_t{value}) {}
  TemplateValue(std::int64_t value) : value_(value) {}
  TemplateValue(double value) : value_(value) {}
  TemplateValue(std::string text) : value_(std::make_shared<const std::string>(std::move(text))) {}
  TemplateValue(std::string_view text) : TemplateValue(std::string(text)) {}
  TemplateValue(const char* text) : TemplateValue(std::string(text)) {}
  TemplateValue(Undefined what) : value_(std::make_shared<const Undefined>(std::move(what))) {}
  TemplateValue(Function function) : value_(function) {}
  TemplateValue(detail::TemplateNamespace* space) : value_(space) {}
  /// Throws ConfigError for nesting deeper than 64.
  TemplateValue(List list) : value_(std::make_shared<const List>(std::move(list))) {
    for (const TemplateValue& item : this->list()->items) deepen(item);
  }
  /// The same of a mapping; of a key that stands twice, the last value.
  TemplateValue(Pairs pairs) {
    Pairs once;
    for (auto& pair : pairs) {
      const auto found =
          std::find_if(once.begin(), once.end(), [&](const auto& p) { return p.first == pair.first; });
      deepen(pair.second);
      if (found == once.end()) {
        once.push_back(std::move(pair));
      } else {
        found->second = std::move(pair.second);
      }
    }
    value_ = std::make_shared<const Pairs>(std::move(once));
  }
  /// A list of these.
  static TemplateValue list_of(std::vector<TemplateValue> items) {
    return List{Sequence::list, std::move(items)};
  }

  /// What it is, null if it is something else.
  const std::string* string() const { return pointer<std::string>(); }
  const List* list() const { return pointer<List>(); }                 ///< the same
  const Pairs* mapping() const { return pointer<Pairs>(); }            ///< the same
  const Undefined* undefined() const { return pointer<Undefined>(); }  ///< the same
  const bool* boolean() const { return std::get_if<bool>(&value_); }   ///< the same
  const std::int64_t* integer() const {
    return std::get_if<std::int64_t>(&value_);
  }                                                                             ///< the same, no boolean
  const double* real() const { return std::get_if<double>(&value_); }           ///< the same
  const Function* function() const { return std::get_if<Function>(&value_); }   ///< the same
  bool none() const { return std::holds_alternative<std::nullptr_t>(value_); }  ///< whether it is None
  /// What a namespace holds; null if it is none.
  detail::TemplateNamespace* space() const {
    const auto* const found = std::get_if<detail::TemplateNamespace*>(&value_);
    return found == nullptr ? nullptr : *found;
  }
  /// An integer, or a boolean as one, as Python has it.
  std::optional<std::int64_t> whole() const {
    if (boolean() != nullptr) return *boolean() ? 1 : 0;
    return integer() != nullptr ? std::optional(*integer()) : std::nullopt;
  }
  bool number() const { return whole().has_value() || real() != nullptr; }  ///< whether it is any number
  /// A number as floating point.
  double as_double() const { return real() != nullptr ? *real() : static_cast<double>(whole().value_or(0)); }
  /// The value of a key; null if it is not there, or this is no mapping.
  const TemplateValue* find(std::string_view key) const {
    if (mapping() == nullptr) return nullptr;
    for (const auto& [name, value] : *mapping()) {
      if (name == key) return &value;
    }
    return nullptr;
  }

  /// As an error text names its kind.
  const char* kind() const {
    if (undefined() != nullptr) return "nothing";
    if (none()) return "none";
    if (boolean() != nullptr) return "a boolean";
    if (number()) return "a number";
    if (string() != nullptr) return "a text";
    if (list() != nullptr) return list()->kind == Sequence::tuple ? "a tuple" : "a list";
    if (mapping() != nullptr) return "a mapping";
    return function() != nullptr ? "a function" : "a namespace";
  }

 private:
  template <typename T>
  const T* pointer() const {
    const auto* const found = std::get_if<std::shared_ptr<const T>>(&value_);
    return found == nullptr ? nullptr : found->get();
  }
  void deepen(const TemplateValue& inner) {
    constexpr int most_depth = 64;
    depth_ = std::max(depth_, inner.depth_ + 1);
    if (depth_ > most_depth) detail::template_fault("a value nested deeper than ", most_depth);
  }

  std::variant<std::nullptr_t, bool, std::int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const List>, std::shared_ptr<const Pairs>, std::shared_ptr<const Undefined>,
               Function, detail::TemplateNamespace*>
      value_;
  int depth_ = 0;
};

/// How much a chat template may do: who writes one may mean harm.
struct TemplateLimits {
  Index steps = 5'000'000;       ///< values computed and statements run, and each 64 bytes gone through
  Index bytes = Index{1} << 24;  ///< of one text, and of what is written
};

namespace detail {

/// What a template has done, against its limits.
class TemplateWork {
 public:
  explicit TemplateWork(TemplateLimits limits) : limits_(limits) {}

  void steps(std::size_t count) {
    done_ += static_cast<Index>(count);
    if (done_ > limits_.steps) template_fault("more than ", limits_.steps, " steps");
  }
  /// So many bytes are gone through, or written.
  void bytes(std::size_t count) {
    if (count > most()) template_fault("a text of more than ", limits_.bytes, " bytes");
    steps(count / 64 + 1);
  }
  std::string_view text(std::string_view text) {
    bytes(text.size());
    return text;
  }
  std::size_t most() const { return static_cast<std::size_t>(limits_.bytes); }

 private:
  TemplateLimits limits_;
  Index done_ = 0;
};

/// A namespace; or, of a loop, where it is: then what it holds follows from that.
struct TemplateNamespace {
  TemplateValue::Pairs values;
  const TemplateValue::List* loop = nullptr;  // while it runs
  std::size_t at = 0;
};

/// Whether Python takes a value for true.
inline bool truth(const TemplateValue& v) {
  if (v.undefined() != nullptr || v.none()) return false;
  if (v.number()) return v.as_double() != 0;
  if (v.string() != nullptr) return !v.string()->empty();
  if (v.list() != nullptr)
    return v.list()->kind == TemplateValue::Sequence::generator || !v.list()->items.empty();
  return v.mapping() == nullptr || !v.mapping()->empty();
}

inline void write_repr(const TemplateValue& v, TemplateWork& work, std::string& out);

/// items in brackets, separated by commas.
template <typename Items, typename Write>
void write_items(const Items& items, char open, char close, TemplateWork& work, std::string& out,
                 const Write& write) {
  out += open;
  bool first = true;
  for (const auto& item : items) {
    if (!first) out += ", ";
    first = false;
    work.steps(1);
    write(item);
  }
  out += close;
  work.bytes(out.size());
}

/// Whether two are the same value, as Python compares: numbers by value, whatever their type.
inline bool equal(const TemplateValue& a, const TemplateValue& b, TemplateWork& work) {
  work.steps(1);
  if (a.number() && b.number()) {
    return a.whole() && b.whole() ? *a.whole() == *b.whole() : a.as_double() == b.as_double();
  }
  if (a.number() || b.number()) return false;
  if (a.string() != nullptr && b.string() != nullptr) return work.text(*a.string()) == *b.string();
  if (a.list() != nullptr && b.list() != nullptr) {
    return a.list()->kind == b.list()->kind &&
           std::equal(a.list()->items.begin(), a.list()->items.end(), b.list()->items.begin(),
                      b.list()->items.end(),
                      [&](const TemplateValue& x, const TemplateValue& y) { return equal(x, y, work); });
  }
  if (a.mapping() != nullptr && b.mapping() != nullptr) {
    work.steps(a.mapping()->size() * b.mapping()->size());
    return a.mapping()->size() == b.mapping()->size() &&
           std::all_of(a.mapping()->begin(), a.mapping()->end(), [&](const auto& pair) {
             const TemplateValue* const there = b.find(pair.first);
             return there != nullptr && equal(pair.second, *there, work);
           });
  }
  if (a.function() != nullptr && b.function() != nullptr) return *a.function() == *b.function();
  if (a.space() != nullptr || b.space() != nullptr) return a.space() == b.space();
  return (a.none() && b.none()) || (a.undefined() != nullptr && b.undefined() != nullptr);
}

/// str().
inline std::string text_of(const TemplateValue& v, TemplateWork& work) {
  if (v.string() != nullptr) return std::string(work.text(*v.string()));
  if (v.undefined() != nullptr) return "";
  std::string out;
  write_repr(v, work, out);
  return out;
}

/// repr().
inline void write_repr(const TemplateValue& v, TemplateWork& work, std::string& out) {
  if (v.none()) {
    out += "None";
  } else if (v.boolean() != nullptr) {
    out += *v.boolean() ? "True" : "False";
  } else if (v.integer() != nullptr) {
    out += std::to_string(*v.integer());
  } else if (v.real() != nullptr) {
    out += python_repr(*v.real());
  } else if (v.string() != nullptr) {
    out += python_repr(work.text(*v.string()));
  } else if (v.undefined() != nullptr) {
    out += "Undefined";
  } else if (v.mapping() != nullptr) {
    write_items(*v.mapping(), '{', '}', work, out, [&](const auto& pair) {
      out += python_repr(work.text(pair.first)) + ": ";
      write_repr(pair.second, work, out);
    });
  } else if (v.list() != nullptr && v.list()->kind <= TemplateValue::Sequence::tuple) {
    const bool tuple = v.list()->kind == TemplateValue::Sequence::tuple;
    write_items(v.list()->items, tuple ? '(' : '[', tuple ? ')' : ']', work, out,
                [&](const TemplateValue& item) { write_repr(item, work, out); });
    if (tuple && v.list()->items.size() == 1) out.insert(out.size() - 1, ",");
  } else {
    template_fault(v.kind(), " as text");
  }
}

/// What json.dumps takes.
struct JsonStyle {
  bool ascii = false, sorted = false;
  Index indent = -1;  // below 0: on one line
  std::string between = ", ", behind_key = ": ";
};

/// json.dumps().
inline void write_json(const TemplateValue& v, const JsonStyle& style, TemplateWork& work, std::string& out,
                       Index level = 0) {
  const auto line = [&](Index at) {
    if (style.indent < 0) return;
    const auto blanks = static_cast<std::size_t>(style.indent * at);
    work.bytes(blanks);
    (out += '\n') += std::string(blanks, ' ');
  };
  const auto all = [&](const auto& items, char open, char close, const auto& write) {
    out += open;
    bool first = true;
    for (const auto& item : items) {
      if (!first) out += style.between;
      first = false;
      line(level + 1);
      work.steps(1);
      write(item);
    }
    if (!first) line(level);
    out += close;
    work.bytes(out.size());
  };
  if (v.none()) {
    out += "null";
  } else if (v.boolean() != nullptr) {
    out += *v.boolean() ? "true" : "false";
  } else if (v.real() != nullptr && !std::isfinite(*v.real())) {
    out += std::isnan(*v.real()) ? "NaN" : *v.real() < 0 ? "-Infinity" : "Infinity";
  } else if (v.number()) {
    write_repr(v, work, out);
  } else if (v.string() != nullptr) {
    out += python_json(work.text(*v.string()), style.ascii);
  } else if (v.mapping() != nullptr) {
    TemplateValue::Pairs pairs = *v.mapping();
    const auto by_key = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (style.sorted) std::sort(pairs.begin(), pairs.end(), by_key);
    all(pairs, '{', '}', [&](const auto& pair) {
      out += python_json(work.text(pair.first), style.ascii) + style.behind_key;
      write_json(pair.second, style, work, out, level + 1);
    });
  } else if (v.list() != nullptr && v.list()->kind <= TemplateValue::Sequence::tuple) {
    all(v.list()->items, '[', ']',
        [&](const TemplateValue& item) { write_json(item, style, work, out, level + 1); });
  } else {
    template_fault("tojson of ", v.kind());
  }
}

/// What a loop, a filter or a function goes through.
inline TemplateValue::List items_of(const TemplateValue& v, TemplateWork& work) {
  TemplateValue::List out;
  if (v.list() != nullptr) {
    work.steps(v.list()->items.size());
    if (v.list()->kind == TemplateValue::Sequence::generator && std::exchange(v.list()->used, true))
      template_fault("what a filter gave is gone through twice: make a list of it");
    out.items = v.list()->items;
  } else if (v.mapping() != nullptr) {
    work.steps(v.mapping()->size());
    for (const auto& [key, value] : *v.mapping()) out.items.emplace_back(key);
  } else if (v.string() != nullptr) {
    work.steps(v.string()->size());
    for_characters(*v.string(), [&](std::string_view c) { out.items.emplace_back(c); });
  } else if (v.undefined() == nullptr) {
    template_fault(v.kind(), " cannot be gone through");
  }
  return out;
}

/// How many items or characters there are.
inline Index length_of(const TemplateValue& v, TemplateWork& work) {
  if (v.string() != nullptr) return count_characters(work.text(*v.string()));
  if (v.list() != nullptr && v.list()->kind != TemplateValue::Sequence::generator)
    return static_cast<Index>(v.list()->items.size());
  if (v.mapping() != nullptr) return static_cast<Index>(v.mapping()->size());
  if (v.undefined() != nullptr) return 0;
  template_fault(v.list() != nullptr ? "what a filter gave" : v.kind(), " has no length");
}

/// -1, 0 or 1: a is less, the same, more.
inline int order_of(const TemplateValue& a, const TemplateValue& b, TemplateWork& work) {
  if (a.number() && b.number()) {
    if (equal(a, b, work)) return 0;
    return a.whole() && b.whole()          ? (*a.whole() < *b.whole() ? -1 : 1)
           : a.as_double() < b.as_double() ? -1
                                           : 1;
  }
  if (a.string() != nullptr && b.string() != nullptr) {
    const int order = work.text(*a.string()).compare(work.text(*b.string()));
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  template_fault("the order of ", a.kind(), " and ", b.kind());
}

/// `item in all`.
inline bool contains(const TemplateValue& all, const TemplateValue& item, TemplateWork& work) {
  if (all.string() != nullptr) {
    if (item.string() == nullptr) template_fault("'in' a text: not a text, but ", item.kind());
    return find_in(work.text(*all.string()), *item.string()) != std::string_view::npos;
  }
  if (all.mapping() != nullptr) {
    work.steps(all.mapping()->size());
    if (item.list() != nullptr || item.mapping() != nullptr)
      template_fault(item.kind(), " as the key of a mapping");
    return item.string() != nullptr && all.find(*item.string()) != nullptr;
  }
  const TemplateValue::List list = items_of(all, work);
  return std::any_of(list.items.begin(), list.items.end(),
                     [&](const TemplateValue& one) { return equal(one, item, work); });
}

}  // namespace detail

}  // namespace mtpx
