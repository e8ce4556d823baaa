#pragma once
// Files that are not trusted to be files, and their bytes in memory (POSIX).

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace mtpx {

namespace detail {
/// What the operating system says about the last failed call.
inline std::string os_error() { return std::generic_category().message(errno); }

/// A descriptor that is closed when it goes.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  int get() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

}  // namespace detail

/// A regular file opened for reading. `op` heads its error texts.
class InputFile {
 public:
  /// Throws FileError when the file is missing, unreadable or not a regular file (folder, pipe, device).
  InputFile(std::string_view op, const std::filesystem::path& path) : op_(op), path_(path.string()) {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    descriptor_ = detail::Descriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!descriptor_.open()) fail("cannot be opened: " + detail::os_error());
    struct stat status {};
    if (::fstat(descriptor_.get(), &status) != 0) fail("cannot be examined: " + detail::os_error());
    if (!S_ISREG(status.st_mode)) fail("is not a regular file");
    size_ = static_cast<Index>(status.st_size);
  }

  /// The path as it was given.
  const std::string& path() const { return path_; }
  /// The system's number of the open file, for mmap.
  int descriptor() const { return descriptor_.get(); }

  /// Bytes of the file when it was opened.
  Index size() const { return size_; }

  /// Throws FileError when the file has become shorter since it was opened.
  void check_size() const {
    struct stat status {};
    if (::fstat(descriptor_.get(), &status) != 0) fail("cannot be examined: " + detail::os_error());
    const auto now = static_cast<Index>(status.st_size);
    if (now < size_) fail(cat("has shrunk from ", size_, " to ", now, " bytes while it was in use"));
  }

  /// Fills `out` with the bytes from `offset` on. Throws FileError when they cannot be read or are not there.
  void read(Index offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      const ssize_t got = ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(cat("cannot be read at byte ", offset, ": ", detail::os_error()));
      if (got == 0) fail(cat("ends at byte ", offset, "; ", out.size(), " more bytes were expected"));
      offset += got;
      out = out.subspan(static_cast<std::size_t>(got));
    }
  }

  /// The whole file. Throws FileError when it has more than `limit` bytes or cannot be read.
  std::string read_text(Index limit) const {
    if (size_ > limit) fail(cat("has ", size_, " bytes; at most ", limit, " are read"));
    std::string text(static_cast<std::size_t>(size_), '\0');
    read(0, std::as_writable_bytes(std::span(text)));
    return text;
  }

  /// Throws FileError "[op] path: cause".
  [[noreturn]] void fail(const std::string& cause) const {
    throw FileError(cat('[', op_, "] ", path_, ": ", cause));
  }

 private:
  std::string op_;
  std::string path_;
  detail::Descriptor descriptor_;
  Index size_ = 0;
};

namespace detail {
/// A file's bytes in memory, shared with the page cache; unmapped when it goes.
class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(const InputFile& file) : size_(static_cast<std::size_t>(file.size())) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (address == MAP_FAILED) file.fail("cannot be mapped: " + os_error());
    data_ = static_cast<const std::byte*>(address);
  }
  Mapping(Mapping&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  const std::byte* data() const { return data_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Gives the memory of bytes of a mapping back, where it holds no others; who looks at them again reads
  /// them again.
  static void forget(std::span<const std::byte> bytes) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
    const std::uintptr_t first = (begin + page - 1) / page * page, end = (begin + bytes.size()) / page * page;
    if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
  }
  /// Bytes will be read here and there: those around them need not be fetched.
  void expect_jumps() const { ::madvise(const_cast<std::byte*>(data_), size_, MADV_RANDOM); }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};
}  // namespace detail

}  // namespace mtpx
