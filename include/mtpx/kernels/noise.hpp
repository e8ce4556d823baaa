#pragma once
// The noise that tokens race with (sampling.hpp): a number for each token of each place of a text, found from
// these alone, in steps that every device rounds alike (formulas.hpp).

#include <mtpx/core/rng.hpp>
#include <mtpx/core/shape.hpp>

#include "formulas.hpp"

#include <cstdint>

namespace mtpx {

namespace exact {

/// Standard Gumbel noise of 64 random bits:
///
///   g = -ln e,   e = -ln(1 - v),   v = (n + 1/2) / 2^64,   n = 2^32 high + low
///
/// e is a standard exponential. v keeps its digits where it is small, which is where tokens win: so g is
/// between -3.61 and 65 ln 2, and a token whose chance is 2^-60 still has it.
MTPX_ANYWHERE double gumbel(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t n = (std::uint64_t{high} << 32) | low;
  double v = fma(static_cast<double>(n), 0x1p-64, 0x1p-65);
  v = v < 1 ? v : 1 - 0x1p-53;
  return -log(v < 0.25 ? detail::log_of_ratio(v / (2 - v)) : -log(1 - v));
}

/// No gumbel() is above it.
inline constexpr double most_noise = 45.06;

/// A number that gumbel(high, ..) is not above, whatever its low bits: e >= v >= 2^-k for k = 32 - floor(log2
/// high), so g <= k ln 2. For V = float, or a vector of floats.
template <typename V>
MTPX_ANYWHERE V noise_bound(Words<V> high) {
  // 24 bits, which a float holds exactly: its exponent is 127 + floor(log2 high) - 8. Of 0, 0: k = 151.
  const V leading = real<V>(std::bit_cast<Ints<V>>(high >> 8));
  const V k = real<V>(151 - (std::bit_cast<Ints<V>>(leading) >> 23));
  return product(k, all<V>(0.69315F));  // ln 2 and some, for what is rounded
}

}  // namespace exact

/// Where the noise of a token's place comes from.
struct Noise {
  std::uint64_t seed = 0;   ///< of the text
  std::uint64_t place = 0;  ///< in it: tokens before, below 2^32

  /// Streams of random words that nothing else has.
  static constexpr std::uint64_t high = 0x72616365;  ///< the high half of each number
  static constexpr std::uint64_t low = high + 1;     ///< the low half
  /// Tokens of a group share blocks of words: token 64 g + 16 j + i has word j of block 16 g + i. So
  /// neighbours have the same word of neighbouring blocks, which registers compute side by side.
  static constexpr Index group = 64;
  static constexpr Index blocks = group / 4;  ///< of a group

  /// The counter of block i of group g.
  constexpr std::uint64_t counter(Index g, Index i = 0) const {
    return (place << 32) + static_cast<std::uint64_t>(g * blocks + i);
  }
  /// A token's word in a stream.
  MTPX_ANYWHERE std::uint32_t word(std::uint64_t stream, Index id) const {
    const auto all = Philox::block(seed, stream, counter(id / group, id % blocks));
    const Index j = id % group / blocks;
    return j < 2 ? (j == 0 ? all[0] : all[1]) : (j == 2 ? all[2] : all[3]);
  }
  /// The noise of a token.
  MTPX_ANYWHERE double of(Index id) const { return exact::gumbel(word(high, id), word(low, id)); }
};

}  // namespace mtpx
