// Token files: what was written is read, from the map; and what changed is refused.

#include <mtpx/io/token_writer.hpp>
#include <mtpx/text/bpe_train.hpp>
#include <mtpx/train/batches.hpp>

#include "io/support.hpp"

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

TEST_SUITE_BEGIN("token files");

namespace token_file_test {

using namespace mtpx;
using Ids = std::vector<std::int32_t>;

Ids all_of(const Tokens& tokens) {
  Ids ids(static_cast<std::size_t>(tokens.size()));
  tokens.read(0, ids);
  return ids;
}

void same(const Tokens& a, const Tokens& b) {
  REQUIRE(a.documents() == b.documents());
  for (Index d = 0; d <= a.documents(); ++d) REQUIRE(a.start(d) == b.start(d));
  CHECK((all_of(a) == all_of(b)));
}

/// Writes documents of ids, each as if made of a text of three bytes.
void write_ids(const std::filesystem::path& path, Index vocabulary, const std::vector<Ids>& documents) {
  TokenFileWriter writer(path, vocabulary, 77);
  for (const Ids& ids : documents) {
    writer.begin_document(3);
    writer.text("a");
    writer.add(ids);
    writer.text("bc");
    writer.end_document();
  }
  writer.finish();
}

/// Changes the header of a token file, which then has its checksum.
std::string with_header(std::string file, const std::function<void(detail::TokenHeader&)>& change) {
  detail::TokenHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  change(header);
  header.header = detail::header_checksum(header);
  std::memcpy(file.data(), &header, sizeof header);
  return file;
}

std::string text_of_lines(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    const char* const ends[] = {" fox's\n", ".\r\n\r\n  ", "s\n", "\n\n\t"};
    text += "line " + std::to_string(i * 7919 % 1000) + ": the quick, \xC3\xA4nd \xFF the slow" + ends[i % 4];
  }
  return text;
}

TEST_CASE("token file: ids of every width come back, with what was said about them") {
  const mtpx_test::Folder folder;
  for (const Index vocabulary :
       {Index{1}, Index{200}, Index{256}, Index{257}, Index{65536}, Index{65537}, Index{1} << 31}) {
    const auto last = static_cast<std::int32_t>(vocabulary - 1);
    std::vector<Ids> documents{{0, last, 0}, {}, {last}};
    for (int i = 0; i < 70000; ++i)
      documents[2].push_back(static_cast<std::int32_t>(i * 7919LL % vocabulary));
    write_ids(folder.root / "ids", vocabulary, documents);
    CHECK(TokenFile::is(folder.root / "ids"));
    const TokenFile file = TokenFile::open(folder.root / "ids");
    CHECK(file.vocabulary() == vocabulary);
    CHECK(file.tokenizer() == 77);
    CHECK(file.text_bytes() == 9);
    CHECK(file.documents() == 2);
    CHECK(file.size() == 70004);
    Tokens expected;
    for (const Ids& ids : documents) expected.add(ids);
    same(file.tokens(), expected);
    CHECK(file.fingerprint() == IdsFingerprint::of(expected));
  }
  CHECK(folder.files() == 1);
  CHECK(!TokenFile::is(folder.root / "none"));
  CHECK(!TokenFile::is(folder.root));
  CHECK(!TokenFile::is(folder.write("text", "mtpxtok")));
}

TEST_CASE("token file: what the writer cannot write, and what it leaves behind: nothing") {
  const mtpx_test::Folder folder;
  CHECK_THROWS_WITH_AS(write_ids(folder.root / "ids", 300, {{1}, {2, 300}}),
                       "[tokens] document 1 has the id 300, outside the vocabulary of 300", ConfigError);
  CHECK_THROWS_WITH_AS(write_ids(folder.root / "ids", 300, {{-1}}),
                       "[tokens] document 0 has the id -1, outside the vocabulary of 300", ConfigError);
  CHECK(folder.error([&] { write_ids(folder.root / "ids", 300, {{}}); }) ==
        "[tokens] ids: there are no tokens to write");
  CHECK(folder.files() == 0);
}

TEST_CASE("token file: of files and folders, as their corpus in memory, for any number of threads") {
  const mtpx_test::Folder folder;
  std::filesystem::create_directory(folder.root / "text");
  const std::string large = text_of_lines(40000);  // several parts, and mapped
  REQUIRE(large.size() > std::size_t{1} << 20);
  for (int i = 0; i < 30; ++i) folder.write("text/" + std::to_string(i), text_of_lines(i));
  folder.write("text/large", large);
  const std::vector<std::filesystem::path> paths{folder.root / "text"};
  const Corpus corpus = read_corpus(paths);
  const std::string_view sample = corpus.text(3);

  TokenizerParts parts = train_bpe({&sample, 1}, {.vocab_size = 300, .special = {"<s>", "</s>"}}).parts();
  const Tokenizer learnt(parts);
  parts.before = {0};
  parts.after = {1, 1};
  const Tokenizer around(parts);
  CHECK(around.fingerprint() != learnt.fingerprint());
  parts.added.push_back({300, "s\nline", false, false});  // would cross a cut: nothing is cut
  for (const Tokenizer& tokenizer : {Tokenizer(), learnt, around, Tokenizer(parts)}) {
    std::string first;
    for (const int threads : {1, 3}) {
      write_token_file(folder.root / "ids", paths, tokenizer, Cpu(threads));
      if (first.empty()) first = folder.read("ids");
      CHECK((folder.read("ids") == first));
    }
    const Tokens expected(corpus, [&](std::string_view text) {
      Ids ids = tokenizer.parts().before;
      const Ids inner = tokenizer.encode(text);
      ids.insert(ids.end(), inner.begin(), inner.end());
      ids.insert(ids.end(), tokenizer.parts().after.begin(), tokenizer.parts().after.end());
      return ids;
    });
    const TokenFile file = TokenFile::open(folder.root / "ids");
    same(file.tokens(), expected);
    CHECK(file.fingerprint() == IdsFingerprint::of(expected));
    CHECK(file.tokenizer() == tokenizer.fingerprint());
    CHECK(file.vocabulary() == tokenizer.size());
    CHECK(file.text_bytes() == corpus.size());
    CHECK(file.text_checksum() == TextChecksum::of(paths));
    // So are windows, of what is trained on and of what is held out.
    const TokenSplit mapped = file.tokens().split(0.1, 100), held = expected.split(0.1, 100);
    const BatchOptions options{.batch = 4, .seq = 50, .seed = 3};
    CHECK(Batches(mapped.train, options).at(5).tokens == Batches(held.train, options).at(5).tokens);
    CHECK(Batches(mapped.train, options).at(5).positions == Batches(held.train, options).at(5).positions);
    CHECK(all_of(mapped.validation) == all_of(held.validation));
  }
  folder.write("text/29", text_of_lines(30));
  CHECK(TokenFile::open(folder.root / "ids").text_checksum() != TextChecksum::of(paths));
}

TEST_CASE(
    "token file: a byte that changed is found: in header and tables at once, in ids when they are read") {
  const mtpx_test::Folder folder;
  std::vector<Ids> documents(3);
  for (int i = 0; i < 100000; ++i) documents[static_cast<std::size_t>(i % 3)].push_back(i % 300);
  write_ids(folder.root / "ids", 300, documents);
  const std::string sound = folder.read("ids");
  const std::size_t ids_end = sizeof(detail::TokenHeader) + 200000;
  const auto changed = [&](std::size_t place) {
    std::string file = sound;
    file[place] = static_cast<char>(file[place] ^ 16);
    return folder.write("changed", file);
  };
  for (std::size_t place = 0; place < sizeof(detail::TokenHeader); ++place)
    CHECK_THROWS_AS(TokenFile::open(changed(place)), FileError);
  for (std::size_t place = ids_end; place < sound.size(); ++place)
    CHECK_THROWS_AS(TokenFile::open(changed(place)), FileError);
  CHECK(folder.error([&] { TokenFile::open(changed(ids_end)); }) ==
        "[tokens] changed: the tables have changed since they were written: their checksum is another one");
  CHECK(folder.error([&] { TokenFile::open(changed(80)); }) ==
        "[tokens] changed: the header has changed since it was written: its checksum is another one");

  const Tokens tokens = TokenFile::open(changed(sizeof(detail::TokenHeader) + 70000)).tokens();
  CHECK(tokens.at(32767) == 32767 * 3 % 300);  // the block before
  CHECK(tokens.at(65536) >= 0);                // and the one behind
  const std::string text =
      "[tokens] changed: tokens 32768 to 65535 have changed since they were written: their checksum is "
      "another "
      "one";
  for (const Index place : {Index{32768}, Index{40000}, Index{65535}})
    CHECK(folder.error([&] { (void)tokens.at(place); }) == text);
  CHECK(folder.error([&] {
    Ids some(100);
    tokens.read(32700, some);
  }) == text);
  const Tokens taken = TokenFile::open(folder.root / "changed", {.verify = false}).tokens();
  CHECK(taken.at(32768) == 32768 * 3 % 300);

  std::string outside = sound;  // an id that the writer would not have written
  outside[sizeof(detail::TokenHeader) + 3] = 2;
  folder.write("changed", outside);
  const Tokens wrong = TokenFile::open(folder.root / "changed", {.verify = false}).tokens();
  CHECK(wrong.at(0) == 0);
  CHECK(folder.error([&] { (void)wrong.at(1); }) ==
        "[tokens] changed: token 1 = 515 is outside the vocabulary of 300");
}

TEST_CASE("token file: truncated, grown or shrunk in use") {
  const mtpx_test::Folder folder;
  write_ids(folder.root / "ids", 300, {Ids(50000, 7), Ids(5, 8)});
  const std::string sound = folder.read("ids");
  for (std::size_t size = 0; size < sound.size(); size += size < 200 ? 1 : 997) {
    const auto path = folder.write("cut", sound.substr(0, size));
    CHECK_THROWS_AS(TokenFile::open(path), FileError);
  }
  folder.write("cut", sound.substr(0, sound.size() - 8));
  CHECK(folder.error([&] { TokenFile::open(folder.root / "cut"); }) ==
        "[tokens] cut: has 100176 bytes; its header says 100184");
  folder.write("cut", sound.substr(0, 100));
  CHECK(folder.error([&] { TokenFile::open(folder.root / "cut"); }) ==
        "[tokens] cut: is no token file: it has 100 bytes, fewer than a header's 128");
  folder.write("cut", sound + "x");
  CHECK_THROWS_AS(TokenFile::open(folder.root / "cut"), FileError);
  folder.write("cut", std::string(200, 'x'));
  CHECK(folder.error([&] { TokenFile::open(folder.root / "cut"); }) ==
        "[tokens] cut: is no token file: it does not begin as one");

  const Tokens tokens = TokenFile::open(folder.root / "ids").tokens();
  CHECK(tokens.at(0) == 7);
  std::filesystem::resize_file(folder.root / "ids", 4096);
  CHECK(folder.error([&] { (void)tokens.at(40000); }) ==
        "[tokens] ids: has shrunk from 100184 to 4096 bytes while it was in use");
}

TEST_CASE("token file: a header that says what cannot be is refused by name, though its checksum is right") {
  const mtpx_test::Folder folder;
  write_ids(folder.root / "ids", 300, {{1, 2, 3}, {4}});
  const std::string sound = folder.read("ids");
  const auto says = [&](const std::function<void(detail::TokenHeader&)>& change) {
    folder.write("bad", with_header(sound, change));
    return folder.error([&] { TokenFile::open(folder.root / "bad"); });
  };
  using H = detail::TokenHeader;
  CHECK(says([](H&) {}) == "");
  CHECK(says([](H& h) { h.version = 2; }) == "[tokens] bad: version = 2: only 1 is known");
  CHECK(says([](H& h) { h.byte_order = 0x04030201; }) ==
        "[tokens] bad: byte_order = 67305985: must be 16909060, little-endian");
  CHECK(says([](H& h) { h.block = 4096; }) == "[tokens] bad: block = 4096: only 65536 is known");
  CHECK(says([](H& h) { h.vocabulary = 0; }) == "[tokens] bad: vocabulary = 0: must be 1 ... 2147483648");
  CHECK(says([](H& h) { h.width = 4; }) == "[tokens] bad: width = 4: a vocabulary of 300 takes 2");
  constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  for (const std::uint64_t bad : {std::uint64_t{0}, std::uint64_t{1000}, most, most / 2, most / 2 + 3}) {
    CHECK(says([bad](H& h) { h.tokens = bad; }).starts_with("[tokens] bad: "));
    CHECK(says([bad](H& h) { h.documents = bad; }).starts_with("[tokens] bad: documents = "));
    CHECK(
        (bad < 2000 || says([bad](H& h) { h.vocabulary = bad; }).starts_with("[tokens] bad: vocabulary = ")));
  }
  CHECK(says([](H& h) { h.text_bytes = most; }).starts_with("[tokens] bad: text_bytes = "));
  CHECK(says([](H& h) { h.tables = 1; }).ends_with("their checksum is another one"));
  // Tables that have their checksum, too.
  const auto table_says = [&](Index number, Index value) {
    std::string file = sound;
    const std::size_t table = sizeof(H) + 8;
    std::memcpy(file.data() + table + 8 * static_cast<std::size_t>(number), &value, 8);
    file = with_header(file, [&](H& h) { h.tables = checksum(std::string_view(file).substr(table)); });
    folder.write("bad", file);
    return folder.error([&] { TokenFile::open(folder.root / "bad"); });
  };
  CHECK(table_says(0, 1) == "[tokens] bad: document 0 begins at token 1");
  CHECK(table_says(1, 0) == "[tokens] bad: document 0 has the tokens 0 to 0 of 4");
  CHECK(table_says(1, 5) == "[tokens] bad: document 0 has the tokens 0 to 5 of 4");
  CHECK(table_says(1, -1) == "[tokens] bad: document 0 has the tokens 0 to -1 of 4");
  CHECK(table_says(2, 3) == "[tokens] bad: document 1 has the tokens 3 to 3 of 4");
}

}  // namespace token_file_test

TEST_SUITE_END();
