#pragma once
// Text to learn from: documents of bytes, from files and folders, and what of it is held out for validation.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/text/input_file.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
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

  /// Reads files and folders, in the order given: what for_each_document() finds.
  static Corpus from_paths(const std::vector<std::filesystem::path>& paths);

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

[[noreturn]] inline void data_error(const std::filesystem::path& path, std::string_view what) {
  throw FileError(cat("[data] ", path.string(), ": ", what));
}

[[noreturn]] inline void unreadable(const std::filesystem::path& path, const std::error_code& cause) {
  data_error(path, cause ? cat("cannot be read (", cause.message(), ')') : "cannot be read");
}

}  // namespace detail

/// A document as it was found.
struct FoundDocument {
  std::string_view text;              ///< its bytes
  std::shared_ptr<const void> owner;  ///< holds the text, for who wants to keep it
  bool mapped = false;                ///< whether the text is the file itself, in memory
  std::string path{};                 ///< of its file
};

namespace detail {

constexpr std::size_t binary_prefix = 8192;  // a NUL in it: not a text

/// A file as a document, or nothing if `skip_binary` and a NUL is among its first bytes.
inline std::optional<FoundDocument> read_document(const std::filesystem::path& path, bool skip_binary) {
  constexpr Index map_from = Index{1} << 20;  // below, a copy costs less than a mapping
  const auto is_binary = [&](std::string_view text) {
    return skip_binary && text.substr(0, binary_prefix).find('\0') != std::string_view::npos;
  };
  const auto too_long = [&] { data_error(path, "longer than 2 GiB; cut it into several files"); };
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > static_cast<std::uintmax_t>(Corpus::longest_document)) too_long();
  if (!error && size >= static_cast<std::uintmax_t>(map_from) && ::access(path.c_str(), R_OK) == 0) {
    const auto map = std::make_shared<const Mapping>(InputFile("data", path));
    const std::string_view text(reinterpret_cast<const char*>(map->data()), map->bytes().size());
    if (is_binary(text)) return std::nullopt;
    return FoundDocument{text, map, true, path.string()};
  }
  const auto last_error = [] { return std::error_code(errno, std::generic_category()); };
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) unreadable(path, last_error());
  auto text = std::make_shared<std::string>();
  std::array<char, binary_prefix> chunk;
  while (file.read(chunk.data(), chunk.size()), file.gcount() > 0) {
    const std::string_view piece(chunk.data(), static_cast<std::size_t>(file.gcount()));
    if (text->empty() && is_binary(piece)) return std::nullopt;
    if (static_cast<Index>(text->size() + piece.size()) > Corpus::longest_document) too_long();
    *text += piece;
  }
  if (file.bad()) unreadable(path, last_error());
  return FoundDocument{*text, text, false, path.string()};
}

inline bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

/// The candidate files below `folder`, sorted by their path inside it.
inline std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<fs::path> files;
  fs::recursive_directory_iterator entry(folder, error), end;
  while (!error && entry != end) {
    const std::string name = entry->path().filename().string();
    const fs::file_type type = entry->symlink_status(error).type();  // a link is a link, not its target
    if (error) break;
    const bool hidden = name[0] == '.';
    if (type == fs::file_type::directory && (hidden || name == "build" || name == "runs")) {
      entry.disable_recursion_pending();
    }
    if (type == fs::file_type::regular && !hidden) files.push_back(entry->path());
    entry.increment(error);
  }
  if (error) unreadable(folder, error);
  // All begin with the same folder, so comparing whole paths compares what is inside it.
  std::sort(files.begin(), files.end(),
            [](const fs::path& a, const fs::path& b) { return a.generic_string() < b.generic_string(); });
  return files;
}

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

/// Calls visit(const FoundDocument&) for each document of files and folders, in the order given.
///
/// A file named in `paths` is always taken, whatever its bytes. A folder gives its files at any depth, sorted
/// by the bytes of their path inside the folder: the same order on every machine. In folders these are
/// skipped: hidden entries (`.git`, `.cache`, ...), folders named `build` or `runs`, symbolic links, what is
/// not a regular file, binary files (a NUL in the first 8 KiB) and blank files (white space only). A file
/// reached twice counts once, else a copy of a training text could land in validation.
///
/// Throws FileError, one line naming the path: missing, neither file nor folder, blank, a folder without
/// text, longer than `Corpus::longest_document`, unreadable (inside folders too: what is skipped must not
/// depend on who reads).
template <typename Visit>
void for_each_document(const std::vector<std::filesystem::path>& paths, const Visit& visit) {
  namespace fs = std::filesystem;
  if (paths.empty()) throw FileError("[data] no file or folder given");
  std::set<fs::path> seen;
  const auto first_visit = [&seen](const fs::path& path) {
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    return seen.insert(error ? path : real).second;
  };
  for (const fs::path& path : paths) {
    std::error_code error;
    const fs::file_type type = fs::status(path, error).type();
    if (type == fs::file_type::not_found) detail::data_error(path, "no such file or folder");
    if (error) detail::unreadable(path, error);
    if (type == fs::file_type::regular) {
      if (!first_visit(path)) continue;
      const FoundDocument found = *detail::read_document(path, /*skip_binary=*/false);
      if (found.text.empty()) detail::data_error(path, "the file is empty");
      if (detail::is_blank(found.text)) detail::data_error(path, "the file holds only white space");
      visit(found);
    } else if (type == fs::file_type::directory) {
      bool found = false;
      for (const fs::path& file : detail::files_in(path)) {
        if (!first_visit(file)) {
          found = true;
          continue;
        }
        const auto read = detail::read_document(file, /*skip_binary=*/true);
        if (!read || detail::is_blank(read->text)) continue;
        found = true;
        visit(*read);
      }
      if (!found) detail::data_error(path, "the folder holds no text files");
    } else {
      detail::data_error(path, "neither a file nor a folder");
    }
  }
}

/// The bytes of all files that for_each_document() would look at: what their text has at most. What cannot be
/// examined counts nothing; reading tells.
inline std::uintmax_t text_bytes_at_most(const std::vector<std::filesystem::path>& paths) {
  namespace fs = std::filesystem;
  std::uintmax_t total = 0;
  const auto add = [&total](const fs::path& file) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(file, error);
    if (!error) total += size;
  };
  for (const fs::path& path : paths) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
      for (const fs::path& file : detail::files_in(path)) add(file);
    } else {
      add(path);
    }
  }
  return total;
}

inline Corpus Corpus::from_paths(const std::vector<std::filesystem::path>& paths) {
  Corpus corpus;
  for_each_document(
      paths, [&corpus](const FoundDocument& found) { corpus.add(found.text, found.owner, found.path); });
  return corpus;
}

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
