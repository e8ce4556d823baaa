#pragma once
// Text to learn from: documents of bytes, and what of it is held out for validation. Files of text have a
// header of their own, corpus_files.hpp.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

struct CorpusSplit;

/// Documents of text. One file is one document: UTF-8, broken UTF-8, NUL, byte order marks and CRLF all pass
/// through unchanged. What a model learns from is their ids: Tokens.
///
/// Small files are copied; large ones are mapped, take no memory of their own, and must stay as they are
/// until their ids have been made. Parts and copies of a corpus share its text.
class Corpus {
 public:
  /// Positions inside a document are int32, so a longer document is refused.
  static constexpr Index longest_document = std::numeric_limits<std::int32_t>::max();

  /// No documents.
  Corpus() = default;

  /// One document holding `text`. Throws FileError if it is empty.
  static Corpus from_text(std::string text);

  /// Appends one document; an empty text is no document and is left out. `name` is for messages.
  void add(std::string_view text, std::string name) {
    if (text.empty()) return;
    auto own = std::make_shared<const std::string>(text);
    add(*own, own, std::move(name));
  }
  /// The same without a copy: the text is the owner's, which is kept.
  void add(std::string_view text, std::shared_ptr<const void> owner, std::string name) {
    if (text.empty()) return;
    starts_.push_back(size_);
    size_ += static_cast<Index>(text.size());
    texts_.push_back({text, std::move(owner), std::move(name)});
  }

  /// Bytes in all documents together.
  Index size() const { return size_; }
  /// Number of documents.
  Index documents() const { return static_cast<Index>(texts_.size()); }
  /// Whether there is no text.
  bool empty() const { return texts_.empty(); }

  /// How many bytes stand before the document. `start(documents())` is `size()`.
  Index start(Index document) const {
    return document == documents() ? size() : starts_[static_cast<std::size_t>(document)];
  }
  /// Bytes of a document.
  Index length(Index document) const { return start(document + 1) - start(document); }

  /// The bytes of a document; valid as long as a corpus has it.
  std::string_view text(Index document) const { return texts_[static_cast<std::size_t>(document)].text; }
  /// The path a document came from, or the name it was added under.
  const std::string& name(Index document) const { return texts_[static_cast<std::size_t>(document)].name; }

  /// Two disjoint parts that together hold every byte, the same at every call: `detail::held_out` of bytes.
  /// What is trained on is split in tokens: Tokens::split().
  CorpusSplit split(double validation_fraction, Index train_minimum = 1) const;

 private:
  struct Text {
    std::string_view text;
    std::shared_ptr<const void> owner;
    std::string name;
  };
  std::vector<Text> texts_;
  std::vector<Index> starts_;
  Index size_ = 0;
};

/// What `Corpus::split` returns.
struct CorpusSplit {
  Corpus train;       ///< what to train on
  Corpus validation;  ///< what nobody trains on
};

namespace detail {

/// How much of each document's end is held out for validation: nothing, the last `fraction` of it, or all.
/// Empty if nothing is.
///
/// A document whose last `fraction` is at least `shortest_tail` long gives this tail, which becomes a
/// document of its own: every long text is represented, and windows seldom cross out of a tail. Of the
/// shorter documents every (1 / fraction)-th goes whole. If nothing was chosen, the longest document gives
/// its tail however short. If less than `train_minimum` would be left, nothing is held out.
///
/// length(document): in whatever unit is cut, bytes or tokens; `size` is their sum   fraction: in [0, 1)
/// Throws ConfigError if it is not.
template <typename Length>
std::vector<Index> held_out(Index documents, Index size, const Length& length, double fraction,
                            Index train_minimum) {
  constexpr Index shortest_tail = 512;
  if (!(fraction >= 0 && fraction < 1)) {
    throw ConfigError(cat("[data] the validation fraction must be in [0, 1), it is ", fraction));
  }
  if (fraction == 0 || documents == 0) return {};
  const auto tail_of = [&](Index document) {
    return static_cast<Index>(static_cast<double>(length(document)) * fraction);
  };
  std::vector<Index> held_out(static_cast<std::size_t>(documents), 0);
  Index total = 0, longest = 0;
  double credit = 0.5;  // reaches 1 first in the middle of a stride, so the first document is not special
  for (Index document = 0; document < documents; ++document) {
    Index& count = held_out[static_cast<std::size_t>(document)];
    if (tail_of(document) >= shortest_tail) {
      count = tail_of(document);
    } else if ((credit += fraction) >= 1) {
      credit -= 1;
      count = length(document);
    }
    total += count;
    if (length(document) > length(longest)) longest = document;
  }
  if (total == 0) {
    total = std::max<Index>(tail_of(longest), 1);
    held_out[static_cast<std::size_t>(longest)] = total;
  }
  if (size - total < std::max<Index>(train_minimum, 1)) return {};
  return held_out;
}

}  // namespace detail

inline Corpus Corpus::from_text(std::string text) {
  if (text.empty()) throw FileError("[data] the text is empty");
  Corpus corpus;
  const auto own = std::make_shared<const std::string>(std::move(text));
  corpus.add(*own, own, "text");
  return corpus;
}

inline CorpusSplit Corpus::split(double validation_fraction, Index train_minimum) const {
  const std::vector<Index> ends = detail::held_out(
      documents(), size(), [this](Index document) { return length(document); }, validation_fraction,
      train_minimum);
  if (ends.empty()) return {*this, Corpus()};
  CorpusSplit parts;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const Text& all = texts_[i];
    const std::size_t cut = all.text.size() - static_cast<std::size_t>(ends[i]);
    parts.train.add(all.text.substr(0, cut), all.owner, all.name);
    parts.validation.add(all.text.substr(cut), all.owner, all.name);
  }
  return parts;
}

}  // namespace mtpx
