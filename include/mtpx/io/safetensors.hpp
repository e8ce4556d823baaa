#pragma once
// safetensors: named tensors in one file, read without trusting a byte of it, written whole or not at all.
// Usable without the rest of mtpx.
//
//   8 bytes   length n of the header, little-endian
//   n bytes   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}, where
//             "__metadata__" may hold strings by name
//   the rest  the tensors' bytes, row-major, little-endian, without holes or overlap
//
// What mtpx writes has one string more in "__metadata__", "mtpx_xxh64": 16 digits (io/checksum.hpp) of the
// header, taken with zeros for these 16, then 16 of each tensor's bytes, in the order of the file. Other
// readers ignore it; other writers' files have none.
//
// The rules are those of the reference implementation (huggingface/safetensors), and where it is silent the
// stricter reading: a key that stands twice, an unknown field, more than 64 axes or 2^18 tensors are refused.

#include <mtpx/core/error.hpp>
#include <mtpx/io/checksum.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/safetensors_header.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// How a file is read.
struct SafeTensorsOptions {
  /// Map the file (no copy, pages come as they are touched) or read the bytes that are asked for. Plain reads
  /// are for network file systems and for files that others may change: a mapped file that shrinks under a
  /// running read ends the process with SIGBUS. Each access checks the size first, which leaves only that
  /// race.
  bool mmap = true;
  /// Compare the header, and where whole files are loaded each tensor's bytes, with the checksums that mtpx
  /// writes. Files without them are taken as they are.
  bool verify = true;
  /// Of a model folder whose matrices are in 8 bits with scales (io/int8_folder.hpp): they stay so, for
  /// decoding alone. Else they become numbers of the model's type, as all others do.
  bool keep_int8 = false;
};

/// A safetensors file, open for reading. Everything the header claims has been checked when `open` returns:
/// no access can leave the file. Every failure throws FileError "[safetensors] path: cause", naming the
/// tensor.
class SafeTensors {
 public:
  /// Opens and checks `path`. Reads the header alone; memory is bounded by a small multiple of its length.
  static SafeTensors open(const std::filesystem::path& path, SafeTensorsOptions options = {}) {
    return SafeTensors(path, options);
  }

  /// The path as it was given.
  const std::string& path() const { return file_.path(); }
  /// The header's `__metadata__`: texts under names, without the checksums.
  const FileMetadata& metadata() const { return metadata_; }
  /// The checksum of the header, and so of everything; nothing for a file that was written without.
  std::optional<std::uint64_t> digest() const { return digest_; }

  /// All tensors, by name in byte order.
  std::span<const SafeTensorsEntry> tensors() const { return entries_; }

  /// The tensor of that name, or null.
  const SafeTensorsEntry* find(std::string_view name) const {
    const auto place = std::lower_bound(
        entries_.begin(), entries_.end(), name,
        [](const SafeTensorsEntry& entry, std::string_view wanted) { return entry.name < wanted; });
    return place != entries_.end() && place->name == name ? &*place : nullptr;
  }

  /// The tensor of that name; throws if there is none.
  const SafeTensorsEntry& at(std::string_view name) const {
    const SafeTensorsEntry* entry = find(name);
    if (entry == nullptr) file_.fail("has no tensor " + detail::quote(name));
    return *entry;
  }

  /// The tensor's bytes in the mapped file, at any alignment, while this object lives. Throws when the file
  /// was opened with mmap = false.
  std::span<const std::byte> bytes(const SafeTensorsEntry& entry) const {
    if (mapping_.data() == nullptr) file_.fail("is not mapped: use read_bytes");
    check_owned(entry);
    file_.check_size();
    return {mapping_.data() + data_begin_ + entry.begin, static_cast<std::size_t>(entry.bytes())};
  }

  /// Throws if the tensor's bytes are not those that were written, as far as the file has checksums. Several
  /// threads may call it at once.
  void verify(const SafeTensorsEntry& entry) const {
    if (!entry.checksum) return;
    constexpr Index step = Index{1} << 20;
    std::vector<std::byte> buffer(
        mapping_.data() == nullptr ? static_cast<std::size_t>(std::min(step, entry.bytes())) : 0);
    Checksum sum;
    for (Index done = 0; done < entry.bytes(); done += step) {
      const auto begin = static_cast<std::size_t>(done);
      const auto count = static_cast<std::size_t>(std::min(step, entry.bytes() - done));
      if (buffer.empty()) {
        sum.add(bytes(entry).subspan(begin, count));
      } else {
        read_bytes(entry, done, std::span(buffer).first(count));
        sum.add(std::span(buffer).first(count));
      }
    }
    if (sum.value() == *entry.checksum) return;
    fail(entry, cat("has other bytes than were written: their checksum is ", checksum_text(sum.value()),
                    ", it was ", checksum_text(*entry.checksum)));
  }

  /// Copies out.size() bytes from the tensor's byte `offset` on, whatever its dtype.
  void read_bytes(const SafeTensorsEntry& entry, Index offset, std::span<std::byte> out) const {
    check_owned(entry);
    const auto length = static_cast<Index>(out.size());
    if (offset < 0 || offset > entry.bytes() || length > entry.bytes() - offset) {
      fail(entry, cat(length, " bytes from byte ", offset, " on were asked for; it has ", entry.bytes()));
    }
    if (length == 0) return;
    if (mapping_.data() == nullptr) return file_.read(data_begin_ + entry.begin + offset, out);
    std::memcpy(out.data(), bytes(entry).data() + offset, out.size());
  }

  /// Converts the whole tensor to float, double, bf16 or std::int64_t (see `convert`). out.size() must be
  /// entry.count().
  template <typename Number>
  void read(const SafeTensorsEntry& entry, std::span<Number> out) const {
    if (static_cast<Index>(out.size()) != entry.count()) {
      check_numbers<Number>(entry);
      fail(entry, cat("has ", entry.count(), " elements; there is room for ", out.size()));
    }
    read(entry, 0, out);
  }

  /// Converts out.size() elements from element `first` on. Several threads may read at once.
  template <typename Number>
  void read(const SafeTensorsEntry& entry, Index first, std::span<Number> out) const {
    check_numbers<Number>(entry);
    const auto all = static_cast<Index>(out.size());
    if (first < 0 || first > entry.count() || all > entry.count() - first) {
      fail(entry, cat(all, " elements from element ", first, " on were asked for; it has ", entry.count()));
    }
    const Index size = dtype_size(*entry.dtype);
    if (mapping_.data() != nullptr) {
      convert(*entry.dtype, bytes(entry).data() + first * size, all, out.data());
      return;
    }
    const Index step = std::min(all, (Index{1} << 20) / size);
    std::vector<std::byte> buffer(static_cast<std::size_t>(step * size));
    for (Index done = 0; done < all; done += step) {
      const Index count = std::min(step, all - done);
      read_bytes(entry, (first + done) * size,
                 std::span(buffer).first(static_cast<std::size_t>(count * size)));
      convert(*entry.dtype, buffer.data(), count, out.data() + done);
    }
  }

  /// The whole tensor in a new vector.
  template <typename Number>
  std::vector<Number> read(const SafeTensorsEntry& entry) const {
    std::vector<Number> numbers(static_cast<std::size_t>(entry.count()));
    read(entry, std::span<Number>(numbers));
    return numbers;
  }

 private:
  SafeTensors(const std::filesystem::path& path, SafeTensorsOptions options) : file_("safetensors", path) {
    const std::string header = read_header();
    const std::size_t sound = detail::utf8_prefix(header);
    if (sound != header.size()) file_.fail(cat("the header is not UTF-8 at byte ", sound));
    // The parser takes a zero byte for the end of the text and would not see what follows.
    const std::size_t zero = header.find('\0');
    if (zero != std::string::npos) file_.fail(cat("the header is not JSON at byte ", zero + 1));
    detail::SafeTensorsHeader reader(file_, entries_, metadata_);
    detail::read_events<nlohmann::json>(header, reader);
    check_entries();
    check_layout();
    read_checksums(header, options.verify);
    if (options.mmap) mapping_ = detail::Mapping(file_);
  }

  std::string read_header() {
    if (file_.size() < 8) file_.fail(cat("has ", file_.size(), " bytes; the length of the header takes 8"));
    std::uint64_t length = 0;
    file_.read(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > static_cast<std::uint64_t>(detail::max_header_bytes)) {
      file_.fail(
          cat("claims a header of ", length, " bytes; at most ", detail::max_header_bytes, " are read"));
    }
    if (static_cast<Index>(length) > file_.size() - 8) {
      file_.fail(cat("claims a header of ", length, " bytes; only ", file_.size() - 8, " are there"));
    }
    std::string header(static_cast<std::size_t>(length), '\0');
    file_.read(8, std::as_writable_bytes(std::span(header)));
    if (header.empty() || header[0] != '{') file_.fail("the header does not begin with {");
    data_begin_ = 8 + static_cast<Index>(length);
    data_bytes_ = file_.size() - data_begin_;
    return header;
  }

  // Each tensor by itself.
  void check_entries() {
    std::sort(entries_.begin(), entries_.end(),
              [](const SafeTensorsEntry& a, const SafeTensorsEntry& b) { return a.name < b.name; });
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const SafeTensorsEntry& entry = entries_[i];
      if (i > 0 && entries_[i - 1].name == entry.name)
        file_.fail(cat("tensor ", detail::quote(entry.name), " stands twice"));
      const std::string offsets = cat("data_offsets [", entry.begin, ", ", entry.end, "]");
      if (entry.begin > entry.end) fail(entry, offsets + " run backwards");
      if (entry.end > data_bytes_)
        fail(entry, cat(offsets, " leave the file, which has ", data_bytes_, " bytes of data"));
      // An unknown dtype leaves the number of bytes open, but not whether the elements can be counted.
      const auto needed =
          entry.dtype ? detail::byte_count(*entry.dtype, entry.shape) : detail::element_count(entry.shape);
      const std::string shape = cat("shape ", detail::extents_text(entry.shape));
      if (!needed) fail(entry, shape + " is larger than 64 bits can count");
      if (entry.dtype && *needed != entry.bytes()) {
        fail(entry, cat(shape, " of ", entry.dtype_name, " takes ", *needed, " bytes; ", offsets, " hold ",
                        entry.bytes()));
      }
    }
  }

  // By place; a tensor without bytes before the one that begins where it does.
  std::vector<SafeTensorsEntry*> placed() {
    std::vector<SafeTensorsEntry*> all;
    all.reserve(entries_.size());
    for (SafeTensorsEntry& entry : entries_) all.push_back(&entry);
    std::sort(all.begin(), all.end(), [](const SafeTensorsEntry* a, const SafeTensorsEntry* b) {
      return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    return all;
  }

  // All tensors together: each begins where the one before ended.
  void check_layout() {
    Index end = 0;
    for (const SafeTensorsEntry* entry : placed()) {
      if (entry->begin < end)
        fail(*entry,
             cat("begins at data byte ", entry->begin, ", inside the tensor before it, which ends at ", end));
      if (entry->begin > end)
        fail(*entry,
             cat("begins at data byte ", entry->begin, "; the bytes from ", end, " on belong to no tensor"));
      end = entry->end;
    }
    if (end != data_bytes_) file_.fail(cat("has ", data_bytes_, " bytes of data; the tensors take ", end));
  }

  void read_checksums(std::string header, bool verify) {
    const auto found = metadata_.find(std::string(detail::checksums_key));
    if (found == metadata_.end()) return;
    const std::string digits = found->second;
    metadata_.erase(found);
    if (!verify) return;
    // Nowhere else: inside of a string the quotes would follow backslashes.
    const std::size_t place = header.find(detail::checksums_mark);
    std::vector<std::optional<std::uint64_t>> sums;
    for (std::size_t at = 0; at < digits.size(); at += 16)
      sums.push_back(parse_checksum(std::string_view(digits).substr(at, 16)));
    if (place == std::string::npos || sums.size() != entries_.size() + 1 ||
        std::find(sums.begin(), sums.end(), std::nullopt) != sums.end())
      file_.fail(cat(detail::checksums_key, " of __metadata__ must be ", entries_.size() + 1,
                     " checksums of 16 digits"));
    header.replace(place + detail::checksums_mark.size(), 16, 16, '0');
    if (checksum(header) != *sums[0])
      file_.fail(cat("has another header than was written: its checksum is ", checksum_text(checksum(header)),
                     ", it was ", checksum_text(*sums[0])));
    digest_ = sums[0];
    std::size_t next = 1;
    for (SafeTensorsEntry* entry : placed()) entry->checksum = sums[next++];
  }

  // Whether the elements can be had as Number.
  template <typename Number>
  void check_numbers(const SafeTensorsEntry& entry) const {
    if (!entry.dtype) {
      std::string known;
      for (DType dtype : all_dtypes) known += cat(' ', dtype_name(dtype));
      fail(entry, cat("dtype ", detail::quote(entry.dtype_name), " is not one of", known));
    }
    if (!is_integer(*entry.dtype) && dtype_of<Number>() == DType::i64) {
      fail(entry, cat("holds ", entry.dtype_name, ", where whole numbers were asked for"));
    }
  }

  // An entry of another file must not lead out of this one.
  void check_owned(const SafeTensorsEntry& entry) const {
    if (entry.begin < 0 || entry.end < entry.begin || entry.end > data_bytes_)
      fail(entry, "belongs to another file");
  }

  [[noreturn]] void fail(const SafeTensorsEntry& entry, const std::string& cause) const {
    file_.fail(cat("tensor ", detail::quote(entry.name), ": ", cause));
  }

  InputFile file_;
  detail::Mapping mapping_;
  std::vector<SafeTensorsEntry> entries_;
  FileMetadata metadata_;
  std::optional<std::uint64_t> digest_;
  Index data_begin_ = 0;
  Index data_bytes_ = 0;
};

/// What a header says of a tensor.
struct TensorInfo {
  std::string name;          ///< the published one
  DType dtype = DType::f32;  ///< of its elements
  std::vector<Index> shape;  ///< outermost first; empty for a single number
};

/// A tensor with its bytes, row-major, which live elsewhere.
struct TensorBytes {
  std::string name;                  ///< the published one
  DType dtype = DType::f32;          ///< of its elements
  std::vector<Index> shape;          ///< outermost first; empty for a single number
  std::span<const std::byte> bytes;  ///< as many as dtype and shape say
};

namespace detail {
/// The order within a file: wide elements first, so that each tensor is aligned to its element; then by name.
template <typename A, typename B>
bool file_order(const A& a, const B& b) {
  const Index a_size = dtype_size(a.dtype), b_size = dtype_size(b.dtype);
  return a_size != b_size ? a_size > b_size : a.name < b.name;
}
}  // namespace detail

/// Writes one file, holding no tensor: announce all tensors, write the bytes of each in the order of
/// `tensors()`, call `finish`. The file appears under its name in `finish`, complete, flushed to the disk and
/// its header read back; before that, or after a failure, whatever had the name stays. The bytes depend on
/// the arguments alone, not on their order. Checksums are written along. Every failure throws FileError
/// "[safetensors] path: cause".
class SafeTensorsWriter {
 public:
  SafeTensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const FileMetadata& metadata = {})
      : path_(path), tensors_(std::move(tensors)), header_(header(metadata)), file_("safetensors", path) {
    const std::uint64_t length = header_.size();
    file_.write(std::as_bytes(std::span(&length, 1)));
    file_.write(header_);
  }

  /// The tensors in the order in which they are written.
  std::span<const TensorInfo> tensors() const { return tensors_; }

  /// Writes the next tensor.
  void write(std::span<const std::byte> bytes) {
    if (written_ == tensors_.size()) fail(cat("all ", written_, " tensors have been written"));
    const TensorInfo& tensor = tensors_[written_];
    const Index needed = *detail::byte_count(tensor.dtype, tensor.shape);
    if (static_cast<Index>(bytes.size()) != needed) {
      fail(cat("tensor ", detail::quote(tensor.name), ": shape ", detail::extents_text(tensor.shape), " of ",
               dtype_name(tensor.dtype), " takes ", needed, " bytes; ", bytes.size(), " were given"));
    }
    file_.write(bytes);
    ++written_;
    put_checksum(written_, checksum(bytes));
  }

  /// Completes the file, reads its header back, and gives it its name.
  void finish() {
    complete();
    place();
  }

  /// The first half of finish: all but the name. Returns SafeTensors::digest() of the file, or 0 for one
  /// without tensors.
  std::uint64_t complete() {
    if (written_ != tensors_.size())
      fail(cat("only ", written_, " of ", tensors_.size(), " tensors were written"));
    const std::uint64_t digest = tensors_.empty() ? 0 : checksum(header_);
    if (!tensors_.empty()) put_checksum(0, digest);
    file_.rewrite(8, std::as_bytes(std::span(header_.data(), header_.size())));
    file_.flush();
    const SafeTensors back = SafeTensors::open(file_.temporary(), {.mmap = false});
    if (back.digest().value_or(0) != digest || back.tensors().size() != tensors_.size())
      fail("was not written as it should be: its header reads back differently");
    return digest;
  }

  /// The second half: the file gets its name.
  void place() { file_.place(); }

 private:
  // The file's for tensor 0, the first one's for 1.
  void put_checksum(std::size_t tensor, std::uint64_t sum) {
    const std::size_t place = header_.find(detail::checksums_mark) + detail::checksums_mark.size();
    header_.replace(place + 16 * tensor, 16, checksum_text(sum));
  }

  // Sorts and checks the tensors; called before the file exists.
  std::string header(FileMetadata metadata) {
    metadata.erase(std::string(detail::checksums_key));
    if (!tensors_.empty())
      metadata.emplace(detail::checksums_key, std::string(16 * (tensors_.size() + 1), '0'));
    std::sort(tensors_.begin(), tensors_.end(), detail::file_order<TensorInfo, TensorInfo>);
    check_names();
    std::string text = "{";
    if (!metadata.empty()) {
      text += "\"__metadata__\":{";
      for (const auto& [key, value] : metadata) text += cat(json_string(key), ':', json_string(value), ',');
      text.back() = '}';
      text += ',';
    }
    Index begin = 0;
    for (const TensorInfo& tensor : tensors_) {
      const auto bytes = detail::byte_count(tensor.dtype, tensor.shape);
      Index end = 0;
      if (!bytes || __builtin_add_overflow(begin, *bytes, &end) || tensor.shape.size() > detail::max_axes) {
        fail(cat("tensor ", detail::quote(tensor.name), ": shape ", detail::extents_text(tensor.shape),
                 " cannot be written"));
      }
      text += cat(json_string(tensor.name), ":{\"dtype\":\"", dtype_name(tensor.dtype), "\",\"shape\":[");
      for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis)
        text += cat(axis > 0 ? "," : "", tensor.shape[axis]);
      text += cat("],\"data_offsets\":[", begin, ',', end, "]},");
      begin = end;
    }
    if (text.back() == ',') text.pop_back();
    text += '}';
    text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8
    if (static_cast<Index>(text.size()) > detail::max_header_bytes) {
      fail(cat("the header would take ", text.size(), " bytes; at most ", detail::max_header_bytes,
               " are read"));
    }
    return text;
  }

  void check_names() const {
    std::vector<std::string_view> names;
    for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    if (names.size() > detail::max_tensors) fail(cat("has more than ", detail::max_tensors, " tensors"));
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail(cat("tensor ", detail::quote(*twice), " stands twice"));
    if (std::binary_search(names.begin(), names.end(), std::string_view("__metadata__"))) {
      fail("no tensor may be called \"__metadata__\"");
    }
  }

  std::string json_string(const std::string& text) const {
    if (detail::utf8_prefix(text) != text.size())
      fail(cat("the name or text ", detail::quote(text), " is not UTF-8"));
    return nlohmann::json(text).dump();
  }

  [[noreturn]] void fail(const std::string& cause) const {
    throw FileError(cat("[safetensors] ", path_.string(), ": ", cause));
  }

  std::filesystem::path path_;
  std::vector<TensorInfo> tensors_;
  std::string header_;
  OutputFile file_;
  std::size_t written_ = 0;
};

/// Writes tensors that are all in memory; see SafeTensorsWriter.
///
/// finish(writer): gives the file its name
template <typename Finish>
void write_safetensors(const std::filesystem::path& path, std::vector<TensorBytes> tensors,
                       const FileMetadata& metadata, const Finish& finish) {
  std::sort(tensors.begin(), tensors.end(), detail::file_order<TensorBytes, TensorBytes>);
  std::vector<TensorInfo> infos;
  for (const TensorBytes& tensor : tensors) infos.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafeTensorsWriter writer(path, std::move(infos), metadata);
  for (const TensorBytes& tensor : tensors) writer.write(tensor.bytes);
  finish(writer);
}
/// The same, under its name at once.
inline void write_safetensors(const std::filesystem::path& path, std::vector<TensorBytes> tensors,
                              const FileMetadata& metadata = {}) {
  write_safetensors(path, std::move(tensors), metadata, [](SafeTensorsWriter& writer) { writer.finish(); });
}

}  // namespace mtpx
