#pragma once
// Text to learn from: documents of bytes, read from files and folders, and split into train and validation.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mtpx {

struct CorpusSplit;

/// Documents laid end to end. One file is one document: UTF-8, broken UTF-8, NUL, byte order marks and CRLF
/// all pass through unchanged. What a model learns from is their ids: Tokens.
///
/// The text is held in memory: a file that changes after reading does not change a run. `fingerprint()`
/// tells a resumed run whether it reads the same text again.
class Corpus {
 public:
  /// Positions inside a document are int32, so a longer document is refused.
  static constexpr Index longest_document = std::numeric_limits<std::int32_t>::max();

  /// No documents.
  Corpus() = default;

  /// Reads files and folders, in the order given.
  ///
  /// A file named in `paths` is always taken, whatever its bytes. A folder gives its files at any depth,
  /// sorted by the bytes of their path inside the folder: the same order on every machine. In folders these
  /// are skipped: hidden entries (`.git`, `.cache`, ...), folders named `build` or `runs`, symbolic links,
  /// what is not a regular file, binary files (a NUL in the first 8 KiB) and blank files (white space only).
  /// A file reached twice counts once, else a copy of a training text could land in validation.
  ///
  /// Throws FileError, one line naming the path: missing, neither file nor folder, blank, a folder without
  /// text, longer than `longest_document`, unreadable (inside folders too: what is skipped must not depend
  /// on who reads).
  static Corpus from_paths(const std::vector<std::filesystem::path>& paths);

  /// One document holding `text`. Throws FileError if it is empty.
  static Corpus from_text(std::string text);

  /// Appends one document; an empty text is no document and is left out. `name` is for messages.
  void add(std::string_view text, std::string name);

  /// Bytes in all documents together.
  Index size() const { return static_cast<Index>(bytes_.size()); }
  /// Number of documents.
  Index documents() const { return static_cast<Index>(starts_.size()); }
  /// Whether there is no text.
  bool empty() const { return bytes_.empty(); }

  /// Where the document's first byte is among all. `start(documents())` is `size()`.
  Index start(Index document) const {
    return document == documents() ? size() : starts_[static_cast<std::size_t>(document)];
  }
  /// Tokens of a document.
  Index length(Index document) const { return start(document + 1) - start(document); }

  /// The bytes of a document; valid as long as the corpus is neither changed nor destroyed.
  std::string_view text(Index document) const {
    return std::string_view(bytes_).substr(static_cast<std::size_t>(start(document)),
                                           static_cast<std::size_t>(length(document)));
  }
  /// The path a document came from, or the name it was added under.
  const std::string& name(Index document) const { return names_[static_cast<std::size_t>(document)]; }

  /// Two disjoint parts that together hold every token, the same at every call.
  ///
  /// A document whose last `validation_fraction` is at least `shortest_tail` bytes gives this tail to
  /// validation, as a document of its own: every long text is represented, and windows seldom cross out of a
  /// tail. Of the shorter documents every (1 / fraction)-th goes to validation whole. If nothing was
  /// chosen, the longest document gives its tail however short.
  ///
  /// validation_fraction: in [0, 1); 0 leaves validation empty   train_minimum: tokens that training needs
  /// (`Batches::minimum`); if fewer would be left, all text trains and validation is empty.
  /// Throws ConfigError if the fraction is not in [0, 1).
  CorpusSplit split(double validation_fraction, Index train_minimum = 1) const;

  /// Bytes of the shortest tail that split() cuts off.
  static constexpr Index shortest_tail = 512;

  /// A 64-bit hash (FNV-1a) of the lengths and bytes of all documents, in order; names do not count, so the
  /// text may move to another folder.
  std::uint64_t fingerprint() const {
    std::uint64_t hash = 0xcbf29ce484222325;
    const auto mix = [&hash](std::uint64_t byte) { hash = (hash ^ byte) * 0x100000001b3; };
    for (Index document = 0; document < documents(); ++document) {
      const auto count = static_cast<std::uint64_t>(length(document));
      for (int shift = 0; shift < 64; shift += 8) mix(count >> shift & 0xff);
      for (char byte : text(document)) mix(static_cast<unsigned char>(byte));
    }
    return hash;
  }

 private:
  std::string bytes_;
  std::vector<Index> starts_;
  std::vector<std::string> names_;
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

/// The bytes of a file, or nothing if `skip_binary` and there is a NUL in the first 8 KiB.
inline std::optional<std::string> read_document(const std::filesystem::path& path, bool skip_binary) {
  const auto last_error = [] { return std::error_code(errno, std::generic_category()); };
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) unreadable(path, last_error());
  std::string text;
  std::array<char, 8192> chunk;
  while (file.read(chunk.data(), chunk.size()), file.gcount() > 0) {
    const std::string_view piece(chunk.data(), static_cast<std::size_t>(file.gcount()));
    if (skip_binary && text.empty() && piece.find('\0') != std::string_view::npos) return std::nullopt;
    if (static_cast<Index>(text.size() + piece.size()) > Corpus::longest_document) {
      data_error(path, "longer than 2 GiB; cut it into several files");
    }
    text += piece;
  }
  if (file.bad()) unreadable(path, last_error());
  return text;
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

}  // namespace detail

inline Corpus Corpus::from_paths(const std::vector<std::filesystem::path>& paths) {
  namespace fs = std::filesystem;
  if (paths.empty()) throw FileError("[data] no file or folder given");
  Corpus corpus;
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
      const std::string text = *detail::read_document(path, /*skip_binary=*/false);
      if (text.empty()) detail::data_error(path, "the file is empty");
      if (detail::is_blank(text)) detail::data_error(path, "the file holds only white space");
      corpus.add(text, path.string());
    } else if (type == fs::file_type::directory) {
      bool found = false;
      for (const fs::path& file : detail::files_in(path)) {
        if (!first_visit(file)) {
          found = true;
          continue;
        }
        const std::optional<std::string> text = detail::read_document(file, /*skip_binary=*/true);
        if (!text || detail::is_blank(*text)) continue;
        found = true;
        corpus.add(*text, file.string());
      }
      if (!found) detail::data_error(path, "the folder holds no text files");
    } else {
      detail::data_error(path, "neither a file nor a folder");
    }
  }
  return corpus;
}

inline Corpus Corpus::from_text(std::string text) {
  if (text.empty()) throw FileError("[data] the text is empty");
  Corpus corpus;
  corpus.bytes_ = std::move(text);
  corpus.starts_ = {0};
  corpus.names_ = {"text"};
  return corpus;
}

inline void Corpus::add(std::string_view text, std::string name) {
  if (text.empty()) return;
  starts_.push_back(size());
  names_.push_back(std::move(name));
  bytes_ += text;
}

inline CorpusSplit Corpus::split(double validation_fraction, Index train_minimum) const {
  if (!(validation_fraction >= 0 && validation_fraction < 1)) {
    throw ConfigError(cat("[data] the validation fraction must be in [0, 1), it is ", validation_fraction));
  }
  if (validation_fraction == 0 || empty()) return {*this, Corpus()};

  const auto tail_of = [&](Index document) {
    return static_cast<Index>(static_cast<double>(length(document)) * validation_fraction);
  };
  // How many of each document's last tokens go to validation: none, the tail, or all.
  std::vector<Index> held_out(starts_.size(), 0);
  Index total = 0, longest = 0;
  double credit = 0.5;  // reaches 1 first in the middle of a stride, so the first document is not special
  for (Index document = 0; document < documents(); ++document) {
    Index& count = held_out[static_cast<std::size_t>(document)];
    if (tail_of(document) >= shortest_tail) {
      count = tail_of(document);
    } else if ((credit += validation_fraction) >= 1) {
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
  if (size() - total < std::max<Index>(train_minimum, 1)) return {*this, Corpus()};

  CorpusSplit parts;
  for (Index document = 0; document < documents(); ++document) {
    const auto cut =
        static_cast<std::size_t>(length(document) - held_out[static_cast<std::size_t>(document)]);
    parts.train.add(text(document).substr(0, cut), name(document));
    parts.validation.add(text(document).substr(cut), name(document));
  }
  return parts;
}

}  // namespace mtpx
