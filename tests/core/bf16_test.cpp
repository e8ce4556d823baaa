#include <mtpx/core/bf16.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <type_traits>

using mtpx::acc_t;
using mtpx::bf16;

namespace {

constexpr float float_infinity = std::numeric_limits<float>::infinity();

bf16 pattern(unsigned bits) { return bf16::from_bits(static_cast<std::uint16_t>(bits)); }

unsigned rounded(float value) { return bf16(value).bits; }

}  // namespace

TEST_CASE("bf16: all 65536 patterns survive the way to float and back") {
  int different = 0;
  int not_a_number = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = pattern(bits);
    if (std::isnan(value)) {
      ++not_a_number;  // stays NaN with its sign; its payload becomes a quiet one
      different += !(std::isnan(static_cast<float>(bf16(value))) && rounded(value) == (bits | 0x40U));
    } else {
      different += rounded(value) != bits;
    }
  }
  CHECK(different == 0);
  CHECK(not_a_number == 2 * 127);
}

TEST_CASE("bf16: rounds to nearest, ties to even, at every pair of neighbours") {
  // From the smallest denormal to the largest finite number, whose upper neighbour is infinity: there the
  // middle is half a step above the largest.
  int wrong = 0;
  for (unsigned low = 0; low < 0x7f80U; ++low) {
    const unsigned high = low + 1;
    const double below = static_cast<float>(pattern(low));
    const double above = high == 0x7f80U ? std::ldexp(1.0, 128) : static_cast<float>(pattern(high));
    const auto middle = static_cast<float>((below + above) / 2);  // exact: floats have sixteen bits more
    const unsigned even = (low & 1U) == 0 ? low : high;
    wrong += rounded(middle) != even;
    wrong += rounded(std::nextafter(middle, 0.0f)) != low;
    wrong += rounded(std::nextafter(middle, float_infinity)) != high;
    wrong += rounded(-middle) != (even | 0x8000U);
    wrong += rounded(-std::nextafter(middle, 0.0f)) != (low | 0x8000U);
    wrong += rounded(-std::nextafter(middle, float_infinity)) != (high | 0x8000U);
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16: named values") {
  CHECK(bf16().bits == 0);
  CHECK(rounded(0.0f) == 0);
  CHECK(rounded(-0.0f) == 0x8000U);
  CHECK(std::signbit(static_cast<float>(bf16(-0.0f))));
  CHECK(rounded(1.0f) == 0x3f80U);
  CHECK(rounded(-2.0f) == 0xc000U);
  CHECK(rounded(1.00390625f) == 0x3f80U);  // 1 + 2^-8, a tie: down to the even one
  CHECK(rounded(1.01171875f) == 0x3f82U);  // 1 + 3 * 2^-8, a tie: up to the even one
  CHECK(rounded(std::numeric_limits<float>::max()) == 0x7f80U);
  CHECK(rounded(-std::numeric_limits<float>::max()) == 0xff80U);
  CHECK(rounded(float_infinity) == 0x7f80U);
  CHECK(rounded(-float_infinity) == 0xff80U);
  CHECK(rounded(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(static_cast<float>(pattern(1)) == std::ldexp(1.0f, -133));
  CHECK(bf16(3.140625).bits == 0x4049U);
}

TEST_CASE("bf16: no NaN becomes infinity") {
  for (std::uint32_t fraction = 1; fraction < (1U << 23); fraction = fraction * 2 + 1) {
    for (std::uint32_t raw :
         {0x7f800000U | fraction, 0xff800000U | fraction, 0x7f800000U | (fraction + 1) / 2}) {
      const bf16 value(std::bit_cast<float>(raw));
      CAPTURE(raw);
      CHECK(std::isnan(static_cast<float>(value)));
      CHECK((value.bits >> 15) == (raw >> 31));
    }
  }
}

TEST_CASE("bf16: two bytes, copied as such, never converted silently from float") {
  static_assert(sizeof(bf16) == 2 && std::is_trivially_copyable_v<bf16>);
  static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<double, bf16>);
  static_assert(std::is_convertible_v<bf16, float>);
  static_assert(std::is_same_v<acc_t<bf16>, float>);
  static_assert(std::is_same_v<acc_t<float>, float>);
  static_assert(std::is_same_v<acc_t<double>, double>);
  CHECK(bf16(1.5f) + bf16(2.25f) == 3.75f);
}
