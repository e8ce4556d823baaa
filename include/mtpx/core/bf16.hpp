#pragma once
// bfloat16 as a storage type. Arithmetic happens in float: no compiler that we support has it natively.

#include <bit>
#include <cstdint>

namespace mtpx {

/// Sixteen bits: the upper half of a float. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;  ///< sign, 8 bits of exponent, 7 of mantissa

  bf16() = default;
  explicit bf16(float value) : bits(round(value)) {}
  explicit bf16(double value) : bits(round(to_odd(value))) {}
  /// Exact: every bf16 is a float.
  operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

  /// The number with these bits.
  static bf16 from_bits(std::uint16_t bits) {
    bf16 value;
    value.bits = bits;
    return value;
  }

 private:
  // Rounding twice must not turn a near tie into a tie: what float cannot hold sets its last bit.
  static float to_odd(double value) {
    const auto nearest = static_cast<float>(value);
    const auto back = static_cast<double>(nearest);
    if (!(back < value || back > value)) return nearest;
    auto raw = std::bit_cast<std::uint32_t>(nearest);
    if ((back > value) == (value > 0)) --raw;  // towards zero
    return std::bit_cast<float>(raw | 1U);
  }
  static std::uint16_t round(float value) {
    const auto raw = std::bit_cast<std::uint32_t>(value);
    if ((raw & 0x7fffffffU) > 0x7f800000U)
      return static_cast<std::uint16_t>((raw >> 16) | 0x0040U);  // quiet NaN
    return static_cast<std::uint16_t>((raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16);
  }
};

namespace detail {
template <typename T>
struct Accumulator {
  using type = T;
};
template <>
struct Accumulator<bf16> {
  using type = float;
};
}  // namespace detail

/// The type in which sums over T are formed, and in which parameters' gradients, norm gains, the router,
/// softmax and losses are kept: float for bf16, else T itself.
template <typename T>
using acc_t = typename detail::Accumulator<T>::type;

}  // namespace mtpx
