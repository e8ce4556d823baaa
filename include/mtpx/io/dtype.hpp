#pragma once
// The element types of tensor files, and conversion from each of them to the types that mtpx computes with.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/shape.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

namespace mtpx {

static_assert(std::endian::native == std::endian::little, "tensor files are little-endian and read in place");

/// Element types by the names that safetensors gives them: f64 is "F64", f8_e4m3 is "F8_E4M3" and so on.
/// f8_e4m3 is the variant without infinities ("E4M3FN", OCP 8-bit floating point, 2023), which DeepSeek uses.
enum class DType { f64, f32, f16, bf16, f8_e4m3, i64, i32, i8, u8 };

/// Every DType, in the order of the enumeration.
inline constexpr DType all_dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3,
                                       DType::i64, DType::i32, DType::i8,  DType::u8};

/// The name in a safetensors header.
constexpr std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "F64";
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::f8_e4m3:
      return "F8_E4M3";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::i8:
      return "I8";
    case DType::u8:
      break;
  }
  return "U8";
}

/// The type of that name; nothing for a name not listed above.
constexpr std::optional<DType> parse_dtype(std::string_view name) {
  for (DType dtype : all_dtypes) {
    if (dtype_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

/// Bytes of one element.
constexpr Index dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::f8_e4m3:
    case DType::i8:
    case DType::u8:
      break;
  }
  return 1;
}

/// Whether its elements are whole numbers.
constexpr bool is_integer(DType dtype) {
  return dtype == DType::i64 || dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8;
}

/// The file type with the representation of Number: float, double, bf16, std::int64_t, std::int32_t,
/// std::int8_t or std::uint8_t.
template <typename Number>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<Number, double>) return DType::f64;
  if constexpr (std::is_same_v<Number, float>) return DType::f32;
  if constexpr (std::is_same_v<Number, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<Number, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<Number, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<Number, std::int8_t>) return DType::i8;
  static_assert(std::is_same_v<Number, double> || std::is_same_v<Number, float> ||
                    std::is_same_v<Number, bf16> || std::is_same_v<Number, std::int64_t> ||
                    std::is_same_v<Number, std::int32_t> || std::is_same_v<Number, std::int8_t> ||
                    std::is_same_v<Number, std::uint8_t>,
                "no element type of tensor files is represented like this");
  return DType::u8;
}

/// The value of an IEEE 754 half: 1 sign, 5 exponent (bias 15), 10 fraction bits. Exact; NaN keeps its
/// payload.
inline float f16_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0) {  // zero, or a denormal: fraction * 2^-24, which a float holds as a normal number
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

/// The nearest IEEE 754 half, ties to even: what f16_to_float() gives back. From 65520 on it is infinite; a
/// NaN becomes the quiet one.
inline std::uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U, magnitude = bits & 0x7fffffffU;
  const auto with_sign = [sign](std::uint32_t half) { return static_cast<std::uint16_t>(sign | half); };
  if (magnitude > 0x7f800000U) return with_sign(0x7e00U);
  if (magnitude >= 0x477ff000U) return with_sign(0x7c00U);
  if (magnitude < 0x38800000U) {  // a denormal: beside 1/2, a float has the place value 2^-24 of its last bit
    return with_sign(std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U);
  }
  return with_sign((magnitude - ((127U - 15U) << 23) + 0xfffU + (magnitude >> 13 & 1U)) >> 13);
}

/// The value of an E4M3FN byte: 1 sign, 4 exponent (bias 7), 3 fraction bits. 0x7f and 0xff are NaN, there is
/// no infinity, the largest value is 448. Exact.
constexpr float f8_e4m3_to_float(std::uint8_t byte) {
  const std::uint32_t sign = (byte & 0x80U) << 24;
  const std::uint32_t exponent = (byte >> 3) & 0xfU;
  const std::uint32_t fraction = byte & 0x7U;
  if (exponent == 0) {  // zero, or a denormal: fraction * 2^-9
    const float magnitude = static_cast<float>(fraction) * 0x1p-9F;
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 15 && fraction == 7) return std::bit_cast<float>(sign | 0x7fc00000U);
  return std::bit_cast<float>(sign | (exponent + (127 - 7)) << 23 | fraction << 20);
}

namespace detail {
/// f8_e4m3_to_float() of every byte: one load where the definition takes a dozen operations.
inline constexpr std::array<float, 256> f8_e4m3_values = [] {
  std::array<float, 256> values{};
  for (std::size_t byte = 0; byte < values.size(); ++byte)
    values[byte] = f8_e4m3_to_float(static_cast<std::uint8_t>(byte));
  return values;
}();

template <typename Stored>
Stored load_element(const std::byte* from, Index i) {  // `from` need not be aligned
  Stored value;
  std::memcpy(&value, from + i * static_cast<Index>(sizeof(Stored)), sizeof(Stored));
  return value;
}

template <typename Stored, typename Number>
void convert_each(const std::byte* from, Index count, Number* to) {
  for (Index i = 0; i < count; ++i) to[i] = static_cast<Number>(load_element<Stored>(from, i));
}
}  // namespace detail

/// Converts `count` elements of type `dtype` at `from` (any alignment) to float, double, bf16 or
/// std::int64_t. To bf16 it rounds to nearest, ties to even, by way of float; from double to float it rounds
/// likewise. Equal types are copied bit for bit. std::int64_t takes only the integer types: for others this
/// returns false.
template <typename Number>
bool convert(DType dtype, const std::byte* from, Index count, Number* to) {
  static_assert(std::is_same_v<Number, float> || std::is_same_v<Number, double> ||
                std::is_same_v<Number, bf16> || std::is_same_v<Number, std::int64_t>);
  if (dtype == dtype_of<Number>()) {
    if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(Number));
    return true;
  }
  if constexpr (std::is_same_v<Number, std::int64_t>) {
    if (!is_integer(dtype)) return false;
    if (dtype == DType::i32) detail::convert_each<std::int32_t>(from, count, to);
    if (dtype == DType::i8) detail::convert_each<std::int8_t>(from, count, to);
    if (dtype == DType::u8) detail::convert_each<std::uint8_t>(from, count, to);
  } else {
    // An integer reaches bf16 through float, as everything does.
    using Wide = std::conditional_t<std::is_same_v<Number, double>, double, float>;
    const auto each = [&](auto value_of) {
      for (Index i = 0; i < count; ++i) to[i] = static_cast<Number>(static_cast<Wide>(value_of(i)));
    };
    switch (dtype) {
      case DType::f64:
        each([&](Index i) { return detail::load_element<double>(from, i); });
        break;
      case DType::f32:
        each([&](Index i) { return detail::load_element<float>(from, i); });
        break;
      case DType::f16:
        each([&](Index i) { return f16_to_float(detail::load_element<std::uint16_t>(from, i)); });
        break;
      case DType::bf16:
        each([&](Index i) { return float{bf16::from_bits(detail::load_element<std::uint16_t>(from, i))}; });
        break;
      case DType::f8_e4m3:
        each([&](Index i) { return detail::f8_e4m3_values[std::to_integer<std::uint8_t>(from[i])]; });
        break;
      case DType::i64:
        each([&](Index i) { return detail::load_element<std::int64_t>(from, i); });
        break;
      case DType::i32:
        each([&](Index i) { return detail::load_element<std::int32_t>(from, i); });
        break;
      case DType::i8:
        each([&](Index i) { return detail::load_element<std::int8_t>(from, i); });
        break;
      case DType::u8:
        each([&](Index i) { return detail::load_element<std::uint8_t>(from, i); });
        break;
    }
  }
  return true;
}

}  // namespace mtpx
