#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mtpx {

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
  static bool valid(std::string_view text) {
    Utf8Stream stream;
    std::string out;
    for (const char c : text) out += stream.push(static_cast<unsigned char>(c));
    return out + stream.finish() == text;
  }

 private:
  static constexpr const char* replacement = "\xEF\xBF\xBD";

  std::string pending_;
  int missing_ = 0;
  unsigned char low_ = 0x80, high_ = 0xBF;  // what the next byte may be
};

}  // namespace mtpx
