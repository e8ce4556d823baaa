#pragma once
// Ids to learn from: what a tokenizer makes of a corpus, ids of the caller's own, or ids that lie elsewhere.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/train/corpus.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

struct TokenSplit;

/// Ids in memory that somebody else owns, such as a mapped file.
struct BorrowedIds {
  std::span<const std::byte> ids;       ///< little-endian, one after the other
  Index width = 1;                      ///< bytes an id: 1, 2 or 4
  std::vector<Index> starts{};          ///< each document's first id among all; the first is 0
  std::shared_ptr<const void> owner{};  ///< kept as long as the ids are read
  /// Called before ids number first ... first + count - 1 are read; throws where they must not be.
  std::function<void(Index first, Index count)> check{};
};

/// Documents of ids laid end to end in one stream. All ids take as many bytes as the largest one needs: 1, 2
/// or 4. Copies and parts share the ids.
class Tokens {
 public:
  /// No documents.
  Tokens() = default;

  /// Each byte of the text a token, 0 ... 255.
  Tokens(const Corpus& text) {
    Store& store = own();
    for (Index document = 0; document < text.documents(); ++document) {
      starts_.push_back(size_);
      store.own += text.text(document);
      size_ += text.length(document);
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

  /// Reads ids where they are.
  explicit Tokens(BorrowedIds ids)
      : store_(std::make_shared<Store>()),
        starts_(std::move(ids.starts)),
        size_(static_cast<Index>(ids.ids.size()) / ids.width) {
    store_->elsewhere = ids.ids;
    store_->width = ids.width;
    store_->owner = std::move(ids.owner);
    store_->check = std::move(ids.check);
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
    own().widen(*most < 256 ? 1 : *most < 65536 ? 2 : 4);
    starts_.push_back(size_);
    store_->append(ids);
    size_ += static_cast<Index>(ids.size());
  }

  /// Ids in all documents together.
  Index size() const { return size_; }
  /// Number of documents.
  Index documents() const { return static_cast<Index>(starts_.size()); }
  /// Whether there is no document.
  bool empty() const { return size_ == 0; }

  /// The id at `offset` of the stream.
  std::int32_t at(Index offset) const {
    std::int32_t id = 0;
    read(offset, {&id, 1});
    return id;
  }

  /// Fills `out` with the ids from `offset` of the stream on, which must be there.
  void read(Index offset, std::span<std::int32_t> out) const {
    for (Index document = documents() == 0 ? 0 : document_at(offset); !out.empty(); ++document) {
      const Index count = std::min(start(document + 1) - offset, static_cast<Index>(out.size()));
      store_->read(offset - start(document) + place(document), out.first(static_cast<std::size_t>(count)));
      out = out.subspan(static_cast<std::size_t>(count));
      offset += count;
    }
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

  /// Two disjoint parts that together hold every token, the same at every call: `detail::held_out` of tokens.
  ///
  /// validation_fraction: in [0, 1); 0 leaves validation empty   train_minimum: tokens that training needs
  /// (`Batches::minimum`); if fewer would be left, all text trains and validation is empty.
  /// Throws ConfigError if the fraction is not in [0, 1).
  TokenSplit split(double validation_fraction, Index train_minimum = 1) const;

 private:
  /// Where ids are, and how wide.
  struct Store {
    std::string own;                       // little-endian
    std::span<const std::byte> elsewhere;  // instead
    Index width = 1;                       // bytes an id
    std::shared_ptr<const void> owner;
    std::function<void(Index, Index)> check;

    void read(Index place, std::span<std::int32_t> out) const {
      if (check) check(place, static_cast<Index>(out.size()));
      const char* from = elsewhere.empty() ? own.data() : reinterpret_cast<const char*>(elsewhere.data());
      from += place * width;
      for (std::int32_t& id : out) {
        std::uint32_t value = 0;
        for (Index byte = 0; byte < width; ++byte)
          value |= std::uint32_t{static_cast<unsigned char>(from[byte])} << (8 * byte);
        id = static_cast<std::int32_t>(value);
        from += width;
      }
    }
    void append(std::span<const std::int32_t> ids) {
      own.reserve(own.size() + ids.size() * static_cast<std::size_t>(width));
      for (const std::int32_t id : ids) {
        for (Index byte = 0; byte < width; ++byte)
          own += static_cast<char>(static_cast<std::uint32_t>(id) >> (8 * byte) & 0xff);
      }
    }
    /// Room for ids that take so many bytes.
    void widen(Index to) {
      if (to <= width) return;
      std::vector<std::int32_t> ids(own.size() / static_cast<std::size_t>(width));
      read(0, ids);
      own.clear();
      width = to;
      append(ids);
    }
  };

  /// The store, to write to: nobody else's, with the ids of this stream and no others.
  Store& own() {
    if (store_ && store_.use_count() == 1 && store_->elsewhere.empty() && places_.empty()) return *store_;
    auto fresh = std::make_shared<Store>();
    if (store_) {
      fresh->width = store_->width;
      std::vector<std::int32_t> ids(static_cast<std::size_t>(size_));
      read(0, ids);
      fresh->append(ids);
    }
    store_ = std::move(fresh);
    places_.clear();
    return *store_;
  }

  /// Which id of the store is the document's first.
  Index place(Index document) const {
    return places_.empty() ? start(document) : places_[static_cast<std::size_t>(document)];
  }

  /// The part of a document that begins `begin` ids after its start, as a document of `to`.
  void give(Tokens& to, Index document, Index begin, Index count) const {
    if (count == 0) return;
    to.starts_.push_back(to.size_);
    to.places_.push_back(place(document) + begin);
    to.size_ += count;
  }

  std::shared_ptr<Store> store_;
  std::vector<Index> starts_;
  std::vector<Index> places_;  // empty: documents lie in the store as they do in the stream
  Index size_ = 0;
};

/// What `Tokens::split` returns.
struct TokenSplit {
  Tokens train;       ///< what to train on
  Tokens validation;  ///< what nobody trains on
};

inline TokenSplit Tokens::split(double validation_fraction, Index train_minimum) const {
  const std::vector<Index> ends = detail::held_out(
      documents(), size(), [this](Index document) { return length(document); }, validation_fraction,
      train_minimum);
  if (ends.empty()) return {*this, Tokens()};
  TokenSplit parts;
  parts.train.store_ = parts.validation.store_ = store_;
  for (Index document = 0; document < documents(); ++document) {
    const Index tail = ends[static_cast<std::size_t>(document)], cut = length(document) - tail;
    give(parts.train, document, 0, cut);
    give(parts.validation, document, cut, tail);
  }
  return parts;
}

}  // namespace mtpx
