#pragma once
// Token files: the ids of a text, ready to be mapped. Their layout stands in docs/tokenizers.md.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/io/checksum.hpp>
#include <mtpx/text/input_file.hpp>
#include <mtpx/train/corpus_files.hpp>
#include <mtpx/train/tokens.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

constexpr std::string_view token_magic = "mtpxtok\n";

/// The first bytes of a token file, as they lie there.
struct TokenHeader {
  std::array<char, 8> magic{};
  std::uint32_t version = 1, byte_order = 0x01020304;
  std::uint32_t width = 0;      // bytes an id
  std::uint32_t block = 65536;  // bytes of ids under a checksum of their own
  std::uint64_t vocabulary = 0, documents = 0, tokens = 0;
  std::uint64_t text_bytes = 0;         // that the ids were made of
  std::uint64_t text = 0;               // checksum of that text: TextChecksum
  std::uint64_t tokenizer = 0;          // Tokenizer::fingerprint()
  std::uint64_t ids = 0;                // IdsFingerprint
  std::uint64_t tables = 0;             // checksum of everything behind the ids
  std::array<std::uint64_t, 4> free{};  // zero
  std::uint64_t header = 0;             // checksum of everything before it
};
static_assert(sizeof(TokenHeader) == 128 && alignof(TokenHeader) == 8);

inline std::uint64_t header_checksum(const TokenHeader& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(offsetof(TokenHeader, header)));
}

/// The narrowest of 1, 2 and 4 bytes that holds all ids of a vocabulary.
inline Index id_width(Index vocabulary) { return vocabulary <= 256 ? 1 : vocabulary <= 65536 ? 2 : 4; }

/// Where the parts of a token file are.
struct TokenLayout {
  Index tokens, width, documents, block;

  Index ids() const { return static_cast<Index>(sizeof(TokenHeader)); }
  Index ids_end() const { return ids() + tokens * width; }
  Index starts() const { return (ids_end() + 7) / 8 * 8; }  // documents + 1 numbers
  Index blocks() const { return (tokens * width + block - 1) / block; }
  Index checksums() const { return starts() + 8 * (documents + 1); }
  Index size() const { return checksums() + 8 * blocks(); }
};

}  // namespace detail

/// A checksum of documents of text, in order.
class TextChecksum {
 public:
  /// The next document has so many bytes, which add() then gets in any pieces.
  void begin(std::size_t size) {
    const std::uint64_t number = size;
    sum_.add(std::as_bytes(std::span(&number, 1)));
  }
  /// The next bytes of a document.
  void add(std::string_view text) { sum_.add(text); }
  /// Of all so far.
  std::uint64_t value() const { return sum_.value(); }

  /// Of the documents that for_each_document() finds.
  static std::uint64_t of(const std::vector<std::filesystem::path>& paths) {
    constexpr std::size_t piece = std::size_t{1} << 24;
    TextChecksum all;
    for_each_document(paths, [&all](const FoundDocument& found) {
      all.begin(found.text.size());
      for (std::size_t at = 0; at < found.text.size(); at += piece) {
        const std::string_view text = found.text.substr(at, piece);
        all.add(text);
        if (found.mapped) detail::Mapping::forget(std::as_bytes(std::span(text)));
      }
    });
    return all.value();
  }

 private:
  Checksum sum_;
};

/// What a run's text is, whether it came as text or as a token file: a checksum of its ids, each in four
/// bytes, and of where documents begin.
class IdsFingerprint {
 public:
  /// The next ids.
  void add(std::span<const std::int32_t> ids) { ids_.add(std::as_bytes(ids)); }

  /// starts: each document's first id among all, and behind the last their number
  std::uint64_t value(std::span<const Index> starts) const {
    Checksum all;
    const std::uint64_t ids = ids_.value();
    all.add(std::as_bytes(std::span(&ids, 1)));
    all.add(std::as_bytes(starts));
    return all.value();
  }

  /// Of tokens in memory.
  static std::uint64_t of(const Tokens& tokens) {
    IdsFingerprint ids;
    std::vector<std::int32_t> some(std::size_t{1} << 16);
    for (Index at = 0; at < tokens.size();) {
      const auto count =
          static_cast<std::size_t>(std::min(tokens.size() - at, static_cast<Index>(some.size())));
      tokens.read(at, std::span(some).first(count));
      ids.add(std::span(some).first(count));
      at += static_cast<Index>(count);
    }
    std::vector<Index> starts;
    for (Index document = 0; document <= tokens.documents(); ++document)
      starts.push_back(tokens.start(document));
    return ids.value(starts);
  }

 private:
  Checksum ids_;
};

/// How to open a token file.
struct TokenFileOptions {
  bool verify = true;  ///< compare ids with their checksums, each block of 64 KiB when it is first read
};

/// A token file, mapped: opening reads the header and the tables, ids are read where they are. A handle;
/// copies and tokens() share the mapping.
class TokenFile {
 public:
  /// Whether the file begins as token files do. False also for what cannot be read.
  static bool is(const std::filesystem::path& path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) return false;
    try {
      const InputFile file("tokens", path);
      std::array<char, detail::token_magic.size()> magic{};
      if (file.size() < static_cast<Index>(magic.size())) return false;
      file.read(0, std::as_writable_bytes(std::span(magic)));
      return std::string_view(magic.data(), magic.size()) == detail::token_magic;
    } catch (const FileError&) {
      return false;
    }
  }

  /// Throws FileError "[tokens] path: ..." for what is no token file, or has changed or lost bytes in its
  /// header and tables.
  static TokenFile open(const std::filesystem::path& path, TokenFileOptions options = {}) {
    return TokenFile(std::make_shared<const State>(path, options));
  }

  /// Ids are below this.
  Index vocabulary() const { return number(&detail::TokenHeader::vocabulary); }
  /// Number of documents.
  Index documents() const { return number(&detail::TokenHeader::documents); }
  /// Ids in all documents together.
  Index size() const { return number(&detail::TokenHeader::tokens); }
  /// Bytes of the text that the ids were made of.
  Index text_bytes() const { return number(&detail::TokenHeader::text_bytes); }
  /// TextChecksum of that text.
  std::uint64_t text_checksum() const { return state_->header.text; }
  /// Fingerprint of the tokenizer that made them.
  std::uint64_t tokenizer() const { return state_->header.tokenizer; }
  /// IdsFingerprint of the tokens.
  std::uint64_t fingerprint() const { return state_->header.ids; }
  /// The path as it was given.
  const std::string& path() const { return state_->file.path(); }

  /// The ids, read from the map. Reading throws FileError, naming the file: a block that has changed, an id
  /// outside the vocabulary, a file that has shrunk.
  Tokens tokens() const {
    const State& state = *state_;
    const detail::TokenLayout place = state.layout();
    return Tokens(BorrowedIds{state.map.bytes().subspan(static_cast<std::size_t>(place.ids()),
                                                        static_cast<std::size_t>(place.tokens * place.width)),
                              place.width, state.starts(), state_,
                              [&state](Index first, Index count) { state.check(first, count); }});
  }

 private:
  struct State {
    State(const std::filesystem::path& path, TokenFileOptions options) : file("tokens", path) {
      read_header();
      map = detail::Mapping(file);
      map.expect_jumps();
      check_tables();
      verify = options.verify;
      verified = std::vector<std::atomic<bool>>(static_cast<std::size_t>(layout().blocks()));
    }

    detail::TokenLayout layout() const {
      return {static_cast<Index>(header.tokens), static_cast<Index>(header.width),
              static_cast<Index>(header.documents), static_cast<Index>(header.block)};
    }

    void read_header() {
      const auto rule = [this](bool holds, const char* key, const auto& value, const auto&... text) {
        if (!holds) file.fail(cat(key, " = ", value, ": ", text...));
      };
      if (file.size() < static_cast<Index>(sizeof header))
        file.fail(
            cat("is no token file: it has ", file.size(), " bytes, fewer than a header's ", sizeof header));
      file.read(0, std::as_writable_bytes(std::span(&header, 1)));
      if (std::string_view(header.magic.data(), header.magic.size()) != detail::token_magic)
        file.fail("is no token file: it does not begin as one");
      const detail::TokenHeader plain;
      rule(header.version == plain.version, "version", header.version, "only ", plain.version, " is known");
      rule(header.byte_order == plain.byte_order, "byte_order", header.byte_order, "must be ",
           plain.byte_order, ", little-endian");
      if (header.header != detail::header_checksum(header))
        file.fail("the header has changed since it was written: its checksum is another one");
      rule(header.block == plain.block, "block", header.block, "only ", plain.block, " is known");
      constexpr std::uint64_t most_ids = std::uint64_t{1} << 31U;
      rule(header.vocabulary >= 1 && header.vocabulary <= most_ids, "vocabulary", header.vocabulary,
           "must be 1 ... ", most_ids);
      const Index width = detail::id_width(static_cast<Index>(header.vocabulary));
      rule(header.width == static_cast<std::uint32_t>(width), "width", header.width, "a vocabulary of ",
           header.vocabulary, " takes ", width);
      const auto most = static_cast<std::uint64_t>(file.size());
      rule(header.tokens >= 1 && header.tokens <= most, "tokens", header.tokens, "the file has ", most,
           " bytes");
      rule(header.documents >= 1 && header.documents <= header.tokens, "documents", header.documents,
           "there are ", header.tokens, " tokens");
      rule(header.text_bytes <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max()), "text_bytes",
           header.text_bytes, "too many");
      if (file.size() != layout().size())
        file.fail(cat("has ", file.size(), " bytes; its header says ", layout().size()));
    }

    void check_tables() const {
      const detail::TokenLayout place = layout();
      if (checksum(map.bytes().subspan(static_cast<std::size_t>(place.ids_end()))) != header.tables)
        file.fail("the tables have changed since they were written: their checksum is another one");
      const auto fail = [&](Index document, const auto&... what) {
        file.fail(cat("document ", document, ' ', what...));
      };
      Index before = number_at(place.starts());
      if (before != 0) fail(0, "begins at token ", before);
      for (Index document = 0; document < place.documents; ++document) {
        const Index end = number_at(place.starts() + 8 * (document + 1));
        if (end <= before || end > place.tokens || end - before > Corpus::longest_document)
          fail(document, "has the tokens ", before, " to ", end, " of ", place.tokens);
        before = end;
      }
      if (before != place.tokens) fail(place.documents - 1, "ends at token ", before, " of ", place.tokens);
    }

    std::vector<Index> starts() const {
      std::vector<Index> all(static_cast<std::size_t>(header.documents));
      std::memcpy(all.data(), map.data() + layout().starts(), 8 * all.size());
      return all;
    }

    Index number_at(Index place) const {
      Index value = 0;
      std::memcpy(&value, map.data() + place, sizeof value);
      return value;
    }

    /// Ids are below the vocabulary. first: the first one's number, for the error
    void check_ids(std::span<const std::byte> ids, Index first) const {
      const auto width = static_cast<std::size_t>(header.width);
      if (std::uint64_t{1} << (8 * width) == header.vocabulary) return;
      for (std::size_t at = 0; at < ids.size(); at += width) {
        std::uint32_t id = 0;
        std::memcpy(&id, ids.data() + at, width);
        if (id >= header.vocabulary)
          file.fail(cat("token ", first + static_cast<Index>(at / width), " = ", id,
                        " is outside the vocabulary of ", header.vocabulary));
      }
    }

    void check(Index first, Index count) const {
      file.check_size();
      const detail::TokenLayout place = layout();
      const auto bytes = [&](Index offset, Index size) {
        return map.bytes().subspan(static_cast<std::size_t>(place.ids() + offset),
                                   static_cast<std::size_t>(size));
      };
      if (!verify) return check_ids(bytes(first * place.width, count * place.width), first);
      const Index last = ((first + count) * place.width - 1) / place.block;
      for (Index block = first * place.width / place.block; block <= last; ++block) {
        std::atomic<bool>& done = verified[static_cast<std::size_t>(block)];
        if (done.load(std::memory_order_relaxed)) continue;
        // Read, not mapped: memory would grow by every block.
        std::vector<std::byte> copy(static_cast<std::size_t>(
            std::min(place.block, place.tokens * place.width - block * place.block)));
        file.read(place.ids() + block * place.block, copy);
        if (checksum(copy) != static_cast<std::uint64_t>(number_at(place.checksums() + 8 * block)))
          file.fail(cat("tokens ", block * place.block / place.width, " to ",
                        (block * place.block + static_cast<Index>(copy.size())) / place.width - 1,
                        " have changed since they were written: their checksum is another one"));
        check_ids(copy, block * place.block / place.width);
        done.store(true, std::memory_order_relaxed);
      }
    }

    InputFile file;
    detail::TokenHeader header;
    detail::Mapping map;
    bool verify = true;
    mutable std::vector<std::atomic<bool>> verified;  // blocks
  };

  explicit TokenFile(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  Index number(std::uint64_t detail::TokenHeader::*field) const {
    return static_cast<Index>(state_->header.*field);
  }

  std::shared_ptr<const State> state_;
};

}  // namespace mtpx
