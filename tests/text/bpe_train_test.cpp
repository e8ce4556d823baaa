#include <mtpx/text/bpe_train.hpp>

#include <doctest/doctest.h>

#include <map>
#include <random>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/text/bpe_train.hpp");

namespace {

std::string random_prose(std::mt19937& random, int words) {
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += random() % 9 == 0 ? ".\n" : " ";
    for (std::size_t n = 1 + random() % 7; n > 0; --n) text += "abcde\u00e9\xff"[random() % 8];
  }
  return text;
}

/// The definition: count all pairs of neighbours anew for every merge. Ids as train_bpe() gives them.
std::vector<Merge> train_by_recounting(const std::string& text, std::size_t merges, std::int64_t least) {
  std::vector<Match> pieces;
  OwnPieces::find(text, pieces);
  const Tokenizer untrained = train_bpe(std::vector<std::string_view>{}, {.vocab_size = 256});
  std::vector<std::vector<std::int32_t>> words;
  for (const Match& piece : pieces)
    words.push_back(untrained.encode(text.substr(piece.begin, piece.end - piece.begin)));
  std::vector<Merge> found;
  while (found.size() < merges) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    for (const auto& word : words) {
      for (std::size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    std::pair<std::int32_t, std::int32_t> best;
    std::int64_t most = 0;  // of equals the first, which has the smallest ids
    for (const auto& [pair, count] : counts) {
      if (count > most) most = count, best = pair;
    }
    if (most < least) break;
    const auto merged = static_cast<std::int32_t>(256 + found.size());
    found.push_back({best.first, best.second});
    for (auto& word : words) {
      for (std::size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != best.first || word[i + 1] != best.second) continue;
        word[i] = merged;
        word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
  }
  return found;
}

Tokenizer train_text(const std::string& text, const BpeOptions& options, int threads = 1) {
  const std::string_view document = text;
  return train_bpe({&document, 1}, options, Cpu(threads));
}

std::string train_error(const BpeOptions& options) {
  try {
    (void)train_text("text", options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("train_bpe: the merges of counting anew for every merge") {
  std::mt19937 random(6);
  for (const std::int64_t least : {1, 2, 5}) {
    const std::string text = random_prose(random, 400);
    const std::vector<Merge> want = train_by_recounting(text, 150, least);
    CHECK(train_text(text, {.vocab_size = 256 + 150, .min_frequency = least}).parts().merges == want);
  }
}

TEST_CASE("train_bpe: the same for any number of threads, and for a text in several documents") {
  std::mt19937 random(7);
  std::string text;
  while (text.size() < 3'500'000) text += random_prose(random, 20000);
  const std::uint64_t one = train_text(text, {.vocab_size = 400}).fingerprint();
  CHECK(train_text(text, {.vocab_size = 400}, 3).fingerprint() == one);
  const std::size_t cut = OwnPieces::cut(text, text.size() / 3);
  const std::vector<std::string_view> halves{std::string_view(text).substr(cut),
                                             std::string_view(text).substr(0, cut)};
  CHECK(train_bpe(halves, {.vocab_size = 400}, Cpu(2)).fingerprint() == one);
}

TEST_CASE("train_bpe: ids are special tokens, bytes by their letters, merges; what was learnt is used") {
  const Tokenizer tokenizer =
      train_text("low low low lower lower newest", {.vocab_size = 262, .special = {"<eos>", "<\uff5c>"}});
  CHECK(tokenizer.size() == 262);
  CHECK(tokenizer.text(0) == "<eos>");
  CHECK(tokenizer.text(1) == "<\uff5c>");
  CHECK(tokenizer.text(2) == "!");       // the first letter
  CHECK(tokenizer.text(257) == "\xad");  // the last one
  CHECK(tokenizer.text(258) == "lo");
  CHECK(tokenizer.text(259) == "low");
  CHECK(tokenizer.text(260) == " low");
  CHECK(tokenizer.text(261) == "er");
  CHECK(tokenizer.encode(" lower<eos>", true) == std::vector<std::int32_t>{260, 261, 0});
  const std::string bytes = "any \xff\xfe bytes \u00e9\n\t low";
  CHECK(tokenizer.decode(tokenizer.encode(bytes)) == bytes);
}

TEST_CASE("train_bpe: ends when no pair is frequent enough; no text is no reason to fail") {
  CHECK(train_text("abab", {.vocab_size = 300}).size() == 257);
  CHECK(train_text("abab", {.vocab_size = 300, .min_frequency = 3}).size() == 256);
  CHECK(train_text("", {.vocab_size = 300}).size() == 256);
}

TEST_CASE("train_bpe: options that make no tokenizer are refused") {
  CHECK(train_error({.vocab_size = 255}) ==
        "[train_bpe] vocab_size = 255: must be 256 (bytes and special tokens) ... 1048576");
  CHECK(train_error({.vocab_size = 256, .special = {"<a>"}}) ==
        "[train_bpe] vocab_size = 256: must be 257 (bytes and special tokens) ... 1048576");
  CHECK(train_error({.special = {""}}) == "[train_bpe] special[0] must be UTF-8 and not empty");
  CHECK(train_error({.special = {"<a>", "\xff"}}) == "[train_bpe] special[1] must be UTF-8 and not empty");
  CHECK(train_error({.special = {"<a>", "<a>"}}) == "[train_bpe] special[1] stands twice");
}

TEST_SUITE_END();
