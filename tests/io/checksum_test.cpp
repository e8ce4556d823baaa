#include <mtpx/io/checksum.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

using namespace mtpx;

namespace {
std::vector<std::byte> counted_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 3);
  return bytes;
}
}  // namespace

// The expected numbers are those of libxxhash 0.8.1.
TEST_CASE("checksum: XXH64 as its authors' library computes it") {
  CHECK(checksum_text(checksum("")) == "ef46db3751d8e999");
  CHECK(checksum_text(checksum("a")) == "d24ec4f1a98c6e5b");
  CHECK(checksum_text(checksum("abc")) == "44bc2cf5ad770999");
  CHECK(checksum_text(checksum("The quick brown fox jumps over the lazy dog")) == "0b242d361fda71bc");
  const std::vector<std::byte> bytes = counted_bytes(1000);
  CHECK(checksum_text(checksum(bytes)) == "5f235fa033f1a3fb");
  std::string all;  // of every length up to 299
  for (std::size_t n = 0; n < 300; ++n) all += checksum_text(checksum(std::span(bytes).first(n)));
  CHECK(checksum_text(checksum(all)) == "a97c33e5a34fbf9c");
}

TEST_CASE("checksum: how the bytes are cut does not show") {
  const std::vector<std::byte> bytes = counted_bytes(200);
  for (std::size_t piece = 1; piece <= 70; ++piece) {
    Checksum sum;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      sum.add(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
      sum.add(std::span<const std::byte>());
      CHECK(sum.value() == checksum(std::span(bytes).first(std::min(at + piece, bytes.size()))));
    }
  }
}

TEST_CASE("checksum: one flipped bit changes it, wherever it is") {
  std::vector<std::byte> bytes = counted_bytes(75);
  const std::uint64_t whole = checksum(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
    CHECK(checksum(bytes) != whole);
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
  }
}

TEST_CASE("checksum: as a text and back, nothing but that") {
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{0xef46db3751d8e999}, ~std::uint64_t{0}})
    CHECK(parse_checksum(checksum_text(value)) == value);
  CHECK(checksum_text(1) == "0000000000000001");
  for (const char* text :
       {"", "1", "000000000000000g", "00000000000000001", "000000000000000A", "-000000000000001"})
    CHECK(!parse_checksum(text));
}
