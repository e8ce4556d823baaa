#pragma once
// Where a long text may be cut in two that are encoded apart: at line ends, for the patterns of published
// files.

#include <mtpx/text/split.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

namespace mtpx::detail {

/// Patterns of DeepSeek-V3, Llama 3, Qwen 2 and 3, GPT-4o and gpt-oss, GPT-2. Of each holds, which is to be
/// shown before another one is added here:
///
///  - no match has a line end with anything behind it but line ends, blanks and '/';
///  - a line end between two characters that are no blanks is the end of a match, whether text follows or
///  not;
///  - there is no look-behind: what is matched from a place on does not depend on what stands before.
inline constexpr std::array<std::string_view, 5> line_patterns{
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^)"
    "\r\n"
    R"(\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[)"
    "\r\n"
    R"(]*|\s*[)"
    "\r\n"
    R"(]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"};

/// Patterns without line ends in their matches, which stand before one of the others (DeepSeek-V3).
inline constexpr std::array<std::string_view, 3> lineless_patterns{
    R"(\p{N}{1,3})", R"(\p{N})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"};

/// Whether line_cut() holds for these splits, the last of which ends matches at line ends.
inline bool cuts_at_lines(const std::vector<Split>& splits) {
  const auto is_in = [](const auto& list, const Split& split) {
    return !split.literal && std::find(list.begin(), list.end(), split.pattern) != list.end();
  };
  return !splits.empty() && is_in(line_patterns, splits.back()) &&
         std::all_of(splits.begin(), splits.end() - 1,
                     [&](const Split& split) { return is_in(lineless_patterns, split); });
}

/// The first place at or after `at` behind a line end that stands between two characters of which neither is
/// a blank of Unicode, and the second is no '/'; the end of the text if there is none. Some such places are
/// not seen, where a byte alone does not tell.
inline std::size_t line_cut(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto within = [](unsigned value, unsigned low, unsigned high) {
    return value >= low && value <= high;
  };
  // Blanks beyond ASCII begin with 0xC2, 0xE1 and 0xE2, and one, U+3000, is E3 80 80.
  const auto leads = [&](std::size_t i) {
    return within(byte(i), 0xc3, 0xdf) || within(byte(i), 0xe4, 0xf4) ||
           (byte(i) == 0xe3 && i + 2 < text.size() && (byte(i + 1) != 0x80 || byte(i + 2) != 0x80));
  };
  for (std::size_t cut = std::max<std::size_t>(at, 4); cut < text.size(); ++cut) {
    if (text[cut - 1] != '\n') continue;
    if (!(within(byte(cut), 0x21, 0x7e) || leads(cut)) || text[cut] == '/') continue;
    const unsigned before = byte(cut - 2);
    if (within(before, 0x21, 0x7e)) return cut;
    if (!within(before, 0x80, 0xbf)) continue;
    if (within(byte(cut - 3), 0xc3, 0xdf)) return cut;
    if (within(byte(cut - 3), 0x80, 0xbf) && byte(cut - 4) >= 0xe3 && leads(cut - 4)) return cut;
  }
  return text.size();
}

}  // namespace mtpx::detail
