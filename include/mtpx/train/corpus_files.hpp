#pragma once
// Files and folders of text, read into memory or document by document.

#include <mtpx/core/error.hpp>
#include <mtpx/text/input_file.hpp>
#include <mtpx/train/corpus.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace mtpx {

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

/// Reads files and folders, in the order given: what for_each_document() finds.
inline Corpus read_corpus(const std::vector<std::filesystem::path>& paths) {
  Corpus corpus;
  for_each_document(
      paths, [&corpus](const FoundDocument& found) { corpus.add(found.text, found.owner, found.path); });
  return corpus;
}

}  // namespace mtpx
