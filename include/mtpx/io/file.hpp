#pragma once
// Files that appear whole or not at all (POSIX).

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/text/input_file.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {
/// Makes the names in a folder reach the disk; false where that fails, which errno tells.
inline bool flush_folder(const std::string& path) {
  const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: some file systems cannot flush a folder; there is nothing more to do on them.
  return folder.open() && (::fsync(folder.get()) == 0 || errno == EINVAL);
}
}  // namespace detail

/// A file that appears under its name only when it is complete: bytes go to a temporary file in the same
/// folder, `commit` flushes it to the disk and renames it. Without `commit` nothing is left behind, and
/// whatever had the name before stays as it was, even while it is mapped. Only regular files are replaced, no
/// folder, device or pipe. Every failure throws FileError naming path and cause.
class OutputFile {
 public:
  OutputFile(std::string_view op, const std::filesystem::path& path) : op_(op), path_(path) {
    struct stat status {};
    if (::stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
      fail("is not a regular file, and is not replaced");
    constexpr int attempts = 100;  // names that other writers to the same path may hold
    for (int attempt = 0; attempt < attempts && !descriptor_.open(); ++attempt) {
      temporary_ = cat(path_.string(), ".tmp-", ::getpid(), '-', attempt);
      descriptor_ =
          detail::Descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!descriptor_.open() && errno != EEXIST) break;
    }
    if (!descriptor_.open()) fail("cannot be created: " + detail::os_error());
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (!placed_ && descriptor_.open()) ::unlink(temporary_.c_str());
  }

  /// Appends bytes. Throws FileError when the file system refuses.
  void write(std::span<const std::byte> bytes) {
    size_ += static_cast<Index>(bytes.size());
    put(bytes, [&] { return ::write(descriptor_.get(), bytes.data(), bytes.size()); });
  }
  /// Appends a text.
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Writes over bytes that were written before, from `offset` on.
  void rewrite(Index offset, std::span<const std::byte> bytes) {
    const auto count = static_cast<Index>(bytes.size());
    if (offset < 0 || offset > size_ || count > size_ - offset)
      fail(cat("has ", size_, " bytes; ", count, " from byte ", offset, " on cannot be written again"));
    put(bytes, [&] {
      const Index at = offset + count - static_cast<Index>(bytes.size());
      return ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    });
  }

  /// Gives the file its name, after its bytes have reached the disk; then makes the name itself last.
  void commit() {
    flush();
    place();
  }

  /// The first half of commit: the bytes reach the disk, all of them. Files that belong together are all
  /// flushed before the first of them is placed.
  void flush() {
    if (::fsync(descriptor_.get()) != 0) fail("cannot be flushed: " + detail::os_error());
    struct stat status {};
    if (::fstat(descriptor_.get(), &status) != 0) fail("cannot be examined: " + detail::os_error());
    if (const auto size = static_cast<Index>(status.st_size); size != size_)
      fail(cat("was written, ", size_, " bytes, and has ", size));
  }

  /// The second half: the file gets its name.
  void place() {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0)
      fail("cannot be put in place: " + detail::os_error());
    placed_ = true;
    if (!detail::flush_folder(path_.has_parent_path() ? path_.parent_path().string() : "."))
      fail("is in place, but its folder cannot be flushed: " + detail::os_error());
  }

  /// The name that the file has until it is placed, to read it back.
  const std::string& temporary() const { return temporary_; }

  /// Throws FileError "[op] path: cause".
  [[noreturn]] void fail(const std::string& cause) const {
    throw FileError(cat('[', op_, "] ", path_.string(), ": ", cause));
  }

 private:
  /// Calls some() until there are no bytes left; it writes some of them and returns how many.
  template <typename Some>
  void put(std::span<const std::byte>& bytes, const Some& some) {
    while (!bytes.empty()) {
      const ssize_t count = some();
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(cat("cannot be written, ", bytes.size(), " bytes were left: ", detail::os_error()));
      if (count == 0) fail(cat("takes no more bytes, ", bytes.size(), " were left"));
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  std::string op_;
  std::filesystem::path path_;
  std::string temporary_;
  detail::Descriptor descriptor_;
  Index size_ = 0;  // bytes written
  bool placed_ = false;
};

namespace detail {
/// The process that `name` is a temporary of, "NAME.tmp-PID" or "NAME.tmp-PID-N"; 0 if it is none.
inline pid_t temporary_of(std::string_view name) {
  constexpr std::string_view mark = ".tmp-";
  const std::size_t at = name.rfind(mark);
  if (at == std::string_view::npos || at == 0) return 0;
  const char* const end = name.data() + name.size();
  pid_t process = 0;
  const auto [rest, failed] = std::from_chars(name.data() + at + mark.size(), end, process);
  if (failed != std::errc{} || process <= 0) return 0;
  if (rest == end) return process;
  int attempt = 0;
  const auto [last, wrong] = std::from_chars(rest + 1, end, attempt);
  return *rest == '-' && wrong == std::errc{} && last == end && attempt >= 0 ? process : 0;
}
}  // namespace detail

/// Removes what processes that were killed left half written in `folder`: files and folders called
/// "NAME.tmp-PID" or "NAME.tmp-PID-N", as OutputFile calls its temporaries, whose process is gone or is this
/// one, which had the number of a former one. So it is called before this process writes there. Returns the
/// paths that were removed, by name; what cannot be removed stays.
inline std::vector<std::filesystem::path> remove_stale(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> stale, removed;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const pid_t process = detail::temporary_of(entry->path().filename().native());
    if (process == 0) continue;
    if (process == ::getpid() || (::kill(process, 0) != 0 && errno == ESRCH)) stale.push_back(entry->path());
  }
  std::sort(stale.begin(), stale.end());
  for (const std::filesystem::path& path : stale) {
    std::error_code kept;
    if (std::filesystem::remove_all(path, kept) > 0 && !kept) removed.push_back(path);
  }
  return removed;
}

}  // namespace mtpx
