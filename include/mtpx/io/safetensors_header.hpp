#pragma once
// The header of a safetensors file: what it may say, and a parser that believes none of it.

#include <mtpx/core/error.hpp>
#include <mtpx/io/dtype.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/json.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// Strings by name that travel with the tensors.
using FileMetadata = std::map<std::string, std::string>;

namespace detail {

constexpr Index max_header_bytes = 100'000'000;  // as the reference
constexpr std::size_t max_tensors = std::size_t{1} << 18;
constexpr std::size_t max_axes = 64;
constexpr std::string_view checksums_key = "mtpx_xxh64";          // in __metadata__
constexpr std::string_view checksums_mark = "\"mtpx_xxh64\":\"";  // what stands before its digits
constexpr std::uint64_t max_json_count = std::uint64_t{1} << 53;  // what every JSON reader holds exactly

/// "[2, 3]"; of more than eight axes only the first eight.
inline std::string extents_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.size() && axis < 8; ++axis) {
    text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  }
  return text + (shape.size() > 8 ? ", ...]" : "]");
}

/// The product of the extents, and nothing if 64 bits cannot hold it. 1 for rank 0.
inline std::optional<Index> element_count(const std::vector<Index>& shape) {
  Index count = 1;
  for (Index extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(count, extent, &count)) return std::nullopt;
  }
  return count;
}

/// The bytes of a tensor, and nothing if 64 bits cannot count them.
inline std::optional<Index> byte_count(DType dtype, const std::vector<Index>& shape) {
  std::optional<Index> bytes = element_count(shape);
  if (!bytes || __builtin_mul_overflow(*bytes, dtype_size(dtype), &*bytes)) return std::nullopt;
  return bytes;
}

}  // namespace detail

/// One tensor of an open file.
struct SafeTensorsEntry {
  std::string name;            ///< unique in its file
  std::string dtype_name;      ///< as the file says it
  std::optional<DType> dtype;  ///< nothing if `dtype_name` is none of mtpx's: listed, but not readable
  std::vector<Index> shape;    ///< row-major; empty for a single number
  Index begin = 0;             ///< first byte, counted from the end of the header
  Index end = 0;               ///< one past the last byte
  std::optional<std::uint64_t> checksum;  ///< what its bytes were when they were written, where the file says

  /// Of all elements in the file.
  Index bytes() const { return end - begin; }
  /// Number of elements.
  Index count() const { return detail::element_count(shape).value_or(0); }
};

namespace detail {

/// Reads a header into entries and metadata without ever building the JSON value: memory stays within a small
/// multiple of the header, and nesting cannot run deep because nothing nested is expected.
class SafeTensorsHeader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafeTensorsHeader(const InputFile& file, std::vector<SafeTensorsEntry>& entries, FileMetadata& metadata)
      : file_(file), entries_(entries), metadata_(metadata) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { unexpected(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { unexpected(text.substr(0, 40)); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if ((place_ != Place::shape && place_ != Place::offsets) || value > max_json_count) {
      unexpected(std::to_string(value));
    }
    std::vector<Index>& numbers = place_ == Place::shape ? entry().shape : offsets_;
    if (numbers.size() >= (place_ == Place::shape ? max_axes : 2)) fail(subject() + expectation());
    numbers.push_back(static_cast<Index>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      if (!metadata_.emplace(field_, value).second)
        fail(cat("the key ", quote(field_), " of __metadata__ stands twice"));
    } else if (place_ == Place::tensor && field_ == "dtype") {
      entry().dtype_name = value;
      entry().dtype = parse_dtype(value);
    } else {
      unexpected(quote(value));
    }
    return true;
  }

  bool key(string_t& value) override {
    field_ = value;
    if (place_ != Place::tensor) return true;
    bool* seen = value == "dtype"          ? &seen_dtype_
                 : value == "shape"        ? &seen_shape_
                 : value == "data_offsets" ? &seen_offsets_
                                           : nullptr;
    if (seen == nullptr)
      fail(cat("tensor ", quote(entry().name), ": the field ", quote(value), " is unknown"));
    if (*seen) fail(cat("tensor ", quote(entry().name), ": the field ", quote(value), " stands twice"));
    *seen = true;
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top && field_ == "__metadata__") {
      if (std::exchange(seen_metadata_, true)) fail("the key \"__metadata__\" stands twice");
      place_ = Place::metadata;
    } else if (place_ == Place::top) {
      if (entries_.size() >= max_tensors) fail(cat("the header lists more than ", max_tensors, " tensors"));
      entries_.emplace_back();
      entry().name = field_;
      offsets_.clear();
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
      place_ = Place::tensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) {
      const char* missing = !seen_dtype_     ? "dtype"
                            : !seen_shape_   ? "shape"
                            : !seen_offsets_ ? "data_offsets"
                                             : nullptr;
      if (missing != nullptr)
        fail(cat("tensor ", quote(entry().name), ": the field \"", missing, "\" is missing"));
      entry().begin = offsets_[0];
      entry().end = offsets_[1];
    }
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::tensor && field_ == "shape") {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && field_ == "data_offsets") {
      place_ = Place::offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets && offsets_.size() != 2) fail(subject() + expectation());
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(std::size_t byte, const std::string&, const nlohmann::detail::exception&) override {
    fail(cat("the header is not JSON at byte ", byte));
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };

  SafeTensorsEntry& entry() { return entries_.back(); }

  [[noreturn]] void fail(const std::string& cause) const { file_.fail(cause); }

  [[noreturn]] void unexpected(const std::string& value) {
    fail(cat(subject(), expectation(), ", not ", value));
  }

  std::string subject() {
    if (place_ == Place::outside) return "the header ";
    if (place_ == Place::top) return cat(quote(field_), ' ');
    if (place_ == Place::metadata) return cat("the key ", quote(field_), " of __metadata__ ");
    return cat("tensor ", quote(entry().name), ": ", field_, ' ');
  }

  std::string expectation() const {
    if (place_ == Place::outside || place_ == Place::top) return "must be an object";
    if (place_ == Place::metadata || field_ == "dtype") return "must be a string";
    if (field_ == "shape")
      return cat("must be an array of at most ", max_axes, " whole numbers from 0 to 2^53");
    return "must be an array of two whole numbers from 0 to 2^53";
  }

  const InputFile& file_;
  std::vector<SafeTensorsEntry>& entries_;
  FileMetadata& metadata_;
  Place place_ = Place::outside;
  std::string field_;  // the last key
  std::vector<Index> offsets_;
  bool seen_metadata_ = false, seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

}  // namespace detail

}  // namespace mtpx
