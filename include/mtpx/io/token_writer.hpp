#pragma once
// Token files, written: documents of ids one after the other, in memory that does not grow with the text.

#include <mtpx/io/file.hpp>
#include <mtpx/io/token_file.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/text/tokenizer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// Writes a token file, whole or not at all. What grows is a number a document and one for 64 KiB of ids.
class TokenFileWriter {
 public:
  /// vocabulary: ids are below it   tokenizer: the fingerprint of what makes them
  /// Throws FileError when the file cannot be created.
  TokenFileWriter(const std::filesystem::path& path, Index vocabulary, std::uint64_t tokenizer)
      : file_("tokens", path) {
    std::copy(detail::token_magic.begin(), detail::token_magic.end(), header_.magic.begin());
    header_.width = static_cast<std::uint32_t>(detail::id_width(vocabulary));
    header_.vocabulary = static_cast<std::uint64_t>(vocabulary);
    header_.tokenizer = tokenizer;
    file_.write(std::as_bytes(std::span(&header_, 1)));
  }

  /// Appends ids to the document. Throws ConfigError for one outside the vocabulary.
  void add(std::span<const std::int32_t> ids) {
    const std::size_t width = header_.width;
    for (const std::int32_t id : ids) {
      if (id < 0 || static_cast<std::uint64_t>(id) >= header_.vocabulary)
        throw ConfigError(cat("[tokens] document ", starts_.size() - 1, " has the id ", id,
                              ", outside the vocabulary of ", header_.vocabulary));
    }
    while (!ids.empty()) {
      const std::size_t held = block_.size();
      const std::size_t taken = std::min(ids.size(), (header_.block - held) / width);
      block_.resize(held + taken * width);
      pack(ids.first(taken), block_.data() + held);
      fingerprint_.add(ids.first(taken));
      header_.tokens += taken;
      ids = ids.subspan(taken);
      if (block_.size() == header_.block) write_block();
    }
  }

  /// Begins a document of so many bytes, which text() gets as well, in any pieces.
  void begin_document(std::size_t size) {
    text_.begin(size);
    header_.text_bytes += size;
  }
  /// The next bytes of the document's text.
  void text(std::string_view piece) { text_.add(piece); }

  /// Ends the document: what follows is the next one's. One without ids is left out. Throws FileError for
  /// more than 2^31 - 1 ids.
  void end_document() {
    const auto end = static_cast<Index>(header_.tokens);
    if (end == starts_.back()) return;
    if (end - starts_.back() > Corpus::longest_document)
      throw FileError(
          cat("[tokens] document ", starts_.size() - 1, " has more than 2^31 - 1 tokens; cut it"));
    starts_.push_back(end);
  }

  /// Gives the file its name. Throws FileError when there is no document, or the disk refuses.
  void finish() {
    if (starts_.size() == 1) file_.fail("there are no tokens to write");
    if (!block_.empty()) write_block();
    header_.documents = starts_.size() - 1;
    const detail::TokenLayout place{static_cast<Index>(header_.tokens), static_cast<Index>(header_.width),
                                    static_cast<Index>(header_.documents), static_cast<Index>(header_.block)};
    Checksum tables;
    const auto table = [&](std::span<const std::byte> bytes) {
      tables.add(bytes);
      file_.write(bytes);
    };
    table(std::vector<std::byte>(static_cast<std::size_t>(place.starts() - place.ids_end())));
    table(std::as_bytes(std::span(starts_)));
    table(std::as_bytes(std::span(checksums_)));
    header_.text = text_.value();
    header_.ids = fingerprint_.value(starts_);
    header_.tables = tables.value();
    header_.header = detail::header_checksum(header_);
    file_.rewrite(0, std::as_bytes(std::span(&header_, 1)));
    file_.commit();
  }

 private:
  void pack(std::span<const std::int32_t> ids, std::byte* to) const {
    const auto as = [&]<typename Id>(Id) {
      for (const std::int32_t id : ids) {
        const auto narrow = static_cast<Id>(id);
        std::memcpy(to, &narrow, sizeof narrow);
        to += sizeof narrow;
      }
    };
    if (header_.width == 1) return as(std::uint8_t{});
    if (header_.width == 2) return as(std::uint16_t{});
    as(std::int32_t{});
  }

  void write_block() {
    checksums_.push_back(checksum(block_));
    file_.write(block_);
    block_.clear();
  }

  OutputFile file_;
  detail::TokenHeader header_;
  std::vector<std::byte> block_;
  std::vector<std::uint64_t> checksums_;
  std::vector<Index> starts_{0};  // and where the last one ends
  IdsFingerprint fingerprint_;
  TextChecksum text_;
};

namespace detail {

/// Encodes documents as they come, several and parts of long ones side by side, and hands on their ids in
/// order: the same for any number of threads.
class DocumentEncoder {
 public:
  DocumentEncoder(TokenFileWriter& to, const Tokenizer& tokenizer, const Cpu& host)
      : to_(to), tokenizer_(tokenizer), host_(host) {}

  void add(const FoundDocument& found) {
    const std::string_view text = found.text;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = tokenizer_.cut(text, std::min(text.size(), at + part));
      parts_.push_back({text.substr(at, end - at), at == 0 ? text.size() : 0, end == text.size(), found, {}});
      held_ += end - at;
      at = end;
      if (held_ >= most_held) encode();
    }
  }

  void encode() {
    cpu::parallel_tasks(host_, static_cast<Index>(parts_.size()), [&](Index i) {
      Part& one = parts_[static_cast<std::size_t>(i)];
      one.ids = tokenizer_.encode(one.text);
    });
    for (const Part& one : parts_) {
      if (one.begins > 0) {
        to_.begin_document(one.begins);
        to_.add(tokenizer_.parts().before);
      }
      to_.text(one.text);
      to_.add(one.ids);
      if (one.found.mapped) Mapping::forget(std::as_bytes(std::span(one.text)));
      if (!one.ends) continue;
      to_.add(tokenizer_.parts().after);
      to_.end_document();
    }
    parts_.clear();
    held_ = 0;
  }

 private:
  static constexpr std::size_t part = std::size_t{1} << 18;  // bytes of a document that are worth a thread
  static constexpr std::size_t most_held = std::size_t{1} << 24;  // bytes whose ids are in memory

  struct Part {
    std::string_view text;
    std::size_t begins;  // bytes of the document that this is the first part of
    bool ends;           // whether it is the last
    FoundDocument found;
    std::vector<std::int32_t> ids;
  };

  TokenFileWriter& to_;
  const Tokenizer& tokenizer_;
  const Cpu& host_;
  std::vector<Part> parts_;
  std::size_t held_ = 0;
};

}  // namespace detail

/// Writes the ids of all documents of files and folders (for_each_document), each with what the tokenizer
/// puts around a text: the tokens of the corpus of these paths. The bytes do not depend on the number of
/// threads. on_document(bytes) hears of each document that was read.
///
/// Memory: 16 MiB of text and their ids at a time. A longer document is cut where Tokenizer::cut() may; where
/// that knows no place, it is encoded whole. Throws what for_each_document() and the tokenizer throw, and
/// FileError when the file cannot be written.
inline void write_token_file(const std::filesystem::path& path,
                             const std::vector<std::filesystem::path>& texts, const Tokenizer& tokenizer,
                             const Cpu& host = Cpu(),
                             const std::function<void(Index bytes)>& on_document = {}) {
  TokenFileWriter writer(path, tokenizer.size(), tokenizer.fingerprint());
  detail::DocumentEncoder encoder(writer, tokenizer, host);
  for_each_document(texts, [&](const FoundDocument& found) {
    encoder.add(found);
    if (on_document) on_document(static_cast<Index>(found.text.size()));
  });
  encoder.encode();
  writer.finish();
}

}  // namespace mtpx
