#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace mtpx {

namespace detail {
/// The first byte that is not part of a UTF-8 character (Unicode 15, table 3-7), or the size if there is
/// none.
inline std::size_t utf8_prefix(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto within = [&](std::size_t i, unsigned low, unsigned high) {
    return byte(i) >= low && byte(i) <= high;
  };
  std::size_t i = 0;
  while (i < text.size()) {
    constexpr std::uint64_t high_bits = 0x8080808080808080;
    std::uint64_t eight = high_bits;  // most text is ASCII
    if (text.size() - i >= sizeof(eight)) std::memcpy(&eight, text.data() + i, sizeof(eight));
    if ((eight & high_bits) == 0) {
      i += sizeof(eight);
      continue;
    }
    const unsigned lead = byte(i);
    std::size_t length = 0;
    if (lead < 0x80U) {
      length = 1;
    } else if (lead >= 0xc2U && lead <= 0xdfU) {
      length = 2;
    } else if (lead >= 0xe0U && lead <= 0xefU) {  // no overlong forms, no surrogates
      if (!within(i + 1, lead == 0xe0U ? 0xa0U : 0x80U, lead == 0xedU ? 0x9fU : 0xbfU)) return i;
      length = 3;
    } else if (lead >= 0xf0U && lead <= 0xf4U) {  // no overlong forms, nothing above U+10FFFF
      if (!within(i + 1, lead == 0xf0U ? 0x90U : 0x80U, lead == 0xf4U ? 0x8fU : 0xbfU)) return i;
      length = 4;
    } else {
      return i;
    }
    for (std::size_t tail = 1; tail < length; ++tail) {
      if (!within(i + tail, 0x80U, 0xbfU)) return i;
    }
    i += length;
  }
  return i;
}
}  // namespace detail

/// Turns bytes that arrive one by one into whole UTF-8 characters. A byte that cannot belong to one becomes
/// U+FFFD, the replacement character, so what comes out is always valid UTF-8.
class Utf8Stream {
 public:
  /// What is complete once `byte` is known; empty in the middle of a character.
  std::string push(unsigned char byte) {
    std::string out;
    if (missing_ > 0) {
      if (byte >= low_ && byte <= high_) {
        pending_ += static_cast<char>(byte);
        low_ = 0x80;
        high_ = 0xBF;
        if (--missing_ == 0) out.swap(pending_);
        return out;
      }
      out = finish();
    }
    if (byte < 0x80) return out += static_cast<char>(byte);
    low_ = 0x80;
    high_ = 0xBF;
    if (byte >= 0xC2 && byte <= 0xDF) {
      missing_ = 1;
    } else if (byte >= 0xE0 && byte <= 0xEF) {
      missing_ = 2;
      if (byte == 0xE0) low_ = 0xA0;   // shorter spellings exist
      if (byte == 0xED) high_ = 0x9F;  // surrogates are no characters
    } else if (byte >= 0xF0 && byte <= 0xF4) {
      missing_ = 3;
      if (byte == 0xF0) low_ = 0x90;
      if (byte == 0xF4) high_ = 0x8F;  // above U+10FFFF
    } else {
      return out += replacement;
    }
    pending_ = static_cast<char>(byte);
    return out;
  }

  /// U+FFFD if the text ends inside a character, once; otherwise nothing.
  std::string finish() {
    const bool open = missing_ > 0;
    missing_ = 0;
    pending_.clear();
    return open ? replacement : "";
  }

  /// Whether `text` is UTF-8 throughout.
  static bool valid(std::string_view text) { return detail::utf8_prefix(text) == text.size(); }

 private:
  static constexpr const char* replacement = "\xEF\xBF\xBD";

  std::string pending_;
  int missing_ = 0;
  unsigned char low_ = 0x80, high_ = 0xBF;  // what the next byte may be
};

}  // namespace mtpx
