#pragma once
// Ids to learn from: what a tokenizer makes of a corpus, or ids of the caller's own.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/train/corpus.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// Documents of ids laid end to end in one stream. All ids take as many bytes as the largest one needs: 1, 2
/// or 4.
class Tokens {
 public:
  /// No documents.
  Tokens() = default;

  /// Each byte of the text a token, 0 ... 255.
  Tokens(const Corpus& text) {
    for (Index document = 0; document < text.documents(); ++document) {
      starts_.push_back(size());
      packed_ += text.text(document);
    }
  }

  /// What a tokenizer makes of each document; documents side by side on the host's threads. `encode` is
  /// called with a std::string_view and returns ids.
  template <typename Encode>
  Tokens(const Corpus& text, const Encode& encode, const Cpu& host = Cpu()) {
    std::vector<std::vector<std::int32_t>> ids(static_cast<std::size_t>(text.documents()));
    cpu::parallel_tasks(host, text.documents(), [&](Index document) {
      ids[static_cast<std::size_t>(document)] = encode(text.text(document));
    });
    for (std::vector<std::int32_t>& document : ids) {
      add(document);
      std::vector<std::int32_t>().swap(document);
    }
  }

  /// Appends one document; an empty one is left out. Throws ConfigError for a negative id, FileError for a
  /// document longer than `Corpus::longest_document`.
  void add(std::span<const std::int32_t> ids) {
    if (ids.empty()) return;
    const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
    if (*least < 0) {
      throw ConfigError(cat("[data] document ", documents(), " has the id ", *least, ": ids start at 0"));
    }
    if (static_cast<Index>(ids.size()) > Corpus::longest_document) {
      throw FileError(cat("[data] document ", documents(), " has more than 2^31 - 1 tokens; cut it"));
    }
    widen(*most < 256 ? 1 : *most < 65536 ? 2 : 4);
    starts_.push_back(size());
    append(ids);
  }

  /// Ids in all documents together.
  Index size() const { return static_cast<Index>(packed_.size()) / width_; }
  /// Number of documents.
  Index documents() const { return static_cast<Index>(starts_.size()); }
  /// Whether there is no document.
  bool empty() const { return packed_.empty(); }

  /// The id at `offset` of the stream.
  std::int32_t at(Index offset) const {
    const char* place = packed_.data() + offset * width_;
    std::uint32_t id = 0;
    for (Index byte = 0; byte < width_; ++byte)
      id |= std::uint32_t{static_cast<unsigned char>(place[byte])} << (8 * byte);
    return static_cast<std::int32_t>(id);
  }

  /// Offset in the stream of the document's first token. `start(documents())` is `size()`.
  Index start(Index document) const {
    return document == documents() ? size() : starts_[static_cast<std::size_t>(document)];
  }
  /// Ids of a document.
  Index length(Index document) const { return start(document + 1) - start(document); }

  /// The document that holds the token at `offset`.
  Index document_at(Index offset) const {
    return std::upper_bound(starts_.begin(), starts_.end(), offset) - starts_.begin() - 1;
  }

 private:
  void append(std::span<const std::int32_t> ids) {
    packed_.reserve(packed_.size() + ids.size() * static_cast<std::size_t>(width_));
    for (const std::int32_t id : ids) {
      for (Index byte = 0; byte < width_; ++byte)
        packed_ += static_cast<char>(static_cast<std::uint32_t>(id) >> (8 * byte) & 0xff);
    }
  }

  /// Room for ids that take so many bytes.
  void widen(Index width) {
    if (width <= width_) return;
    Tokens wide;
    wide.width_ = width;
    std::vector<std::int32_t> ids;
    for (Index i = 0; i < size(); ++i) ids.push_back(at(i));
    wide.append(ids);
    packed_ = std::move(wide.packed_);
    width_ = width;
  }

  std::string packed_;  // little-endian
  Index width_ = 1;     // bytes an id
  std::vector<Index> starts_;
};

}  // namespace mtpx
