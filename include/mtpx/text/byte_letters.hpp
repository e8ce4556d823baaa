#pragma once
// The letters by which files spell bytes: GPT-2's alphabet, which Hugging Face calls ByteLevel.

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace mtpx {

/// The letter of every byte: a byte that Latin-1 prints is itself, the others are U+0100, U+0101, ... in
/// order. So a token with any bytes is spelt without blanks, as valid UTF-8.
inline constexpr std::array<char32_t, 256> byte_letters = [] {
  std::array<char32_t, 256> letters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printed = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    letters[byte] = printed ? byte : next++;
  }
  return letters;
}();

/// Bytes as a file spells them.
inline std::string to_letters(std::string_view bytes) {
  std::string letters;
  letters.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const char32_t letter = byte_letters[static_cast<unsigned char>(byte)];
    if (letter < 0x80) {
      letters += static_cast<char>(letter);
    } else {  // all are below U+0144
      letters += static_cast<char>(0xc0U | letter >> 6U);
      letters += static_cast<char>(0x80U | (letter & 0x3fU));
    }
  }
  return letters;
}

/// The bytes that `letters`, valid UTF-8, spells; nothing if it has a character that is no letter of a byte.
inline std::optional<std::string> from_letters(std::string_view letters) {
  static constexpr std::array<short, 0x144> bytes = [] {
    std::array<short, 0x144> table{};
    for (short& byte : table) byte = -1;
    for (std::size_t byte = 0; byte < 256; ++byte) table[byte_letters[byte]] = static_cast<short>(byte);
    return table;
  }();
  std::string out;
  out.reserve(letters.size());
  for (std::size_t i = 0; i < letters.size(); ++i) {
    char32_t letter = static_cast<unsigned char>(letters[i]);
    if (letter >= 0x80) {
      if (letter >= 0xe0 || i + 1 == letters.size()) return std::nullopt;
      letter = (letter & 0x1fU) << 6U | (static_cast<unsigned char>(letters[++i]) & 0x3fU);
    }
    if (letter >= bytes.size() || bytes[letter] < 0) return std::nullopt;
    out += static_cast<char>(bytes[letter]);
  }
  return out;
}

}  // namespace mtpx
