#pragma once
// Strings as Python has them, in chat templates: texts of characters, stored as UTF-8. What would take tables
// of Unicode is a fault, never a guess.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx::detail {

/// What is wrong in a template, without the place, which whoever runs it knows.
struct TemplateFault : ConfigError {
  explicit TemplateFault(const std::string& what) : ConfigError("[template] " + what), text(what) {}
  std::string text;
};

template <typename... Parts>
[[noreturn]] void template_fault(const Parts&... parts) {
  throw TemplateFault(cat(parts...));
}

/// Whether a word stands in a list of words with blanks around each.
inline bool is_one_of(std::string_view all, std::string_view word) {
  if (word.empty() || word.find(' ') != std::string_view::npos) return false;
  for (std::size_t at = 0; (at = all.find(word, at)) != std::string_view::npos; ++at) {
    if (all[at - 1] == ' ' && all[at + word.size()] == ' ') return true;
  }
  return false;
}

/// Where the character at `at` ends; of what is no UTF-8, some place behind it.
inline std::size_t next_character(std::string_view text, std::size_t at) {
  const std::size_t most = std::min(text.size(), at + 4);
  ++at;
  while (at < most && (static_cast<unsigned char>(text[at]) & 0xc0U) == 0x80U) ++at;
  return at;
}

inline Index count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; });
}

/// The code point of a character.
inline char32_t code_point(std::string_view character) {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(character[i]));
  };
  if (character.size() < 2) return character.empty() ? 0 : byte(0);
  char32_t code = byte(0) & (0xffU >> (character.size() + 1));
  for (std::size_t i = 1; i < character.size(); ++i) code = code << 6U | (byte(i) & 0x3fU);
  return code;
}

inline std::string utf8(char32_t code) {
  const auto part = [](char32_t bits) { return static_cast<char>(static_cast<unsigned char>(bits)); };
  if (code < 0x80) return {part(code)};
  if (code < 0x800) return {part(0xc0U | code >> 6U), part(0x80U | (code & 0x3fU))};
  if (code < 0x10000)
    return {part(0xe0U | code >> 12U), part(0x80U | (code >> 6U & 0x3fU)), part(0x80U | (code & 0x3fU))};
  return {part(0xf0U | code >> 18U), part(0x80U | (code >> 12U & 0x3fU)), part(0x80U | (code >> 6U & 0x3fU)),
          part(0x80U | (code & 0x3fU))};
}

/// visit(character) for each one.
template <typename Visit>
void for_characters(std::string_view text, const Visit& visit) {
  for (std::size_t at = 0, end = 0; at < text.size(); at = end) {
    end = next_character(text, at);
    visit(text.substr(at, end - at));
  }
}

/// Python's str.isspace() of one character.
inline bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/// The bytes of white space at the beginning.
inline std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = next_character(text, at);
    if (!is_python_space(code_point(text.substr(at, end - at)))) break;
    at = end;
  }
  return at;
}

enum Side : unsigned { left_side = 1, right_side = 2 };

/// str.strip, lstrip and rstrip.   characters: those to take away; null: white space
inline std::string_view strip(std::string_view text, unsigned sides,
                              const std::string* characters = nullptr) {
  const auto goes = [&](std::string_view c) {
    return characters == nullptr ? is_python_space(code_point(c)) : characters->find(c) != std::string::npos;
  };
  while ((sides & left_side) != 0 && !text.empty()) {
    const std::size_t end = next_character(text, 0);
    if (!goes(text.substr(0, end))) break;
    text.remove_prefix(end);
  }
  while ((sides & right_side) != 0 && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0U) == 0x80U) --begin;
    if (!goes(text.substr(begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

/// Where `part` stands at or after `at`; npos. Linear in the text, whatever both are.
inline std::size_t find_in(std::string_view text, std::string_view part, std::size_t at = 0) {
  if (at > text.size()) return std::string_view::npos;
  if (part.empty()) return at;
  const void* const found = ::memmem(text.data() + at, text.size() - at, part.data(), part.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

/// str.replace; count below 0: all.
inline std::string replaced(std::string_view text, std::string_view old, std::string_view by, Index count,
                            std::size_t most) {
  std::string out;
  std::size_t at = 0;
  const auto add = [&](std::string_view part) {
    if (out.size() + part.size() > most) template_fault("a text of more than ", most, " bytes");
    out += part;
  };
  while (count != 0) {
    const std::size_t found = find_in(text, old, at);
    if (found == std::string_view::npos) break;
    add(text.substr(at, found - at));
    add(by);
    at = found + old.size();
    if (count > 0) --count;
    if (!old.empty()) continue;
    if (at >= text.size()) return out;  // before each character and behind the last
    const std::size_t end = next_character(text, at);
    add(text.substr(at, end - at));
    at = end;
  }
  add(text.substr(at));
  return out;
}

/// Where the words of a text stand: what white space separates.
inline std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t at = 0;
  bool inside = false;
  for_characters(text, [&](std::string_view c) {
    const bool space = is_python_space(code_point(c));
    if (!space && !inside) words.emplace_back(text.data() + at, 0);
    if (!space) words.back() = {words.back().data(), words.back().size() + c.size()};
    inside = !space;
    at += c.size();
  });
  return words;
}

/// str.split and rsplit.   separator: null: runs of white space   count: of cuts at most; below 0: all
inline std::vector<std::string> split_text(std::string_view text, const std::string* separator, Index count,
                                           bool from_right) {
  std::vector<std::string> parts;
  if (separator == nullptr) {
    const std::vector<std::string_view> words = words_of(text);
    const std::size_t most = count < 0 ? words.size() : static_cast<std::size_t>(count);
    if (words.size() <= most) return {words.begin(), words.end()};
    if (from_right) {
      const std::string_view last = words[words.size() - most - 1];
      parts.emplace_back(text.data(), last.data() + last.size());
      parts.insert(parts.end(), words.end() - static_cast<std::ptrdiff_t>(most), words.end());
    } else {
      parts.assign(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(most));
      parts.emplace_back(words[most].data(), text.data() + text.size());
    }
    return parts;
  }
  if (separator->empty()) template_fault("split: empty separator");
  // From the right all is turned round, since the search from the left is the one that is linear.
  const auto turned = [&](std::string_view part) {
    return from_right ? std::string(part.rbegin(), part.rend()) : std::string(part);
  };
  const std::string all = turned(text), cut = turned(*separator);
  std::string_view rest = all;
  for (; count != 0; --count) {
    const std::size_t found = find_in(rest, cut);
    if (found == std::string_view::npos) break;
    parts.push_back(turned(rest.substr(0, found)));
    rest.remove_prefix(found + cut.size());
  }
  parts.push_back(turned(rest));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

/// Whether a character beyond ASCII is known to have no case and to be printed as it is: kana, Han, Hangul,
/// general punctuation, arrows to dingbats, pictures.
inline bool is_plain_sign(char32_t c) {
  return (c >= 0x2010 && c <= 0x2027) || (c >= 0x2030 && c <= 0x205e) || (c >= 0x2190 && c <= 0x2426) ||
         (c >= 0x2500 && c <= 0x27bf) || (c >= 0x3001 && c <= 0x303f) || (c >= 0x3041 && c <= 0x3096) ||
         (c >= 0x3099 && c <= 0x30ff) || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3) ||
         (c >= 0xff01 && c <= 0xff20) || (c >= 0xff5b && c <= 0xff65) || (c >= 0x1f300 && c <= 0x1f64f);
}

enum class Case { upper, lower, title, capitalize, title_filter };

/// str.upper, lower, title and capitalize, and the filter title, which begins words elsewhere.
inline std::string in_case(std::string_view text, Case how) {
  std::string out;
  bool first = true;
  for_characters(text, [&](std::string_view c) {
    if (c.size() > 1 && !is_plain_sign(code_point(c)))
      template_fault("upper and lower case of '", c, "': only of ASCII");
    const bool big = c[0] >= 'A' && c[0] <= 'Z', small = c[0] >= 'a' && c[0] <= 'z';
    const bool wants_big = how == Case::upper || (how != Case::lower && first);
    if (wants_big && small) {
      out += static_cast<char>(c[0] - 'a' + 'A');
    } else if (!wants_big && big) {
      out += static_cast<char>(c[0] - 'A' + 'a');
    } else {
      out += c;
    }
    if (how == Case::title) first = !big && !small;
    if (how == Case::capitalize) first = false;
    if (how == Case::title_filter)
      first = is_python_space(code_point(c)) || (c.size() == 1 && std::strchr("-({[<", c[0]) != nullptr);
  });
  return out;
}

/// repr() of a string.
inline std::string python_repr(std::string_view text) {
  const bool doubled = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = doubled ? '"' : '\'';
  std::string out{quote};
  for_characters(text, [&](std::string_view c) {
    const char32_t code = code_point(c);
    constexpr std::string_view known = "\t\n\r", letters = "tnr";
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      (out += '\\') += c;
    } else if (const std::size_t i = known.find(c[0]); i != std::string_view::npos) {
      (out += '\\') += letters[i];
    } else if (code < 0x20 || code == 0x7f) {
      constexpr std::string_view digits = "0123456789abcdef";
      ((out += "\\x") += digits[code >> 4U]) += digits[code & 15U];
    } else if (code < 0x80 || (code > 0xa0 && code < 0x250 && code != 0xad) ||
               (code >= 0x400 && code < 0x482) || is_plain_sign(code)) {
      out += c;
    } else {
      template_fault("a list or mapping as text that holds '", c, "'");
    }
  });
  return out += quote;
}

/// repr() of a float.
inline std::string python_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer{};
  char* const end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  const std::string_view all(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  const std::size_t e = all.find('e');
  const int exponent = std::stoi(std::string(all.substr(e + 1)));
  if (exponent < -4 || exponent >= 16) return std::string(all);
  char* const fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed).ptr;
  std::string text(buffer.data(), static_cast<std::size_t>(fixed - buffer.data()));
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

/// A string of JSON as Python's json writes it.
inline std::string python_json(std::string_view text, bool ascii) {
  std::string out = "\"";
  const auto unit = [&](char32_t code) {
    constexpr std::string_view digits = "0123456789abcdef";
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += digits[code >> static_cast<unsigned>(shift) & 15U];
  };
  for_characters(text, [&](std::string_view c) {
    const char32_t code = code_point(c);
    constexpr std::string_view known = "\"\\\n\r\t\f\b", letters = "\"\\nrtfb";
    if (const std::size_t i = known.find(c[0]); i != std::string_view::npos) {
      (out += '\\') += letters[i];
    } else if (code >= 0x20 && (!ascii || code < 0x7f)) {
      out += c;
    } else if (code < 0x10000) {
      unit(code);
    } else {
      unit(0xd7c0U + (code >> 10U));
      unit(0xdc00U + (code & 0x3ffU));
    }
  });
  return out += '"';
}

}  // namespace mtpx::detail
