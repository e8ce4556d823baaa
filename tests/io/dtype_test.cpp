#include <mtpx/io/dtype.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

using namespace mtpx;

namespace {

/// The value of a small binary floating-point code, straight from the definition of such formats.
double value_of(unsigned code, int exponent_bits, int fraction_bits) {
  const unsigned fraction = code & ((1U << fraction_bits) - 1);
  const unsigned exponent = (code >> fraction_bits) & ((1U << exponent_bits) - 1);
  const bool negative = (code >> (fraction_bits + exponent_bits)) & 1U;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double part = std::ldexp(static_cast<double>(fraction), -fraction_bits);
  const double magnitude =
      exponent == 0 ? std::ldexp(part, 1 - bias) : std::ldexp(1 + part, static_cast<int>(exponent) - bias);
  return negative ? -magnitude : magnitude;
}

template <typename Stored>
std::vector<std::byte> stored(const std::vector<Stored>& values, std::size_t shift = 0) {
  std::vector<std::byte> bytes(shift + values.size() * sizeof(Stored));
  std::memcpy(bytes.data() + shift, values.data(), values.size() * sizeof(Stored));
  return bytes;
}

template <typename Number, typename Stored>
std::vector<Number> converted(DType dtype, const std::vector<Stored>& values) {
  const std::vector<std::byte> bytes = stored(values, 1);  // one byte off: files align nothing
  std::vector<Number> numbers(values.size());
  REQUIRE(convert(dtype, bytes.data() + 1, static_cast<Index>(values.size()), numbers.data()));
  return numbers;
}

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

}  // namespace

TEST_CASE("dtype: names and sizes go both ways") {
  const char* names[] = {"F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "I8", "U8"};
  const Index sizes[] = {8, 4, 2, 2, 1, 8, 4, 1, 1};
  int i = 0;
  for (DType dtype : all_dtypes) {
    CHECK(dtype_name(dtype) == names[i]);
    CHECK(dtype_size(dtype) == sizes[i]);
    CHECK(parse_dtype(names[i]) == dtype);
    ++i;
  }
  for (const char* unknown : {"", "f32", "F4", "F8_E5M2", "F8_E8M0", "BOOL", "I16", "U64", "F32 "}) {
    CHECK(!parse_dtype(unknown));
  }
  CHECK(dtype_of<float>() == DType::f32);
  CHECK(dtype_of<double>() == DType::f64);
  CHECK(dtype_of<bf16>() == DType::bf16);
  CHECK(dtype_of<std::int64_t>() == DType::i64);
  CHECK(dtype_of<std::int32_t>() == DType::i32);
  CHECK(dtype_of<std::uint8_t>() == DType::u8);
}

TEST_CASE("dtype: all 256 codes of E4M3FN") {
  int nans = 0;
  float largest = 0;
  for (unsigned code = 0; code < 256; ++code) {
    const float value = f8_e4m3_to_float(static_cast<std::uint8_t>(code));
    if (code == 0x7f || code == 0xff) {
      CHECK(std::isnan(value));
      ++nans;
      continue;
    }
    CHECK(std::isfinite(value));  // 0x78 and above are numbers, not infinities
    CHECK(static_cast<double>(value) == value_of(code, 4, 3));
    CHECK(std::signbit(value) == (code >= 128));
    largest = std::max(largest, value);
  }
  CHECK(nans == 2);
  CHECK(largest == 448);
  CHECK(f8_e4m3_to_float(0x01) == 0x1p-9F);  // smallest denormal
}

TEST_CASE("dtype: all 65536 codes of a half, infinities, NaN and denormals among them") {
  for (unsigned code = 0; code < 65536; ++code) {
    const float value = f16_to_float(static_cast<std::uint16_t>(code));
    REQUIRE(std::signbit(value) == (code >= 0x8000));
    if (((code >> 10) & 0x1f) == 31) {
      REQUIRE(((code & 0x3ff) == 0 ? std::isinf(value) : std::isnan(value)));
    } else {
      REQUIRE(static_cast<double>(value) == value_of(code, 5, 10));
    }
  }
  CHECK(f16_to_float(0x7bff) == 65504);
  CHECK(f16_to_float(0x0001) == 0x1p-24F);
}

TEST_CASE(
    "dtype: every half comes back from float, what lies between two goes to the nearer, a tie to the even") {
  for (unsigned code = 0; code < 0x7c00; ++code) {
    const float value = f16_to_float(static_cast<std::uint16_t>(code));
    const float next = code == 0x7bff ? 65536.0F : f16_to_float(static_cast<std::uint16_t>(code + 1));
    const float between = value / 2 + next / 2;  // exact
    const unsigned even = code + code % 2;
    REQUIRE(float_to_f16(value) == code);
    REQUIRE(float_to_f16(between) == even);
    REQUIRE(float_to_f16(-between) == (0x8000 | even));
    REQUIRE(float_to_f16(std::nextafter(between, 0.0F)) == code);
    REQUIRE(float_to_f16(std::nextafter(between, 1e9F)) == code + 1);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(float_to_f16(1e30F) == 0x7c00);
  CHECK(float_to_f16(-infinity) == 0xfc00);
  CHECK(float_to_f16(-0.0F) == 0x8000);
  CHECK(std::isnan(f16_to_float(float_to_f16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("dtype: all 65536 codes of bf16 reach float and come back bit for bit") {
  std::vector<std::uint16_t> codes;
  for (unsigned code = 0; code < 65536; ++code) codes.push_back(static_cast<std::uint16_t>(code));
  const std::vector<float> floats = converted<float>(DType::bf16, codes);
  const std::vector<bf16> same = converted<bf16>(DType::bf16, codes);
  const std::vector<bf16> back = converted<bf16>(DType::f32, floats);
  for (unsigned code = 0; code < 65536; ++code) {
    const bool is_nan = (code & 0x7fff) > 0x7f80;
    REQUIRE(bits(floats[code]) == code << 16);
    REQUIRE(same[code].bits == code);
    REQUIRE(back[code].bits == (is_nan ? code | 0x40 : code));  // a NaN comes back quiet
  }
}

TEST_CASE("dtype: float to bf16 rounds to nearest, ties to even") {
  const std::vector<std::uint32_t> from = {0x3f808000,   // 1 + half a step: tie, down to even
                                           0x3f818000,   // tie, up to even
                                           0x3f808001,   // just above a tie
                                           0x3f817fff,   // just below a tie
                                           0x7f7fffff,   // largest float: rounds to infinity
                                           0x00000001,   // smallest denormal: to zero
                                           0x80008000,   // negative denormal, tie to even: minus zero
                                           0x80018000,   // negative denormal, tie up
                                           0x7f800001,   // a NaN whose upper half alone would be infinity
                                           0xff800000};  // minus infinity
  const std::vector<std::uint16_t> want = {0x3f80, 0x3f82, 0x3f81, 0x3f81, 0x7f80,
                                           0x0000, 0x8000, 0x8002, 0x7fc0, 0xff80};
  const std::vector<bf16> got = converted<bf16>(DType::f32, from);
  for (std::size_t i = 0; i < from.size(); ++i) CHECK(got[i].bits == want[i]);
}

TEST_CASE("dtype: every type converts to float and double") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(converted<double>(DType::f64, std::vector<double>{1.5, -1e300})[1] == -1e300);
  CHECK(converted<float>(DType::f64, std::vector<double>{1 + 0x1p-30, -2.5})[0] == 1);
  CHECK(std::isnan(converted<float>(DType::f64, std::vector<double>{nan})[0]));
  CHECK(converted<double>(DType::f32, std::vector<float>{0.1F})[0] == static_cast<double>(0.1F));
  CHECK(bits(converted<float>(DType::f32, std::vector<std::uint32_t>{0x7f800001})[0]) ==
        0x7f800001);  // untouched
  CHECK(converted<double>(DType::f16, std::vector<std::uint16_t>{0xc100})[0] == -2.5);
  CHECK(converted<double>(DType::bf16, std::vector<std::uint16_t>{0xc020})[0] == -2.5);
  CHECK(converted<double>(DType::f8_e4m3, std::vector<std::uint8_t>{0xc2})[0] == -2.5);
  CHECK(converted<double>(DType::i64, std::vector<std::int64_t>{-(std::int64_t{1} << 53)})[0] == -0x1p53);
  CHECK(converted<float>(DType::i32, std::vector<std::int32_t>{-7})[0] == -7);
  CHECK(converted<float>(DType::u8, std::vector<std::uint8_t>{255})[0] == 255);
  CHECK(float{converted<bf16>(DType::f8_e4m3, std::vector<std::uint8_t>{0x7e})[0]} == 448);
}

TEST_CASE("dtype: whole numbers come from integer types alone") {
  const std::int64_t low = std::numeric_limits<std::int64_t>::min();
  CHECK(converted<std::int64_t>(DType::i64, std::vector<std::int64_t>{low})[0] == low);
  CHECK(converted<std::int64_t>(DType::i32, std::vector<std::int32_t>{-3})[0] == -3);
  CHECK(converted<std::int64_t>(DType::i8, std::vector<std::int8_t>{-100})[0] == -100);
  CHECK(converted<std::int64_t>(DType::u8, std::vector<std::uint8_t>{200})[0] == 200);
  const std::vector<std::byte> bytes(8);
  std::int64_t number = 5;
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3}) {
    CHECK(!convert(dtype, bytes.data(), 1, &number));
  }
  CHECK(number == 5);
}
