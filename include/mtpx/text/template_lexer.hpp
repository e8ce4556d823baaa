#pragma once
// From the text of a chat template to its tokens, with the white space that Jinja takes away between tags
// when trim_blocks and lstrip_blocks are on, as transformers has them.

#include <mtpx/text/template_value.hpp>

namespace mtpx::detail {

struct TemplateToken {
  enum class Kind { data, tag_begin, tag_end, print_begin, print_end, name, string, number, sign, end };
  Kind kind = Kind::end;
  std::size_t at = 0;     // where it begins
  std::string text{};     // of data, a name, a string or a sign
  TemplateValue value{};  // of a number
};

/// A template's text as Jinja reads it: line ends are "\n", and the last one is none.
inline std::string template_source(std::string_view text) {
  std::string source;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool two = text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
    source += text[i] == '\r' ? '\n' : text[i];
    if (two) ++i;
  }
  if (source.ends_with('\n')) source.pop_back();
  return source;
}

/// A fault at a place of the source.
struct PlacedTemplateFault {
  std::size_t at;
  std::string text;
};

class TemplateLexer {
 public:
  explicit TemplateLexer(std::string_view source) : source_(source) {}

  std::vector<TemplateToken> tokens() {
    while (at_ < source_.size()) read_data();
    tokens_.push_back({TemplateToken::Kind::end, source_.size()});
    return std::move(tokens_);
  }

 private:
  using Kind = TemplateToken::Kind;

  template <typename... Parts>
  [[noreturn]] void fail(std::size_t at, const Parts&... parts) const {
    throw PlacedTemplateFault{at, cat(parts...)};
  }

  bool next_is(std::string_view what) const { return source_.substr(at_).starts_with(what); }

  /// What stands before a tag, and the tag.
  void read_data() {
    std::size_t open = at_;
    do {
      open = source_.find('{', open);
      if (open == std::string_view::npos || open + 1 >= source_.size()) return add_data(source_.substr(at_));
    } while (std::string_view("%{#").find(source_[open + 1]) == std::string_view::npos && ++open > 0);
    const char what = source_[open + 1], sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    std::string_view before = source_.substr(at_, open - at_);
    if (sign == '-') {
      before = strip(before, right_side);
    } else if (sign != '+' && what != '{') {
      const std::size_t line = before.rfind('\n') + 1;  // 0 if there is none
      if ((line > 0 || line_starts_) && leading_space(before.substr(line)) == before.size() - line)
        before = before.substr(0, line);
    }
    if (!before.empty()) add_data(before);
    at_ = open + (sign == '-' || sign == '+' ? 3 : 2);
    line_starts_ = false;
    if (what == '#') return skip_comment(open);
    tokens_.push_back({what == '%' ? Kind::tag_begin : Kind::print_begin, open});
    read_tag(what == '%', open);
  }

  void add_data(std::string_view text) {
    tokens_.push_back({Kind::data, at_, std::string(text)});
    at_ += text.size();
  }

  /// Goes behind the end of a tag and the white space that it takes with it.
  void pass_end(std::size_t bytes, bool strips, bool trims) {
    at_ += bytes;
    if (strips) at_ += leading_space(source_.substr(at_));
    if (trims && next_is("\n")) ++at_;
    line_starts_ = source_[at_ - 1] == '\n';
  }

  void skip_comment(std::size_t open) {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string_view::npos) fail(open, "a comment that does not end");
    const char sign = close > at_ ? source_[close - 1] : ' ';
    at_ = close;
    pass_end(2, sign == '-', sign != '-' && sign != '+');
  }

  void read_tag(bool block, std::size_t open) {
    const std::string_view end = block ? "%}" : "}}";
    std::string brackets;
    while (true) {
      at_ += leading_space(source_.substr(at_));
      if (at_ >= source_.size()) fail(open, "a tag that does not end");
      if (brackets.empty()) {
        const bool minus = next_is("-"), plus = block && next_is("+");
        if (source_.substr(at_ + (minus || plus ? 1 : 0)).starts_with(end)) {
          tokens_.push_back({block ? Kind::tag_end : Kind::print_end, at_});
          return pass_end(minus || plus ? 3 : 2, minus, block && !minus && !plus);
        }
      }
      read_token(brackets);
    }
  }

  static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
  static bool digit(char c) { return c >= '0' && c <= '9'; }

  void read_token(std::string& brackets) {
    const std::size_t begin = at_;
    const char c = source_[at_];
    if (digit(c)) return read_number();
    if (c == '\'' || c == '"') return read_string();
    if (letter(c)) {
      while (at_ < source_.size() && (letter(source_[at_]) || digit(source_[at_]))) ++at_;
      tokens_.push_back({Kind::name, begin, std::string(source_.substr(begin, at_ - begin))});
      return;
    }
    std::size_t size = std::string_view("+-/*%~[](){}><=.:|,").find(c) == std::string_view::npos ? 0 : 1;
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) size = next_is(two) ? 2 : size;
    if (size == 0) {
      fail(begin, "the character '", source_.substr(begin, next_character(source_, begin) - begin),
           "' in a tag");
    }
    const std::string sign(source_.substr(begin, size));
    constexpr std::string_view opening = "([{", closing = ")]}";
    if (opening.find(c) != std::string_view::npos) brackets += closing[opening.find(c)];
    if (closing.find(c) != std::string_view::npos) {
      if (brackets.empty() || brackets.back() != c) fail(begin, "'", c, "' closes nothing");
      brackets.pop_back();
    }
    tokens_.push_back({Kind::sign, begin, sign});
    at_ += size;
  }

  void read_number() {
    const std::size_t begin = at_;
    std::string digits;
    const auto take_digits = [&] {
      while (at_ < source_.size() &&
             (digit(source_[at_]) ||
              (source_[at_] == '_' && at_ + 1 < source_.size() && digit(source_[at_ + 1])))) {
        if (source_[at_] != '_') digits += source_[at_];
        ++at_;
      }
    };
    const auto digit_at = [&](std::size_t at) { return at < source_.size() && digit(source_[at]); };
    take_digits();
    bool real = false;
    if (begin == 0 || source_[begin - 1] != '.') {  // of a.0.1 each number stands alone
      if (next_is(".") && digit_at(at_ + 1)) {
        real = true;
        digits += source_[at_++];
        take_digits();
      }
      if (next_is("e") || next_is("E")) {
        const bool sign = at_ + 1 < source_.size() && (source_[at_ + 1] == '+' || source_[at_ + 1] == '-');
        if (digit_at(at_ + (sign ? 2 : 1))) {
          real = true;
          (digits += 'e') += sign ? source_[at_ + 1] : '+';
          at_ += sign ? 2 : 1;
          take_digits();
        }
      }
    }
    const bool zeros = digits.find_first_not_of('0') == std::string::npos;
    if (!real && ((digits[0] == '0' && !zeros) || (at_ < source_.size() && letter(source_[at_]))))
      fail(begin, "a number in another base than ten");
    TemplateToken token{Kind::number, begin};
    if (real) {
      double value = 0;
      if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc{})
        fail(begin, "a number beyond the range of a double");
      token.value = value;
    } else {
      std::int64_t value = 0;
      if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc{})
        fail(begin, "a number of more than 63 bits");
      token.value = value;
    }
    tokens_.push_back(std::move(token));
  }

  void read_string() {
    const std::size_t begin = at_;
    const char quote = source_[at_++];
    std::string text;
    while (true) {
      if (at_ >= source_.size()) fail(begin, "a string that does not end");
      const char c = source_[at_++];
      if (c == quote) break;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (at_ >= source_.size()) fail(begin, "a string that does not end");
      read_escape(text);
    }
    tokens_.push_back({Kind::string, begin, std::move(text)});
  }

  /// What stands behind a backslash, as Python reads it; what it does not know, it keeps.
  void read_escape(std::string& text) {
    const std::size_t begin = at_ - 1;
    const char c = source_[at_++];
    constexpr std::string_view known = "\\'\"abfnrtv", meant = "\\'\"\a\b\f\n\r\t\v";
    if (c == '\n') return;
    if (const std::size_t which = known.find(c); which != std::string_view::npos) {
      text += meant[which];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string digits(source_.substr(at_, count));
      std::uint32_t code = 0;
      const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
      if (failed != std::errc{} || end != digits.data() + count || code > 0x10ffff ||
          (code >= 0xd800 && code < 0xe000))
        fail(begin, "the escape '\\", c, digits, "' is no character");
      text += utf8(code);
      at_ += count;
    } else if (c >= '0' && c <= '7') {
      char32_t code = static_cast<char32_t>(c - '0');
      for (int i = 0; i < 2 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7'; ++i)
        code = code * 8 + static_cast<char32_t>(source_[at_++] - '0');
      text += utf8(code);
    } else if (c == 'N') {
      fail(begin, "the escape '\\N'");
    } else {
      (text += '\\') += c;
    }
  }

  std::string_view source_;
  std::size_t at_ = 0;
  bool line_starts_ = true;  // what is read next begins a line
  std::vector<TemplateToken> tokens_;
};

}  // namespace mtpx::detail
