#pragma once
// A tokenizer learnt from files and folders, in memory that does not grow with the text.

#include <mtpx/core/error.hpp>
#include <mtpx/text/bpe_train.hpp>
#include <mtpx/train/corpus_files.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// Hands documents on to be counted, so much text at a time that all threads have work.
class DocumentCounter {
 public:
  explicit DocumentCounter(const Cpu& cpu, std::size_t most_held = std::size_t{1} << 24U)
      : counts_(cpu), most_held_(most_held) {}

  /// The first `size` bytes of a document.
  void add(const FoundDocument& found, std::size_t size) {
    const std::string_view text = found.text.substr(0, size);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t room = most_held_ - held_;
      const std::size_t end = text.size() - at > room ? OwnPieces::cut(text, at + room) : text.size();
      texts_.push_back(text.substr(at, end - at));
      found_.push_back(found);
      held_ += end - at;
      at = end;
      if (held_ >= most_held_) count();
    }
  }

  BpeCounts take() {
    count();
    return std::move(counts_);
  }

 private:
  void count() {
    counts_.add(texts_);
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      if (found_[i].mapped) Mapping::forget(std::as_bytes(std::span(texts_[i])));
    }
    texts_.clear();
    found_.clear();
    held_ = 0;
  }

  BpeCounts counts_;
  std::size_t most_held_;
  std::vector<std::string_view> texts_;
  std::vector<FoundDocument> found_;  // whose they are
  std::size_t held_ = 0;
};

}  // namespace detail

/// train_bpe() of what `read_corpus(paths).split(held_out).train` holds, with 16 MiB of the text in
/// memory at a time, or a whole line if that is longer. The files are looked at twice where something is held
/// out. Throws what train_bpe() and for_each_document() throw, and FileError for files that have changed
/// between.
inline Tokenizer learn_bpe(const std::vector<std::filesystem::path>& paths, double held_out,
                           const BpeOptions& options = {}, const Cpu& cpu = Cpu()) {
  detail::check_bpe_options(options);
  std::vector<Index> lengths, ends;
  if (held_out != 0) {
    Index size = 0;
    for_each_document(paths, [&](const FoundDocument& found) {
      lengths.push_back(static_cast<Index>(found.text.size()));
      size += lengths.back();
    });
    const auto length = [&](Index document) { return lengths[static_cast<std::size_t>(document)]; };
    ends = detail::held_out(static_cast<Index>(lengths.size()), size, length, held_out, 1);
  }
  detail::DocumentCounter counter(cpu);
  std::size_t document = 0;
  for_each_document(paths, [&](const FoundDocument& found) {
    const auto size = static_cast<Index>(found.text.size());
    if (held_out != 0 && (document == lengths.size() || lengths[document] != size))
      detail::data_error(found.path, "has changed while it was read");
    counter.add(found, static_cast<std::size_t>(ends.empty() ? size : size - ends[document]));
    ++document;
  });
  return train_bpe(counter.take(), options, cpu);
}

}  // namespace mtpx
