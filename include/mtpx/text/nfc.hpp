#pragma once
// Unicode's normalization form C (UAX 15), which some tokenizer files ask for.

#include <mtpx/text/nfc_tables.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// The tables of nfc_tables.hpp as they are asked.
class NfcData {
 public:
  struct Pair {
    char32_t first, second;
  };

  static const NfcData& get() {
    static const NfcData data;
    return data;
  }

  /// Whether normalisation of what stands before ends here: nothing before changes this character or passes
  /// it.
  bool starts(char32_t code) const { return code >= known || (flags_[code] & joins) == 0; }
  /// Whether the character alone is normalised.
  bool stable(char32_t code) const { return code >= known || (flags_[code] & changes) == 0; }

  std::uint8_t combining_class(char32_t code) const {
    const auto found = classes_.find(code);
    return found == classes_.end() ? std::uint8_t{0} : found->second;
  }

  /// Appends the full canonical decomposition.
  void decompose(char32_t code, std::u32string& out) const {
    if (code >= hangul && code < hangul + hangul_count) {
      const char32_t index = code - hangul, t = index % t_count;
      out += lead + index / (v_count * t_count);
      out += vowel + index % (v_count * t_count) / t_count;
      if (t != 0) out += tail + t;
      return;
    }
    const auto found = parts_.find(code);
    if (found == parts_.end()) {
      out += code;
      return;
    }
    decompose(found->second.first, out);
    if (found->second.second != 0) decompose(found->second.second, out);
  }

  /// The character that two become, or 0.
  char32_t compose(char32_t first, char32_t second) const {
    if (first >= lead && first < lead + l_count && second >= vowel && second < vowel + v_count)
      return hangul + ((first - lead) * v_count + (second - vowel)) * t_count;
    if (first >= hangul && first < hangul + hangul_count && (first - hangul) % t_count == 0 &&
        second > tail && second < tail + t_count)
      return first + (second - tail);
    const auto found = wholes_.find(key(first, second));
    return found == wholes_.end() ? 0 : found->second;
  }

 private:
  static constexpr char32_t known = 0x30000;  // nothing beyond has a mapping or a class
  static constexpr char32_t hangul = 0xac00, lead = 0x1100, vowel = 0x1161, tail = 0x11a7;  // Unicode 3.12
  static constexpr char32_t l_count = 19, v_count = 21, t_count = 28, hangul_count = 11172;
  static constexpr std::uint8_t joins = 1, changes = 2;

  static std::uint64_t key(char32_t first, char32_t second) { return std::uint64_t{first} << 32U | second; }

  NfcData() : flags_(known) {
    const auto add = [this](const Decomposition& whole, std::uint8_t flag) {
      parts_[whole.code] = {whole.first, whole.second};
      flags_[whole.code] |= flag;
    };
    for (const Decomposition& whole : excluded) add(whole, joins | changes);
    for (const Singletons& run : singletons) {
      for (char32_t i = 0; i < run.are.size(); ++i) add({run.code + i, run.are[i], 0}, joins | changes);
    }
    for (const Decomposition& whole : composed) {
      add(whole, 0);
      wholes_[key(whole.first, whole.second)] = whole.code;
      flags_[whole.second] |= joins;
    }
    for (const CombiningClass& range : combining_classes) {
      for (char32_t code = range.first; code <= range.last; ++code) {
        classes_[code] = range.value;
        flags_[code] |= joins;
      }
    }
    for (char32_t code = vowel; code < vowel + v_count; ++code) flags_[code] |= joins;
    for (char32_t code = tail + 1; code < tail + t_count; ++code) flags_[code] |= joins;
  }

  std::vector<std::uint8_t> flags_;
  std::unordered_map<char32_t, Pair> parts_;
  std::unordered_map<std::uint64_t, char32_t> wholes_;
  std::unordered_map<char32_t, std::uint8_t> classes_;
};

/// Normalises characters that nothing around them has to do with.
inline void nfc_segment(const NfcData& data, std::u32string& text, std::u32string& scratch) {
  scratch.clear();
  for (const char32_t code : text) data.decompose(code, scratch);
  // Marks in the order of their classes, none past a character that is no mark.
  for (std::size_t begin = 0; begin < scratch.size();) {
    std::size_t end = begin;
    while (end < scratch.size() && data.combining_class(scratch[end]) != 0) ++end;
    const auto at = [&](std::size_t i) { return scratch.begin() + static_cast<std::ptrdiff_t>(i); };
    std::stable_sort(at(begin), at(end), [&](char32_t a, char32_t b) {
      return data.combining_class(a) < data.combining_class(b);
    });
    begin = end + 1;
  }
  text.clear();
  std::size_t starter = std::u32string::npos;  // the last character that is no mark
  int last = -1;                               // class of the last one kept behind it; -1 if there is none
  for (const char32_t code : scratch) {
    const int own = data.combining_class(code);
    if (starter != std::u32string::npos && last < (own == 0 ? 0 : own)) {
      if (const char32_t whole = data.compose(text[starter], code)) {
        text[starter] = whole;
        continue;
      }
    }
    if (own == 0) {
      starter = text.size();
      last = -1;
    } else {
      last = own;
    }
    text += code;
  }
}

inline void append_utf8(char32_t code, std::string& out) {
  const auto tail = [&](unsigned shift) { out += static_cast<char>(0x80U | (code >> shift & 0x3fU)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0U | code >> 6U);
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0U | code >> 12U);
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xf0U | code >> 18U);
    tail(12), tail(6), tail(0);
  }
}

}  // namespace detail

/// `text`, valid UTF-8, in normalization form C.
inline std::string nfc(std::string_view text) {
  // Below U+0300 (bytes cc 80) nothing changes.
  const auto plain = [](char byte) { return static_cast<unsigned char>(byte) < 0xcc; };
  if (std::all_of(text.begin(), text.end(), plain)) return std::string(text);
  const detail::NfcData& data = detail::NfcData::get();
  std::string out;
  out.reserve(text.size());
  std::u32string segment, scratch;
  bool as_is = true;  // the segment is one character that stays
  std::size_t begin = 0;
  const auto flush = [&](std::size_t end) {
    if (as_is) {
      out += text.substr(begin, end - begin);
    } else {
      detail::nfc_segment(data, segment, scratch);
      for (const char32_t code : segment) detail::append_utf8(code, out);
    }
    begin = end;
    segment.clear();
    as_is = true;
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    const auto lead = static_cast<unsigned char>(text[at++]);
    char32_t code = lead;
    if (lead >= 0x80) {
      const int tail = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
      code = lead & (0x3fU >> tail);
      for (int i = 0; i < tail; ++i) code = code << 6U | (static_cast<unsigned char>(text[at++]) & 0x3fU);
    }
    if (here > begin && data.starts(code)) flush(here);
    as_is = as_is && segment.empty() && data.stable(code);
    segment += code;
  }
  flush(text.size());
  return out;
}

}  // namespace mtpx
