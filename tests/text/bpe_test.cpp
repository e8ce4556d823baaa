#include <mtpx/core/rng.hpp>
#include <mtpx/text/bpe.hpp>
#include <mtpx/text/byte_letters.hpp>

#include <doctest/doctest.h>

#include <random>
#include <set>
#include <thread>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/bpe.hpp");

namespace {

struct RandomBpe {
  std::vector<std::string> tokens;
  std::vector<Merge> merges;

  /// Merges of random tokens; few letters, so that they meet often.
  RandomBpe(std::mt19937& random, std::size_t count) {
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    std::set<std::string> known(tokens.begin(), tokens.end());
    std::vector<std::int32_t> letters{'a', 'b', 'c'};
    while (merges.size() < count) {
      const auto pick = [&] { return letters[random() % letters.size()]; };
      const Merge pair{pick(), pick()};
      if (std::find(merges.begin(), merges.end(), pair) != merges.end()) continue;
      const std::string text =
          tokens[static_cast<std::size_t>(pair.left)] + tokens[static_cast<std::size_t>(pair.right)];
      if (text.size() > 12) continue;
      merges.push_back(pair);
      if (!known.insert(text).second) continue;  // two merges may make one token
      letters.push_back(static_cast<std::int32_t>(tokens.size()));
      tokens.push_back(text);
    }
  }
};

/// The definition: look at all neighbours, merge the first of the lowest rank, again.
std::vector<std::int32_t> encode_by_rescan(const RandomBpe& bpe, const std::string& piece) {
  std::vector<std::int32_t> ids;
  for (const char byte : piece) ids.push_back(static_cast<unsigned char>(byte));
  for (;;) {
    std::size_t best = bpe.merges.size(), place = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rank = static_cast<std::size_t>(
          std::find(bpe.merges.begin(), bpe.merges.end(), Merge{ids[i], ids[i + 1]}) - bpe.merges.begin());
      if (rank < best) best = rank, place = i;
    }
    if (best == bpe.merges.size()) return ids;
    const std::string text = bpe.tokens[static_cast<std::size_t>(ids[place])] +
                             bpe.tokens[static_cast<std::size_t>(ids[place + 1])];
    ids[place] =
        static_cast<std::int32_t>(std::find(bpe.tokens.begin(), bpe.tokens.end(), text) - bpe.tokens.begin());
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

std::string bpe_error(std::vector<std::string> tokens, std::vector<Merge> merges) {
  try {
    Bpe(tokens, merges, false);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> all_bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

}  // namespace

TEST_CASE("Bpe: the heap gives what a rescan gives, for short and long pieces, cached or not") {
  std::mt19937 random(1);
  for (std::uint64_t round = 0; round < 8; ++round) {
    const RandomBpe naive(random, 5 + 12 * round);
    const Bpe bpe(naive.tokens, naive.merges, false);
    for (int i = 0; i < 300; ++i) {
      std::string piece(1 + random() % (i % 50 == 0 ? 400 : 30), ' ');
      for (char& c : piece) c = static_cast<char>('a' + random() % 3);
      const std::vector<std::int32_t> want = encode_by_rescan(naive, piece);
      for (int again = 0; again < 2; ++again) {
        std::vector<std::int32_t> ids;
        bpe.encode(piece, round + 1, ids);
        REQUIRE(ids == want);
      }
    }
  }
}

TEST_CASE("Bpe: a piece that is a token is that token at once, if the file wants it") {
  std::vector<std::string> tokens = all_bytes();
  tokens.insert(tokens.end(), {"ab", "bc", "abc"});
  for (const bool whole_first : {false, true}) {
    std::vector<std::int32_t> ids;
    Bpe(tokens, {{'b', 'c'}}, whole_first).encode("abc", 77 + whole_first, ids);
    CHECK(ids == (whole_first ? std::vector<std::int32_t>{258} : std::vector<std::int32_t>{'a', 257}));
  }
}

TEST_CASE("Bpe: a pair that stands twice has its last rank") {
  std::vector<std::string> tokens = all_bytes();
  tokens.insert(tokens.end(), {"ab", "bc"});
  std::vector<std::int32_t> ids;
  Bpe(tokens, {{'a', 'b'}, {'b', 'c'}, {'a', 'b'}}, false).encode("abc", 79, ids);
  CHECK(ids == std::vector<std::int32_t>{'a', 257});
}

TEST_CASE("Bpe: a long piece takes no quadratic time") {
  std::vector<std::string> tokens = all_bytes();
  std::vector<Merge> merges;
  for (std::int32_t left = 'a'; tokens.size() < 270; left = static_cast<std::int32_t>(tokens.size()) - 1) {
    tokens.push_back(tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(left)]);
    merges.push_back({left, left});
  }
  std::vector<std::int32_t> ids;
  Bpe(tokens, merges, false).encode(std::string(1U << 20U, 'a'), 80, ids);
  CHECK(ids == std::vector<std::int32_t>(64, 269));
}

TEST_CASE("Bpe: tokens that do not fit together are refused") {
  std::vector<std::string> tokens = all_bytes();
  CHECK(bpe_error(tokens, {}).empty());
  CHECK(bpe_error(tokens, {{'a', 'b'}}) == "[tokenizer] merge 0 makes no token");
  CHECK(bpe_error(tokens, {{'a', 256}}) == "[tokenizer] merge 0 has a token that is none");
  CHECK(bpe_error(tokens, {{-1, 'a'}}) == "[tokenizer] merge 0 has a token that is none");
  tokens.emplace_back("z");
  CHECK(bpe_error(tokens, {}) == "[tokenizer] token 256 has the bytes of another");
  tokens[7] = "";
  CHECK(bpe_error(tokens, {}) == "[tokenizer] token 256 has the bytes of another");
  tokens[256] = "zz";
  CHECK(bpe_error(tokens, {}) == "[tokenizer] no token is the byte 7");
}

TEST_CASE("byte_letters: every byte has a letter of its own, and comes back") {
  std::set<char32_t> letters(byte_letters.begin(), byte_letters.end());
  CHECK(letters.size() == 256);
  CHECK(byte_letters['A'] == 'A');
  CHECK(byte_letters[' '] == 0x120);
  CHECK(byte_letters['\n'] == 0x10a);
  CHECK(byte_letters[0xad] == 0x143);
  CHECK(to_letters(" a\n") == "\u0120a\u010a");
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  CHECK(from_letters(to_letters(bytes)) == bytes);
  for (const char* other : {" ", "a b", "\u0144", "\uff5c", "\u00ad", "\U0001f600", "\n"})
    CHECK(!from_letters(other));
}

TEST_SUITE_END();
