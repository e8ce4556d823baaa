#pragma once
// GGUF version 3, the file that llama.cpp reads: numbers and texts by key, then tensors (ggml's
// docs/gguf.md).
//
//   "GGUF", u32 version, u64 number of tensors, u64 number of keys
//   keys      text, u32 type, value; a list is u32 type of its values, u64 how many, the values; a text is
//             u64 bytes, the bytes
//   tensors   text, u32 axes, u64 extents, the innermost first, u32 type, u64 where it begins in the data
//   data      from the next multiple of 32 on; each tensor begins at a multiple of 32
//
// All of it is little-endian.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/io/dtype.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/tensor_file.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// How a tensor's numbers are stored, by ggml's numbers of these types.
enum class GgufType : std::uint32_t {
  f32 = 0,   ///< as they are
  f16 = 1,   ///< IEEE 754 halves
  q8_0 = 8,  ///< blocks of 32: a scale and 32 whole numbers
  bf16 = 30  ///< the upper half of a float
};

/// All of them, as people list them.
inline constexpr GgufType gguf_types[] = {GgufType::f32, GgufType::f16, GgufType::bf16, GgufType::q8_0};

/// The name that ggml gives a type.
constexpr std::string_view gguf_type_name(GgufType type) {
  return type == GgufType::f32    ? "f32"
         : type == GgufType::f16  ? "f16"
         : type == GgufType::bf16 ? "bf16"
                                  : "q8_0";
}

/// Numbers that are stored together: rows are whole blocks.
constexpr Index gguf_block(GgufType type) { return type == GgufType::q8_0 ? 32 : 1; }

/// Bytes of one block.
constexpr Index gguf_block_bytes(GgufType type) {
  return type == GgufType::f32 ? 4 : type == GgufType::q8_0 ? 2 + gguf_block(type) : 2;
}

/// A number of this magnitude is the first that a type cannot hold.
constexpr double gguf_bound(GgufType type) {
  constexpr double half = 65520;
  if (type == GgufType::f16) return half;
  if (type == GgufType::q8_0) return 127 * half;
  return type == GgufType::bf16 ? 0x1.ffp127 : std::numeric_limits<double>::infinity();
}

/// Numbers as a tensor stores them. f16 and bf16 are rounded to nearest, ties to even. q8_0 as ggml's
/// quantize_row_q8_0_ref():
///
///   d = max |x| / 127,   q = round(x (1 / d)), halves away from zero;   stored: d as a half, q as int8
///
/// numbers: whole blocks, each below gguf_bound()   out: gguf_block_bytes() a block
inline void gguf_encode(GgufType type, std::span<const float> numbers, std::byte* out) {
  const auto put = [&out](const auto& value) {
    std::memcpy(out, &value, sizeof value);
    out += sizeof value;
  };
  if (type != GgufType::q8_0) {
    for (const float number : numbers) {
      if (type == GgufType::f32) put(number);
      if (type == GgufType::f16) put(float_to_f16(number));
      if (type == GgufType::bf16) put(bf16(number).bits);
    }
    return;
  }
  for (; !numbers.empty(); numbers = numbers.subspan(static_cast<std::size_t>(gguf_block(type)))) {
    const auto block = numbers.first(static_cast<std::size_t>(gguf_block(type)));
    float largest = 0;
    for (const float number : block) largest = std::max(largest, std::abs(number));
    const float scale = largest / 127, inverse = scale != 0 ? 1 / scale : 0;
    put(float_to_f16(scale));
    for (const float number : block) put(static_cast<std::int8_t>(std::round(number * inverse)));
  }
}

/// The keys of a file, in the order in which they were added.
class GgufKeys {
 public:
  /// A whole number, at least 0.
  void number(std::string_view key, Index value) { put_key(key, 4, static_cast<std::uint32_t>(value)); }
  /// A number, rounded to float.
  void real(std::string_view key, double value) { put_key(key, 6, static_cast<float>(value)); }
  /// A truth value.
  void flag(std::string_view key, bool value) { put_key(key, 7, static_cast<std::uint8_t>(value)); }
  /// A text.
  void text(std::string_view key, std::string_view value) {
    put_text(key);
    put(texts_type);
    put_text(value);
    ++count_;
  }
  /// A list of texts.
  void texts(std::string_view key, const std::vector<std::string>& values) {
    put_list(key, texts_type, values.size());
    for (const std::string& value : values) put_text(value);
  }
  /// A list of whole numbers.
  void numbers(std::string_view key, const std::vector<std::int32_t>& values) {
    put_list(key, 5, values.size());
    for (const std::int32_t value : values) put(value);
  }

  std::uint64_t count() const { return count_; }       ///< how many there are
  const std::string& bytes() const { return bytes_; }  ///< as a file holds them

 private:
  static constexpr std::uint32_t texts_type = 8, list_type = 9;

  template <typename Value>
  void put(Value value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put_text(std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    bytes_ += text;
  }
  template <typename Value>
  void put_key(std::string_view key, std::uint32_t type, Value value) {
    put_text(key);
    put(type);
    put(value);
    ++count_;
  }
  void put_list(std::string_view key, std::uint32_t type, std::size_t size) {
    put_key(key, list_type, type);
    put(static_cast<std::uint64_t>(size));
  }

  std::string bytes_;
  std::uint64_t count_ = 0;
};

/// What a file says of a tensor.
struct GgufTensor {
  std::string name;               ///< llama.cpp's
  GgufType type = GgufType::f32;  ///< of its numbers
  std::vector<Index> shape;       ///< outermost first, one to four
};

/// Writes one file: announce all tensors, write the numbers of each in their order, call finish(). The file
/// appears under its name in finish(), complete and flushed to the disk; before that, or after a failure,
/// whatever had the name stays. Throws FileError "[gguf] path: cause", and NumericError for a number that the
/// tensor's type cannot hold.
class GgufWriter {
 public:
  /// host: the threads that convert
  GgufWriter(const std::filesystem::path& path, const GgufKeys& keys, std::vector<GgufTensor> tensors,
             Cpu host = Cpu())
      : host_(std::move(host)), tensors_(std::move(tensors)), file_("gguf", path) {
    std::string header = "GGUF";
    const auto put = [&header](auto value) {
      header.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    put(std::uint32_t{3});
    put(static_cast<std::uint64_t>(tensors_.size()));
    put(keys.count());
    header += keys.bytes();
    std::set<std::string_view> names;
    Index begin = 0;
    for (const GgufTensor& tensor : tensors_) {
      check(tensor, names);
      put(static_cast<std::uint64_t>(tensor.name.size()));
      header += tensor.name;
      put(static_cast<std::uint32_t>(tensor.shape.size()));
      for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
        put(static_cast<std::uint64_t>(*extent));
      put(static_cast<std::uint32_t>(tensor.type));
      put(static_cast<std::uint64_t>(begin));
      begin += aligned(bytes_of(tensor));
    }
    header.resize(static_cast<std::size_t>(aligned(static_cast<Index>(header.size()))), '\0');
    bytes_ = static_cast<Index>(header.size()) + begin;
    file_.write(header);
  }

  /// Of the whole file.
  Index bytes() const { return bytes_; }

  /// Writes the next numbers of the tensor whose turn it is: whole blocks of it, no more than are left.
  void write(std::span<const float> numbers) {
    if (next_ == tensors_.size()) file_.fail("all tensors have been written");
    const GgufTensor& tensor = tensors_[next_];
    const Index block = gguf_block(tensor.type), bytes = gguf_block_bytes(tensor.type);
    const auto count = static_cast<Index>(numbers.size());
    if (count % block != 0 || count > count_of(tensor) - written_)
      file_.fail(cat("tensor ", detail::quote(tensor.name), ": ", count, " numbers from number ", written_,
                     " on were given; it has ", count_of(tensor)));
    buffer_.resize(static_cast<std::size_t>(count / block * bytes));
    detail::in_parts(host_, count / block, [&](Index begin, Index end) {
      const auto part = numbers.subspan(static_cast<std::size_t>(begin * block),
                                        static_cast<std::size_t>((end - begin) * block));
      check_range(tensor, part, written_ + begin * block);
      gguf_encode(tensor.type, part, buffer_.data() + begin * bytes);
    });
    file_.write(buffer_);
    written_ += count;
    if (written_ < count_of(tensor)) return;
    const Index size = bytes_of(tensor);
    file_.write(std::string(static_cast<std::size_t>(aligned(size) - size), '\0'));
    written_ = 0;
    ++next_;
  }

  /// Gives the file its name.
  void finish() {
    if (next_ < tensors_.size())
      file_.fail(cat("only ", next_, " of ", tensors_.size(), " tensors were written"));
    file_.commit();
  }

 private:
  static Index aligned(Index bytes) { return (bytes + 31) / 32 * 32; }
  static Index count_of(const GgufTensor& tensor) {
    Index count = 1;
    for (const Index extent : tensor.shape) count *= extent;
    return count;
  }
  static Index bytes_of(const GgufTensor& tensor) {
    return count_of(tensor) / gguf_block(tensor.type) * gguf_block_bytes(tensor.type);
  }

  void check(const GgufTensor& tensor, std::set<std::string_view>& names) const {
    const auto fail = [&](const std::string& cause) {
      file_.fail(cat("tensor ", detail::quote(tensor.name), cause));
    };
    if (!names.insert(tensor.name).second) fail(" stands twice");
    const auto& shape = tensor.shape;
    const bool positive = std::all_of(shape.begin(), shape.end(), [](Index extent) { return extent > 0; });
    if (shape.empty() || shape.size() > 4 || !positive || shape.back() % gguf_block(tensor.type) != 0)
      fail(cat(": shape ", detail::extents_text(shape), " cannot be written as ",
               gguf_type_name(tensor.type)));
  }

  static void check_range(const GgufTensor& tensor, std::span<const float> numbers, Index first) {
    const double bound = gguf_bound(tensor.type);
    const auto held = [&](float number) { return std::abs(static_cast<double>(number)) < bound; };
    const auto bad = std::find_if_not(numbers.begin(), numbers.end(), held);
    if (bad == numbers.end()) return;
    throw NumericError(cat("[gguf] tensor ", detail::quote(tensor.name), ": number ",
                           first + (bad - numbers.begin()), " is ", *bad, ", which ",
                           gguf_type_name(tensor.type), " cannot hold"));
  }

  Cpu host_;
  std::vector<GgufTensor> tensors_;
  OutputFile file_;
  std::vector<std::byte> buffer_;
  Index bytes_ = 0;
  std::size_t next_ = 0;  // the tensor whose turn it is
  Index written_ = 0;     // numbers of it
};

}  // namespace mtpx
