#pragma once
// What stands before the merges: a text is cut into pieces, and nothing merges across a cut.

#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

// Parts of the pattern below. Punctuation beyond ASCII is what these ranges hold: Latin-1's signs, general
// punctuation with its blanks and quotes, that of Chinese and Japanese, and its full-width forms.
#define MTPX_OWN_SIGNS R"(\x{BF}\x{2000}-\x{206F}\x{3000}-\x{303F}\x{FF00}-\x{FF0F}\x{FF1A}-\x{FF20})"
#define MTPX_OWN_LETTERS R"([^\x00-@\[-`{-)" MTPX_OWN_SIGNS R"(]+)"

/// How our own tokenizers cut a text, as a regular expression that needs no table of Unicode: a word with the
/// one sign or blank before it, up to three digits, signs with a blank before them and line ends after them,
/// blanks up to a line's end, blanks but for the last one before a word. A letter is a letter of ASCII or any
/// character from U+00C0 on that is no sign.
inline constexpr std::string_view own_pattern =
    R"([\x00-\x09\x0B\x0C\x0E-/:-@\[-`{-)" MTPX_OWN_SIGNS "]?" MTPX_OWN_LETTERS
    R"(|[0-9]{1,3}| ?[\x00-\x08\x0E-\x1F!-/:-@\[-`{-)" MTPX_OWN_SIGNS R"(]+[\r\n]*)"
    R"(|[\t-\r ]*[\r\n]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+)";

#undef MTPX_OWN_SIGNS
#undef MTPX_OWN_LETTERS

/// A part of a text, by its bytes.
struct Match {
  std::size_t begin = 0, end = 0;  ///< the first, and the one behind the last
  bool operator==(const Match&) const = default;
};

/// Appends the matches of a pattern in a text, from left to right.
using FindMatches = std::function<void(std::string_view text, std::vector<Match>& matches)>;

/// `own_pattern` by hand. A byte that is not UTF-8 counts as a letter, so every byte is in some piece.
class OwnPieces {
 public:
  /// FindMatches of `own_pattern`.
  static void find(std::string_view text, std::vector<Match>& matches) {
    for (std::size_t at = 0; at < text.size(); at = matches.back().end)
      matches.push_back({at, end(text, at)});
  }

  /// Where the piece ends that begins at `at`, which lies before the end of `text`.
  static std::size_t end(std::string_view text, std::size_t at) {
    const Char first = look(text, at);
    if (first.kind == letter) return run(text, at, letter);
    if (first.kind == digit) {
      std::size_t end = at + 1;
      while (end < text.size() && end < at + 3 && look(text, end).kind == digit) ++end;
      return end;
    }
    const std::size_t next = at + first.bytes;
    if (first.kind != line_end && kind(text, next) == letter) return run(text, next, letter);
    const std::size_t signs = text[at] == ' ' ? next : at;
    if (kind(text, signs) == sign) return run(text, run(text, signs, sign), line_end);
    std::size_t end = at, lines = at;
    for (; kind(text, end) == blank || kind(text, end) == line_end; ++end) {
      if (kind(text, end) == line_end) lines = end + 1;
    }
    if (lines > at) return lines;
    return end < text.size() && end - at > 1 ? end - 1 : end;
  }

  /// The first place at or after `at` where a text may be cut in two whose pieces are those of the whole:
  /// after a line end, before what is no blank.
  static std::size_t cut(std::string_view text, std::size_t at) {
    for (at = std::max<std::size_t>(at, 1); at < text.size(); ++at) {
      if (kind(text, at - 1) == line_end && kind(text, at) != line_end && kind(text, at) != blank) return at;
    }
    return text.size();
  }

 private:
  enum Kind : unsigned char { letter, digit, sign, blank, line_end, rare, past };
  struct Char {
    Kind kind;
    std::size_t bytes;
  };

  static constexpr std::array<Kind, 256> kinds = [] {
    std::array<Kind, 256> table{};
    for (std::size_t c = 0; c < 256; ++c) {
      const bool word = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c >= 0x80;
      table[c] = word ? letter : c >= '0' && c <= '9' ? digit : sign;
    }
    for (const char c : {' ', '\t', '\v', '\f'}) table[static_cast<unsigned char>(c)] = blank;
    for (const char c : {'\n', '\r'}) table[static_cast<unsigned char>(c)] = line_end;
    for (const unsigned c : {0xc2U, 0xe2U, 0xe3U, 0xefU}) table[c] = rare;  // signs may begin so
    return table;
  }();

  static unsigned byte(std::string_view text, std::size_t at) {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
  }

  static Char look(std::string_view text, std::size_t at) {
    const unsigned lead = byte(text, at);
    if (kinds[lead] != rare) return {kinds[lead], 1};
    const unsigned second = byte(text, at + 1);
    if (lead == 0xc2) return second >= 0x80 && second <= 0xbf ? Char{sign, 2} : Char{letter, 1};
    const unsigned third = byte(text, at + 2);
    if (second < 0x80 || second > 0xbf || third < 0x80 || third > 0xbf) return {letter, 1};
    const unsigned code = (second & 0x3fU) << 6U | (third & 0x3fU);  // but for the lead's bits
    const bool is_sign = lead == 0xe2   ? code < 0x070
                         : lead == 0xe3 ? code < 0x040
                                        : code >= 0xf00 && code <= 0xf20 && (code < 0xf10 || code > 0xf19);
    return is_sign ? Char{sign, 3} : Char{letter, 1};
  }
  static Kind kind(std::string_view text, std::size_t at) {
    return at < text.size() ? look(text, at).kind : past;
  }

  /// Where the characters of one kind end that begin at `at`.
  static std::size_t run(std::string_view text, std::size_t at, Kind kind) {
    while (at < text.size()) {
      const Char next = look(text, at);
      if (next.kind != kind) break;
      at += next.bytes;
    }
    return at;
  }
};

/// One pre-tokenizer `Split` of a tokenizer.json. What the pattern matches is a piece of its own, and so is
/// what stands between.
struct Split {
  std::string pattern;        ///< as a tokenizer.json writes it
  bool literal = false;       ///< the pattern is a string, not a regular expression
  bool drop_matches = false;  ///< matches are no pieces, they go (`Removed`)
  bool drop_rest = false;     ///< what stands between goes (`Removed` with `invert`)
  FindMatches find;           ///< not needed for a literal
};

namespace detail {

/// The matches of a string in a text, one after the other.
inline void find_literal(std::string_view text, std::string_view pattern, std::vector<Match>& matches) {
  for (std::size_t at = 0; (at = text.find(pattern, at)) != std::string_view::npos; at += pattern.size()) {
    matches.push_back({at, at + pattern.size()});
  }
}

/// Calls visit(piece) for the pieces of `text` after the splits from `first` on. `scratch` has room for as
/// many splits, so that nothing is allocated for a piece.
template <typename Visit>
void split_text(std::string_view text, const std::vector<Split>& splits, std::size_t first,
                std::vector<std::vector<Match>>& scratch, const Visit& visit) {
  if (text.empty()) return;
  if (first == splits.size()) return visit(text);
  const Split& split = splits[first];
  std::vector<Match>& matches = scratch[first];
  matches.clear();
  if (split.literal) {
    find_literal(text, split.pattern, matches);
  } else {
    split.find(text, matches);
  }
  const auto go_on = [&](std::size_t begin, std::size_t end, bool drop) {
    if (begin < end && !drop) split_text(text.substr(begin, end - begin), splits, first + 1, scratch, visit);
  };
  std::size_t rest = 0;
  for (const Match& match : matches) {
    go_on(rest, match.begin, split.drop_rest);
    go_on(match.begin, match.end, split.drop_matches);
    rest = match.end;
  }
  go_on(rest, text.size(), split.drop_rest);
}

/// Whether the splits are those of our own tokenizers, which need no regular expressions.
inline bool splits_like_own(const std::vector<Split>& splits) {
  return splits.size() == 1 && splits[0].pattern == own_pattern && !splits[0].literal &&
         !splits[0].drop_matches && !splits[0].drop_rest;
}

}  // namespace detail

}  // namespace mtpx
