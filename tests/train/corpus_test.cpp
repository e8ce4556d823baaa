#include <mtpx/train/corpus_files.hpp>
#include <mtpx/train/tokens.hpp>

#include <doctest/doctest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

using mtpx::Corpus;
using mtpx::CorpusSplit;
using mtpx::Index;
using mtpx::read_corpus;
namespace fs = std::filesystem;

namespace {

/// An empty folder of its own, removed at the end.
struct TextFolder {
  fs::path root;
  TextFolder() {
    std::string pattern = (fs::temp_directory_path() / "mtpx_corpus_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    root = pattern;
  }
  ~TextFolder() { fs::remove_all(root); }
  TextFolder(const TextFolder&) = delete;
  TextFolder& operator=(const TextFolder&) = delete;

  fs::path write(const std::string& path, const std::string& bytes) const {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path, std::ios::binary) << bytes;
    return root / path;
  }
};

/// "name=text" of every document, names relative to `root`.
std::vector<std::string> contents(const Corpus& corpus, const fs::path& root) {
  std::vector<std::string> result;
  for (Index d = 0; d < corpus.documents(); ++d) {
    result.push_back(fs::path(corpus.name(d)).lexically_relative(root).string() + "=" +
                     std::string(corpus.text(d)));
  }
  return result;
}

std::string all_text(const Corpus& corpus) {
  std::string text;
  for (Index d = 0; d < corpus.documents(); ++d) text += corpus.text(d);
  return text;
}

/// The text of the FileError that reading `paths` throws.
std::string reading_error(const std::vector<fs::path>& paths) {
  try {
    read_corpus(paths);
  } catch (const mtpx::FileError& error) {
    return error.what();
  }
  return "no error";
}

using Strings = std::vector<std::string>;

}  // namespace

TEST_CASE("Corpus: a folder gives its text files sorted by path, whatever order they were made in") {
  const TextFolder folder;
  for (const char* name : {"z.txt", "b/2.txt", "a.txt", "b/10.txt", "b/c/deep.txt", "B.txt"}) {
    folder.write(name, std::string("<") + name + ">");
  }
  const Strings expected{"B.txt=<B.txt>",
                         "a.txt=<a.txt>",
                         "b/10.txt=<b/10.txt>",
                         "b/2.txt=<b/2.txt>",
                         "b/c/deep.txt=<b/c/deep.txt>",
                         "z.txt=<z.txt>"};
  CHECK(contents(read_corpus({folder.root}), folder.root) == expected);
  CHECK(contents(read_corpus({folder.root / ""}), folder.root) == expected);  // trailing slash
}

TEST_CASE("Corpus: folders skip hidden entries, builds, links, special, binary and blank files") {
  const TextFolder folder;
  folder.write("kept.txt", "kept");
  folder.write(".git/config", "x");
  folder.write("sub/.cache/x.txt", "x");
  folder.write(".hidden", "x");
  folder.write("build/x.txt", "x");
  folder.write("sub/runs/x.txt", "x");
  folder.write("program", std::string("ELF\0x", 5));
  folder.write("empty", "");
  folder.write("blank", " \r\n\t\n");
  folder.write("late_nul.txt", std::string(8192, 'a') + '\0');  // the NUL lies behind the first 8 KiB
  folder.write("early_nul.txt", std::string(8191, 'a') + '\0');
  const TextFolder elsewhere;
  elsewhere.write("x.txt", "x");
  fs::create_symlink(elsewhere.root, folder.root / "folder_link");
  fs::create_symlink(elsewhere.root / "x.txt", folder.root / "file_link");
  fs::create_symlink(folder.root, folder.root / "loop");
  fs::create_symlink("nowhere", folder.root / "dangling");
  REQUIRE(mkfifo((folder.root / "fifo").c_str(), 0600) == 0);

  CHECK(contents(read_corpus({folder.root}), folder.root) ==
        Strings{"kept.txt=kept", "late_nul.txt=" + std::string(8192, 'a') + '\0'});
  // Named themselves, such folders and links are read.
  CHECK(all_text(read_corpus({folder.root / "build", folder.root / "file_link"})) == "xx");
}

TEST_CASE("Corpus: paths keep their order, and a file reached twice counts once") {
  const TextFolder folder;
  const fs::path a = folder.write("a.txt", "A"), b = folder.write("b.txt", "B");
  CHECK(all_text(read_corpus({b, a})) == "BA");
  CHECK(all_text(read_corpus({b, folder.root, a, folder.root / "." / "b.txt"})) == "BA");
  CHECK(all_text(read_corpus({folder.root, folder.root})) == "AB");
}

TEST_CASE("Corpus: a named file is taken byte for byte (D5)") {
  const TextFolder folder;
  std::string bytes = "\xEF\xBB\xBFline\r\n\xFF\xFE\xC3(";  // byte order mark, CRLF, broken UTF-8
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  const Corpus corpus = read_corpus({folder.write("odd.bin", bytes)});
  REQUIRE(corpus.size() == static_cast<Index>(bytes.size()));
  CHECK(corpus.text(0) == bytes);
  const mtpx::Tokens tokens(corpus);
  for (int byte = 0; byte < 256; ++byte) CHECK(tokens.at(tokens.size() - 256 + byte) == byte);

  const std::string line(10'000'000, 'x');  // 10 MB without a newline
  CHECK(read_corpus({folder.write("line.txt", line)}).text(0) == line);
}

TEST_CASE("Corpus: large files are mapped, small ones read, with the same rules") {
  const TextFolder folder;
  std::string large(1 << 20, 'a');
  large.back() = 'b';
  folder.write("a/large.txt", large);
  folder.write("a/small.txt", "small");
  std::string binary = large, blank(1 << 20, ' ');
  binary[8191] = '\0';
  folder.write("a/binary", binary);
  folder.write("a/blank", blank);
  const Corpus corpus = read_corpus({folder.root / "a"});
  REQUIRE(corpus.documents() == 2);
  CHECK(corpus.text(0) == large);
  CHECK(corpus.text(1) == "small");
  CHECK(corpus.size() == (1 << 20) + 5);
  CHECK(mtpx::text_bytes_at_most({folder.root / "a"}) == 3 * (1 << 20) + 5);
  CHECK(read_corpus({folder.root / "a" / "binary"}).text(0) == binary);
  CHECK(reading_error({folder.root / "a" / "blank"}) ==
        "[data] " + (folder.root / "a" / "blank").string() + ": the file holds only white space");
  Corpus copy = corpus;  // shares the mapping, which outlives the file and the other corpus
  fs::remove(folder.root / "a" / "large.txt");
  CHECK(copy.split(0.5).train.text(0) == large.substr(0, 1 << 19));
}

TEST_CASE("Corpus: bad paths give one exact line (D1)") {
  const TextFolder folder;
  const std::string root = folder.root.string();
  CHECK(reading_error({}) == "[data] no file or folder given");
  CHECK(reading_error({root + "/none"}) == "[data] " + root + "/none: no such file or folder");
  CHECK(reading_error({root}) == "[data] " + root + ": the folder holds no text files");
  CHECK(reading_error({folder.write("empty", "")}) == "[data] " + root + "/empty: the file is empty");
  CHECK(reading_error({folder.write("blank", " \n")}) ==
        "[data] " + root + "/blank: the file holds only white space");
  CHECK(reading_error({"/dev/zero"}) == "[data] /dev/zero: neither a file nor a folder");
  CHECK(reading_error({folder.write("file", "x") / "below"}) ==
        "[data] " + root + "/file/below: no such file or folder");
  CHECK(reading_error({root}) == "no error");  // now there is "file"
  fs::create_symlink("nowhere", folder.root / "dangling");
  CHECK(reading_error({root + "/dangling"}) == "[data] " + root + "/dangling: no such file or folder");
  CHECK_THROWS_WITH_AS(Corpus::from_text(""), "[data] the text is empty", mtpx::FileError);
}

TEST_CASE("Corpus: a file that cannot be read is an error, also inside a folder") {
  if (fs::exists("/proc/self/mem")) {  // opens, but reading its first bytes fails
    CHECK(reading_error({"/proc/self/mem"}) == "[data] /proc/self/mem: cannot be read (Input/output error)");
  }
  if (geteuid() == 0) return;  // root may read everything
  const TextFolder folder;
  folder.write("a.txt", "a");
  fs::permissions(folder.write("b.txt", "b"), fs::perms::none);
  CHECK(reading_error({folder.root}) ==
        "[data] " + folder.root.string() + "/b.txt: cannot be read (Permission denied)");
}

TEST_CASE("Corpus and Tokens: documents are found by offset") {
  Corpus corpus;
  CHECK(corpus.empty());
  CHECK(corpus.start(0) == 0);
  corpus.add("abc", "one");
  corpus.add("", "no document");
  corpus.add("d", "two");
  corpus.add("ef", "three");
  CHECK(corpus.documents() == 3);
  CHECK(corpus.size() == 6);
  const mtpx::Tokens tokens(corpus);
  CHECK(tokens.documents() == 3);
  CHECK(tokens.size() == 6);
  const std::vector<Index> expected{0, 0, 0, 1, 2, 2};
  for (Index offset = 0; offset < 6; ++offset) {
    CHECK(tokens.document_at(offset) == expected[static_cast<std::size_t>(offset)]);
    CHECK(tokens.at(offset) == 'a' + offset);
  }
  CHECK(tokens.start(2) == 4);
  CHECK(tokens.length(2) == 2);
  CHECK(corpus.start(2) == 4);
  CHECK(corpus.length(2) == 2);
  CHECK(corpus.name(1) == "two");
}

TEST_CASE("Corpus::split: long documents give their tails, short ones go whole, nothing is in both") {
  Corpus corpus;
  for (int d = 0; d < 100; ++d) {  // every tenth is long; each has a letter of its own at its end
    const int length = d % 10 == 3 ? 20'000 : 100 + d;
    corpus.add(std::string(static_cast<std::size_t>(length), 'a') + std::to_string(d), std::to_string(d));
  }
  const CorpusSplit parts = corpus.split(0.1);
  Index long_tails = 0, whole = 0, v = 0, t = 0;
  for (Index d = 0; d < corpus.documents(); ++d) {  // train + validation of each name give the document
    std::string text;
    bool in_train = false;
    if (t < parts.train.documents() && parts.train.name(t) == corpus.name(d)) {
      text += parts.train.text(t++);
      in_train = true;
    }
    if (v < parts.validation.documents() && parts.validation.name(v) == corpus.name(d)) {
      in_train ? ++long_tails : ++whole;
      text += parts.validation.text(v++);
    }
    CHECK(text == corpus.text(d));
  }
  CHECK(t == parts.train.documents());
  CHECK(v == parts.validation.documents());
  CHECK(long_tails == 10);
  CHECK(whole == 9);  // of 90
  CHECK(parts.train.size() + parts.validation.size() == corpus.size());
  CHECK(static_cast<double>(parts.validation.size()) / static_cast<double>(corpus.size()) ==
        doctest::Approx(0.1).epsilon(0.01));

  const CorpusSplit again = corpus.split(0.1);
  CHECK(all_text(again.train) == all_text(parts.train));
  CHECK(all_text(again.validation) == all_text(parts.validation));
}

TEST_CASE("Corpus::split: small texts, fraction 0, and what training must keep (D3)") {
  const Corpus text = Corpus::from_text("0123456789abcdefghij");
  CHECK(all_text(text.split(0.1).train) == "0123456789abcdefgh");
  CHECK(all_text(text.split(0.1).validation) == "ij");
  CHECK(all_text(text.split(0.001).validation) == "j");
  CHECK(text.split(0.1, 18).validation.size() == 2);
  CHECK(text.split(0.1, 19).validation.empty());
  CHECK(text.split(0.1, 19).train.size() == 20);
  CHECK(text.split(0).validation.empty());
  CHECK(text.split(0).train.size() == 20);
  CHECK(Corpus::from_text("x").split(0.5).train.size() == 1);  // training is never emptied
  CHECK(Corpus().split(0.5).train.empty());

  Corpus three;  // too few short documents for the stride: the longest gives its tail
  for (const char* word : {"ab", "0123456789", "cd"}) three.add(word, word);
  CHECK(all_text(three.split(0.1).validation) == "9");
  CHECK(three.split(0.1).train.documents() == 3);
}

TEST_CASE("Corpus::split: a fraction outside [0, 1) is refused") {
  const Corpus text = Corpus::from_text("abc");
  CHECK_THROWS_WITH_AS(text.split(1), "[data] the validation fraction must be in [0, 1), it is 1",
                       mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(text.split(-0.5), "[data] the validation fraction must be in [0, 1), it is -0.5",
                       mtpx::ConfigError);
  CHECK_THROWS_AS(text.split(std::numeric_limits<double>::quiet_NaN()), mtpx::ConfigError);
}

TEST_CASE("Tokens::split: as a corpus of bytes is split, without a copy; parts are cut anew when they grow") {
  Corpus corpus;
  for (int d = 0; d < 100; ++d) {
    const int length = d % 10 == 3 ? 20'000 : 100 + d;
    corpus.add(std::string(static_cast<std::size_t>(length), static_cast<char>('a' + d % 26)) + "!", "d");
  }
  const mtpx::Tokens all(corpus);
  for (const double fraction : {0.0, 0.001, 0.1, 0.5}) {
    const CorpusSplit texts = corpus.split(fraction, 1000);
    const mtpx::TokenSplit ids = all.split(fraction, 1000);
    const auto same = [](const mtpx::Tokens& tokens, const Corpus& text) {
      const mtpx::Tokens expected(text);
      REQUIRE(tokens.documents() == expected.documents());
      REQUIRE(tokens.size() == expected.size());
      for (Index d = 0; d < tokens.documents(); ++d) CHECK(tokens.start(d) == expected.start(d));
      std::vector<std::int32_t> read(static_cast<std::size_t>(tokens.size())), wanted(read.size());
      tokens.read(0, read);
      expected.read(0, wanted);
      CHECK(read == wanted);
    };
    same(ids.train, texts.train);
    same(ids.validation, texts.validation);
  }
  mtpx::Tokens part = all.split(0.1).validation;
  const Index size = part.size();
  const std::int32_t last = part.at(size - 1);
  part.add(std::vector<std::int32_t>{70000, 1});  // wider than what it shares
  CHECK(part.size() == size + 2);
  CHECK(part.at(size) == 70000);
  CHECK(part.at(size - 1) == last);
  CHECK(all.at(all.size() - 1) == '!');  // the others keep theirs
  CHECK_THROWS_WITH_AS(all.split(1), "[data] the validation fraction must be in [0, 1), it is 1",
                       mtpx::ConfigError);
}

TEST_CASE("Tokens: ids that lie elsewhere are read where they are, once they may be") {
  const auto ids = std::make_shared<const std::vector<std::uint16_t>>(
      std::vector<std::uint16_t>{1, 2, 3, 0xfffe, 5, 6, 7, 8});
  std::vector<std::pair<Index, Index>> asked;
  const mtpx::Tokens tokens(
      mtpx::BorrowedIds{std::as_bytes(std::span(*ids)), 2, {0, 3}, ids, [&](Index first, Index count) {
                          asked.emplace_back(first, count);
                          if (first + count > 7) throw mtpx::FileError("the last id");
                        }});
  CHECK(tokens.size() == 8);
  CHECK(tokens.documents() == 2);
  CHECK(tokens.at(3) == 0xfffe);
  const auto [train, validation] = tokens.split(0.4);
  REQUIRE(validation.size() == 5);  // the second document: the middle of a stride of 2.5
  CHECK(validation.at(1) == 5);
  CHECK(train.at(2) == 3);
  CHECK(asked == std::vector<std::pair<Index, Index>>{{3, 1}, {4, 1}, {2, 1}});
  std::vector<std::int32_t> all(8);
  CHECK_THROWS_WITH_AS(tokens.read(0, all), "the last id", mtpx::FileError);
}

TEST_CASE("Tokens: ids of one's own, however large, and those of any tokenizer") {
  mtpx::Tokens tokens;
  CHECK(tokens.empty());
  const std::vector<std::vector<std::int32_t>> documents{
      {0, 255, 7}, {}, {256, 65535}, {3}, {65536, 2147483647, 0}};  // one, two and four bytes each
  std::vector<std::int32_t> all;
  for (const auto& ids : documents) {
    tokens.add(ids);
    all.insert(all.end(), ids.begin(), ids.end());
    REQUIRE(tokens.size() == static_cast<Index>(all.size()));  // those before keep their values
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(tokens.at(static_cast<Index>(i)) == all[i]);
  }
  CHECK(tokens.documents() == 4);
  CHECK(tokens.start(1) == 3);
  CHECK(tokens.document_at(5) == 2);
  CHECK_THROWS_WITH_AS(tokens.add(std::vector<std::int32_t>{1, -2}),
                       "[data] document 4 has the id -2: ids start at 0", mtpx::ConfigError);
  CHECK(tokens.size() == 9);

  Corpus corpus;
  for (int d = 0; d < 20; ++d) corpus.add(std::string(static_cast<std::size_t>(d + 1), 'a'), "d");
  const auto lengths = [](std::string_view text) {
    return std::vector<std::int32_t>{static_cast<std::int32_t>(text.size()), 1000};
  };
  for (const int threads : {1, 3}) {
    const mtpx::Tokens encoded(corpus, lengths, mtpx::Cpu(threads));
    REQUIRE(encoded.documents() == 20);
    for (Index d = 0; d < 20; ++d) CHECK(encoded.at(encoded.start(d)) == d + 1);
  }
  const auto refuse = [](std::string_view text) -> std::vector<std::int32_t> {
    if (text.size() == 7) throw mtpx::FileError("seven");
    return {1};
  };
  CHECK_THROWS_WITH_AS(mtpx::Tokens(corpus, refuse), "seven", mtpx::FileError);
}
