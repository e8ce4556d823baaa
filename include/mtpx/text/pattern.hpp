#pragma once
// Regular expressions of tokenizer files. Hugging Face's library gives them to Oniguruma; where that means
// the same as PCRE2, the text for PCRE2 is written here, the rest is refused.

#include <mtpx/core/error.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

namespace mtpx {

namespace detail {

/// Reads a pattern in Oniguruma's syntax and writes the same one in PCRE2's (with UTF and UCP).
class PatternReader {
 public:
  explicit PatternReader(std::string_view pattern) : pattern_(pattern) {}

  std::string read() {
    alternatives(0);
    if (at_ < pattern_.size()) refuse("has a ) that closes nothing");
    return std::move(out_);
  }

 private:
  static constexpr int deepest = 20;
  // Unicode's White_Space, and what is none: PCRE2's own \s has U+180E, too.
  static constexpr const char* blanks =
      R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  static constexpr const char* no_blanks =
      R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
      R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

  [[noreturn]] void refuse(std::string_view what) const {
    throw ConfigError(cat("[tokenizer] the pattern ", pattern_, ' ', what, " (at byte ", at_, ")"));
  }

  bool more() const { return at_ < pattern_.size(); }
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool digit(char c) { return c >= '0' && c <= '9'; }

  static std::string code_point(std::uint32_t code) {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "\\x{%x}", static_cast<unsigned>(code));
    return text.data();
  }

  /// The next character; the pattern is valid UTF-8.
  std::uint32_t character() {
    const auto lead = static_cast<unsigned char>(pattern_[at_++]);
    if (lead < 0x80) return lead;
    const int tail = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    std::uint32_t code = lead & (0x3fU >> tail);
    for (int i = 0; i < tail; ++i) code = code << 6U | (static_cast<unsigned char>(pattern_[at_++]) & 0x3fU);
    return code;
  }

  void alternatives(int depth) {
    if (depth > deepest) refuse("is nested too deeply");
    for (;;) {
      sequence(depth);
      if (!more() || peek() == ')') return;
      ++at_;
      out_ += '|';
    }
  }

  void sequence(int depth) {
    while (more() && peek() != '|' && peek() != ')') {
      if (take("$")) {  // Oniguruma's end of a line
        out_ += R"((?=\n|\z))";
        continue;
      }
      const bool repeatable = atom(depth);
      quantifier(repeatable);
    }
  }

  /// Returns whether a quantifier may follow.
  bool atom(int depth) {
    const char c = peek();
    if (c == '(') return group(depth);
    if (c == '[') {
      char_class();
      return true;
    }
    if (c == '\\') {
      ++at_;
      out_ += set_escape(false, "[", "]");
      return true;
    }
    if (std::string_view("^.*+?{").find(c) != std::string_view::npos)
      refuse(cat("has ", c, ", which is not supported here"));
    out_ += code_point(character());
    return true;
  }

  bool group(int depth) {
    if (take("(?:")) {
      out_ += "(?:";
    } else if (take("(?=") || take("(?!")) {
      out_ += cat("(?", pattern_[at_ - 1]);
      alternatives(depth + 1);
      close();
      return false;
    } else if (take("(?i:")) {
      out_ += "(?i:";
      caseless();
      close();
      return true;
    } else if (peek(1) == '?') {
      refuse("has a group of a kind that is not supported");
    } else {
      ++at_;
      out_ += "(?:";
    }
    alternatives(depth + 1);
    close();
    return true;
  }
  void close() {
    if (!take(")")) refuse("has a ( that nothing closes");
    out_ += ')';
  }

  /// (?i:'s|'t|re|[dm]): ASCII alone, and nothing that has a one-letter form in Unicode, such as ss or fi.
  void caseless() {
    char last = '\0';
    while (more() && peek() != ')') {
      const char c = pattern_[at_++];
      if (c == '[') {
        if (letter(last)) refuse("has (?i: with a class beside a letter, which is not supported");
        out_ += '[';
        for (; letter(peek()); ++at_) out_ += peek();
        if (!take("]") || out_.back() == '[') refuse("has (?i: with a class of other than letters");
        out_ += ']';
        if (more() && peek() != '|' && peek() != ')') refuse("has (?i: with more after a class");
        last = '\0';
        continue;
      }
      const bool plain = letter(c) || c == '\'' || c == '|';
      const auto lower = [](char x) { return static_cast<char>(x | 0x20); };
      const std::string two{lower(last), lower(c)};
      if (!plain || two == "ss" || two == "st" || two == "ff" || two == "fi" || two == "fl")
        refuse("has (?i: around what is not supported there");
      out_ += c;
      last = c;
    }
  }

  void quantifier(bool repeatable) {
    const char c = peek();
    if (c == '\0' || std::string_view("?*+{").find(c) == std::string_view::npos) return;
    if (!repeatable) refuse("repeats what has no width");
    if (c == '{') {
      ++at_;
      out_ += '{' + number();
      const bool range = take(",");
      if (range) out_ += ',';
      if (range && digit(peek())) out_ += number();
      if (!take("}")) refuse("has a { that is no count");
      out_ += '}';
      if (range && take("?")) out_ += '?';
    } else {
      ++at_;
      out_ += c;
      if (take("?")) {
        out_ += '?';
      } else if (take("+")) {
        out_ += '+';
      }
    }
    if (more() && std::string_view("?*+{").find(peek()) != std::string_view::npos)
      refuse("repeats a repetition");
  }
  std::string number() {
    std::string digits;
    for (; digit(peek()) && digits.size() < 4; ++at_) digits += peek();
    if (digits.empty() || digits.size() == 4) refuse("has a { that is no count below 1000");
    return digits;
  }

  /// What follows a backslash, as part of a class; if it stands alone, in brackets where PCRE2 needs them.
  /// `code` gets the character, if it is one.
  std::string set_escape(bool in_class, std::string_view open, std::string_view close,
                         std::uint32_t* code = nullptr) {
    if (!more()) refuse("ends with a backslash");
    const char c = pattern_[at_++];
    const auto one = [&](std::uint32_t value) {
      if (code != nullptr) *code = value;
      return code_point(value);
    };
    switch (c) {
      case 'r':
        return one('\r');
      case 'n':
        return one('\n');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 's':
        return cat(open, blanks, close);
      case 'S':
        return in_class ? no_blanks : cat("[^", blanks, ']');
      case 'd':
        return "\\p{Nd}";
      case 'D':
        return "\\P{Nd}";
      case 'p':
      case 'P':
        return property(c);
      case 'x':
        return one(take("{") ? hex(1, 6, "}") : hex(2, 2, ""));
      case 'u':
        return one(hex(4, 4, ""));
      default:
        break;
    }
    if (letter(c) || digit(c) || static_cast<unsigned char>(c) >= 0x80) {
      --at_;
      refuse(cat("has \\", letter(c) || digit(c) ? std::string(1, c) : "", ", which is not supported"));
    }
    return one(static_cast<unsigned char>(c));
  }

  std::uint32_t hex(int least, int most, std::string_view end) {
    std::uint32_t value = 0;
    int count = 0;
    for (; count < most; ++count, ++at_) {
      const char c = peek();
      const char lower = static_cast<char>(c | 0x20);
      if (digit(c)) {
        value = value << 4U | static_cast<std::uint32_t>(c - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        value = value << 4U | static_cast<std::uint32_t>(lower - 'a' + 10);
      } else {
        break;
      }
    }
    const bool surrogate = value >= 0xd800 && value < 0xe000;
    // \x80 and above are bytes to Oniguruma, not characters.
    if (count < least || !take(end) || value > 0x10ffff || surrogate ||
        (end.empty() && most == 2 && value >= 0x80))
      refuse("has a number of a character that is not supported");
    return value;
  }

  std::string property(char kind) {
    static constexpr std::array<std::string_view, 34> categories = {
        "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P",  "Pc", "Pd",
        "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
    static constexpr std::array<std::string_view, 15> scripts = {
        "Arabic", "Armenian", "Bengali",  "Cyrillic", "Devanagari", "Georgian", "Greek", "Han",
        "Hangul", "Hebrew",   "Hiragana", "Katakana", "Latin",      "Tamil",    "Thai"};
    const std::size_t begin = at_;
    std::string name;
    if (take("{")) {
      for (; letter(peek()); ++at_) name += peek();
      if (take("}")) {
        if (std::find(categories.begin(), categories.end(), name) != categories.end())
          return cat('\\', kind, '{', name, '}');
        // PCRE2's plain name of a script is that of its extensions.
        if (std::find(scripts.begin(), scripts.end(), name) != scripts.end())
          return cat('\\', kind, "{sc:", name, '}');
      }
    }
    at_ = begin;
    refuse(cat("has \\", kind, " of a property that is not supported"));
  }

  /// [...], and [...&&[^...]], which is the first without the second.
  void char_class() {
    ++at_;
    const bool negated = take("^");
    const std::string items = class_items();
    if (take("&&")) {
      if (negated || !take("[^")) refuse("has && in a class of a form that is not supported");
      const std::string without = class_items();
      if (!take("]")) refuse("has && in a class of a form that is not supported");
      out_ += cat("(?:(?![", without, "])[", items, "])");
    } else {
      out_ += cat(negated ? "[^" : "[", items, ']');
    }
    if (!take("]")) refuse("has a [ that nothing closes");
  }

  std::string class_items() {
    std::string items;
    while (more() && peek() != ']' && !(peek() == '&' && peek(1) == '&')) {
      std::uint32_t first = 0;
      bool single = true;
      std::string item = class_item(first, single);
      if (peek() == '-' && peek(1) != ']' && more()) {
        std::uint32_t last = 0;
        bool single_last = true;
        ++at_;
        const std::string end = class_item(last, single_last);
        if (!single || !single_last || last < first) refuse("has a range that is none");
        item += '-' + end;
      }
      items += item;
    }
    if (items.empty()) refuse("has an empty class");
    return items;
  }
  std::string class_item(std::uint32_t& code, bool& single) {
    if (!more()) refuse("has a [ that nothing closes");
    if (peek() == '[') refuse("has a [ inside a class, which is not supported");
    if (take("\\")) {
      constexpr std::uint32_t none = ~0U;
      code = none;
      std::string item = set_escape(true, "", "", &code);
      single = code != none;
      return item;
    }
    code = character();
    return code_point(code);
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace detail

/// A pattern of a tokenizer file, valid UTF-8, as PCRE2 must be given it to match what Oniguruma matches.
/// Throws ConfigError that quotes the pattern and says what in it is not supported: whatever the two read
/// differently (`.`, `^`, `\w`, `\b`, back references, most groups, classes in classes).
inline std::string to_pcre2(std::string_view pattern) { return detail::PatternReader(pattern).read(); }

}  // namespace mtpx
