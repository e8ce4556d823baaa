#include <mtpx/train/learn_bpe.hpp>

#include "io/support.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

using mtpx::Corpus;
using mtpx::Cpu;
using mtpx::read_corpus;
using mtpx::Tokenizer;

TEST_SUITE_BEGIN("mtpx/train/learn_bpe.hpp");

namespace {

/// Words that are drawn, a line end now and then.
std::string drawn_words(unsigned seed, std::size_t size) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < size) {
    text += random() % 11 == 0 ? "\n" : " ";
    for (std::size_t n = 1 + random() % 6; n > 0; --n) text += "abcdefg"[random() % 7];
  }
  return text;
}

Tokenizer learnt_in_memory(const std::vector<std::filesystem::path>& paths, double held_out) {
  const Corpus corpus = read_corpus(paths).split(held_out).train;
  std::vector<std::string_view> documents;
  for (mtpx::Index d = 0; d < corpus.documents(); ++d) documents.push_back(corpus.text(d));
  return mtpx::train_bpe(documents, {.vocab_size = 320});
}

}  // namespace

TEST_CASE("learn_bpe: the tokenizer of the same text in memory, whatever is held out") {
  const mtpx_test::Folder folder;
  std::filesystem::create_directory(folder.root / "more");
  std::vector<std::filesystem::path> paths{folder.root / "more", folder.root / "long"};
  for (unsigned i = 0; i < 30; ++i)
    folder.write("more/" + std::to_string(i), drawn_words(i, 40 + 200 * std::size_t{i}));
  folder.write("more/binary", std::string("a\0b", 3));
  folder.write("long", drawn_words(77, std::size_t{1} << 20U));  // large enough to be mapped
  for (const double held_out : {0.0, 0.1, 0.5}) {
    const Tokenizer want = learnt_in_memory(paths, held_out);
    CHECK(mtpx::learn_bpe(paths, held_out, {.vocab_size = 320}, Cpu(1)).fingerprint() == want.fingerprint());
    CHECK(mtpx::learn_bpe(paths, held_out, {.vocab_size = 320}, Cpu(3)).fingerprint() == want.fingerprint());
  }
  CHECK(learnt_in_memory(paths, 0).fingerprint() != learnt_in_memory(paths, 0.5).fingerprint());
}

TEST_CASE("learn_bpe: what is counted at a time changes nothing") {
  const std::string text = drawn_words(5, 60000);
  const auto counted = [&](std::size_t most_held) {
    mtpx::detail::DocumentCounter counter(Cpu(2), most_held);
    counter.add({text, nullptr, false, "a"}, text.size());
    counter.add({text, nullptr, false, "b"}, 1001);
    return mtpx::train_bpe(counter.take(), {.vocab_size = 300}).fingerprint();
  };
  const std::uint64_t whole = counted(std::size_t{1} << 24U);
  for (const std::size_t most_held : {std::size_t{1}, std::size_t{700}, std::size_t{4096}})
    CHECK(counted(most_held) == whole);
}

TEST_CASE("learn_bpe: what cannot be learnt from is told") {
  const mtpx_test::Folder folder;
  const auto path = folder.write("a", "some text");
  CHECK(folder.error<mtpx::ConfigError>([&] { (void)mtpx::learn_bpe({path}, 0, {.vocab_size = 9}); }) ==
        "[train_bpe] vocab_size = 9: must be 256 (bytes and special tokens) ... 1048576");
  CHECK(folder.error<mtpx::ConfigError>([&] { (void)mtpx::learn_bpe({path}, 1); }) ==
        "[data] the validation fraction must be in [0, 1), it is 1");
  CHECK(folder.error([&] { (void)mtpx::learn_bpe({folder.root / "none"}, 0.1); }) ==
        "[data] none: no such file or folder");
}
