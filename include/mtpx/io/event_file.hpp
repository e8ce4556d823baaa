#pragma once
// Figures of a run for TensorBoard: its event files, written by hand.

#include <mtpx/core/error.hpp>
#include <mtpx/io/file.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace mtpx {

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4): polynomial 0x1EDC6F41, bits mirrored, all ones before and
/// after. crc32c("123456789") = 0xE3069283.
///
/// before: the value of the bytes in front of these, to go on from; 0: none
inline std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> all{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1U) != 0 ? 0x82f63b78U : 0U);
      all[i] = c;
    }
    return all;
  }();
  std::uint32_t crc = ~before;
  for (const std::byte b : bytes) crc = table[(crc ^ static_cast<std::uint32_t>(b)) & 0xffU] ^ (crc >> 8);
  return ~crc;
}

namespace detail {
/// A message of protocol buffers (their wire format): fields one behind the other, each a number and a value.
class ProtoMessage {
 public:
  /// An integer, of seven bits a byte.
  ProtoMessage& varint(std::uint32_t field, std::uint64_t value) {
    number(field << 3U);
    number(value);
    return *this;
  }
  /// A double or float, little-endian.
  ProtoMessage& fixed(std::uint32_t field, double value) { return raw(field << 3U | 1U, value); }
  ProtoMessage& fixed(std::uint32_t field, float value) { return raw(field << 3U | 5U, value); }
  /// A string or another message, behind its length.
  ProtoMessage& bytes(std::uint32_t field, std::string_view value) {
    number(field << 3U | 2U);
    number(value.size());
    text_ += value;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  void number(std::uint64_t value) {
    for (; value > 0x7f; value >>= 7U) text_ += static_cast<char>(value | 0x80U);
    text_ += static_cast<char>(value);
  }
  template <typename V>
  ProtoMessage& raw(std::uint32_t key, V value) {
    number(key);
    char buffer[sizeof value];
    std::memcpy(buffer, &value, sizeof value);  // every machine we run on is little-endian
    text_.append(buffer, sizeof value);
    return *this;
  }
  std::string text_;
};
}  // namespace detail

/// A file of events as TensorBoard reads them (tensorflow/core/util/event.proto, summary.proto): records of
///
///   length (8 bytes), masked CRC of the length (4), an Event (length bytes), masked CRC of the Event (4)
///
/// where mask(c) = rotate_right(c, 15) + 0xa282ead8. A record is appended whole, by one call of the system:
/// whatever ends the process, readers find all events before it, and TensorBoard shows them while the run
/// goes on.
class EventFile {
 public:
  /// Begins a file, which must not exist: see name_in(). Throws FileError.
  ///
  /// steps: those that were taken before. Where there are any, TensorBoard forgets what other files of the
  /// folder hold of later steps: the run that wrote them has been taken up again from here.
  explicit EventFile(const std::filesystem::path& path, std::int64_t steps = 0) : path_(path) {
    descriptor_ =
        detail::Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
    if (!descriptor_.open()) fail("cannot be created: " + detail::os_error());
    record(event(0).bytes(3, "brain.Event:2"));
    if (steps > 0) record(event(steps + 1).bytes(7, detail::ProtoMessage().varint(1, 1).text()));  // START
  }

  /// A name for a new file in a folder, behind all that are there in TensorBoard's order: by name.
  static std::filesystem::path name_in(const std::filesystem::path& folder) {
    for (std::int64_t second = std::time(nullptr);; ++second) {
      std::string digits = std::to_string(second);
      digits.insert(0, digits.size() < 10 ? 10 - digits.size() : 0, '0');
      std::filesystem::path path = folder / ("events.out.tfevents." + digits + ".mtpx");
      if (!std::filesystem::exists(std::filesystem::symlink_status(path))) return path;
    }
  }

  /// A figure of a step. Throws FileError.   tag: what it is; "loss/main" and "loss/depth_1" share a group
  void add(std::int64_t step, std::string_view tag, double value) {
    detail::ProtoMessage one;
    one.bytes(1, tag).fixed(2, static_cast<float>(value));
    record(event(step).bytes(5, detail::ProtoMessage().bytes(1, one.text()).text()));
  }

  /// The path as it was given.
  const std::filesystem::path& path() const { return path_; }

 private:
  static detail::ProtoMessage event(std::int64_t step) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    detail::ProtoMessage message;
    message.fixed(1, std::chrono::duration<double>(now).count()).varint(2, static_cast<std::uint64_t>(step));
    return message;
  }

  void record(const detail::ProtoMessage& message) {
    const auto append = [](std::string& text, auto number) {
      char buffer[sizeof number];
      std::memcpy(buffer, &number, sizeof number);
      text.append(buffer, sizeof number);
    };
    const auto masked = [](std::string_view text) {
      const std::uint32_t crc = crc32c(std::as_bytes(std::span(text)));
      return static_cast<std::uint32_t>((crc >> 15U | crc << 17U) + 0xa282ead8U);
    };
    std::string text;
    append(text, static_cast<std::uint64_t>(message.text().size()));
    append(text, masked(text));
    text += message.text();
    append(text, masked(message.text()));
    ssize_t put = 0;
    do {
      put = ::write(descriptor_.get(), text.data(), text.size());
    } while (put < 0 && errno == EINTR);
    if (put < 0) fail("cannot be written: " + detail::os_error());
    if (put != static_cast<ssize_t>(text.size())) {
      // Half an event would hide all behind it, should there be room again.
      const bool cut = ::ftruncate(descriptor_.get(), size_) == 0;
      fail(cat("cannot be written: ", put, " of ", text.size(), " bytes of an event fitted",
               cut ? "" : ", and stayed there"));
    }
    size_ += put;
  }

  [[noreturn]] void fail(const std::string& cause) const {
    throw FileError(cat("[events] ", path_.string(), ": ", cause));
  }

  std::filesystem::path path_;
  detail::Descriptor descriptor_;
  off_t size_ = 0;
};

}  // namespace mtpx
