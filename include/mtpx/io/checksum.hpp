#pragma once
// A checksum of 64 bits, to notice bytes that changed on their way: XXH64 with seed 0, after its
// specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md, "XXH64 algorithm description"), whose names
// these are. No protection against somebody who changes bytes on purpose.

#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mtpx {

static_assert(std::endian::native == std::endian::little, "lanes are read as they lie in memory");

namespace detail {

constexpr std::uint64_t prime1 = 0x9E3779B185EBCA87, prime2 = 0xC2B2AE3D27D4EB4F, prime3 = 0x165667B19E3779F9,
                        prime4 = 0x85EBCA77C2B2AE63, prime5 = 0x27D4EB2F165667C5;

template <typename Lane>
std::uint64_t load_lane(const std::byte* from) {
  Lane lane;
  std::memcpy(&lane, from, sizeof lane);
  return lane;
}

inline std::uint64_t xxh64_round(std::uint64_t acc, std::uint64_t lane) {
  return std::rotl(acc + lane * prime2, 31) * prime1;
}

/// Step 2 of the specification for whole stripes of 32 bytes. A template, so that programs which are built
/// without optimisation can have it from a library (io/instances.hpp): all the time goes here.
template <typename Lane>
void xxh64_stripes(std::array<Lane, 4>& acc, std::span<const std::byte> stripes) {
  auto [a, b, c, d] = acc;  // in registers
  for (const std::byte *at = stripes.data(), *end = at + stripes.size(); at != end; at += 32) {
    a = xxh64_round(a, load_lane<Lane>(at));
    b = xxh64_round(b, load_lane<Lane>(at + 8));
    c = xxh64_round(c, load_lane<Lane>(at + 16));
    d = xxh64_round(d, load_lane<Lane>(at + 24));
  }
  acc = {a, b, c, d};
}

}  // namespace detail

/// XXH64 of bytes that come in pieces: how they are cut does not show.
class Checksum {
 public:
  /// Appends bytes.
  void add(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    length_ += bytes.size();
    if (const std::size_t held = held_; held > 0) {
      const std::size_t taken = std::min(stripe - held, bytes.size());
      std::memcpy(buffer_.data() + held, bytes.data(), taken);
      bytes = bytes.subspan(taken);
      held_ = held + taken;
      if (held_ < stripe) return;
      consume(buffer_);
      held_ = 0;
    }
    const std::size_t whole = bytes.size() / stripe * stripe;
    consume(bytes.first(whole));
    bytes = bytes.subspan(whole);
    if (!bytes.empty()) std::memcpy(buffer_.data(), bytes.data(), bytes.size());
    held_ = bytes.size();
  }
  /// Appends a text.
  void add(std::string_view text) { add(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Of all bytes so far; more may follow.
  std::uint64_t value() const {
    using namespace detail;
    std::uint64_t acc = prime5;
    if (length_ >= stripe) {
      acc = std::rotl(acc_[0], 1) + std::rotl(acc_[1], 7) + std::rotl(acc_[2], 12) + std::rotl(acc_[3], 18);
      for (const std::uint64_t lane : acc_) acc = (acc ^ xxh64_round(0, lane)) * prime1 + prime4;
    }
    acc += length_;
    std::size_t at = 0;
    for (; at + 8 <= held_; at += 8)
      acc = std::rotl(acc ^ xxh64_round(0, load_lane<std::uint64_t>(buffer_.data() + at)), 27) * prime1 +
            prime4;
    for (; at + 4 <= held_; at += 4)
      acc = std::rotl(acc ^ load_lane<std::uint32_t>(buffer_.data() + at) * prime1, 23) * prime2 + prime3;
    for (; at < held_; ++at)
      acc = std::rotl(acc ^ std::to_integer<std::uint64_t>(buffer_[at]) * prime5, 11) * prime1;
    acc = (acc ^ acc >> 33) * prime2;
    acc = (acc ^ acc >> 29) * prime3;
    return acc ^ acc >> 32;
  }

 private:
  static constexpr std::size_t stripe = 32;

  void consume(std::span<const std::byte> stripes) { detail::xxh64_stripes(acc_, stripes); }

  std::array<std::uint64_t, 4> acc_{detail::prime1 + detail::prime2, detail::prime2, 0, 0 - detail::prime1};
  std::array<std::byte, stripe> buffer_{};
  std::size_t held_ = 0;      // bytes in the buffer, fewer than a stripe
  std::uint64_t length_ = 0;  // of all bytes
};

/// XXH64 of `bytes`.
inline std::uint64_t checksum(std::span<const std::byte> bytes) {
  Checksum all;
  all.add(bytes);
  return all.value();
}
/// XXH64 of a text.
inline std::uint64_t checksum(std::string_view text) {
  return checksum(std::as_bytes(std::span(text.data(), text.size())));
}

/// The 16 digits 0-9a-f of a checksum, as `xxh64sum` prints it.
inline std::string checksum_text(std::uint64_t value) {
  std::string text(16, '0');
  char digits[16];
  const auto count = static_cast<std::size_t>(std::to_chars(digits, digits + 16, value, 16).ptr - digits);
  text.replace(16 - count, count, digits, count);
  return text;
}

/// The checksum that checksum_text() wrote; nothing if `text` is not one.
inline std::optional<std::uint64_t> parse_checksum(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  const bool whole = text.size() == 16 && failed == std::errc{} && end == text.data() + 16;
  return whole && checksum_text(value) == text ? std::optional(value) : std::nullopt;
}

}  // namespace mtpx
