#pragma once
// Counter-based random numbers: no state, so any number of any stream is found without the ones before it.

#include <array>
#include <cstdint>

namespace mtpx {

/// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
struct Philox {
  /// Four independent uniform 32-bit words, a pure function of the arguments: the same on every device.
  ///
  /// seed: the key, what a user sets   stream: one number per use, so that uses never share numbers
  /// counter: the position in the stream
  static constexpr std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t stream,
                                                      std::uint64_t counter) {
    std::uint64_t x[4];
    blocks(seed, stream, counter, LowProduct{}, x);
    return {low(x[0]), low(x[1]), low(x[2]), low(x[3])};
  }

  /// The same for as many counters as W, a vector of 64-bit numbers, has. Words stand in the lower halves of
  /// x; what is in the upper ones means nothing.
  ///
  /// product(x, m): the lower half of each number of x, times m
  template <typename W, typename Product>
  static constexpr void blocks(std::uint64_t seed, std::uint64_t stream, W counter, const Product& product,
                               W (&x)[4]) {
    x[0] = counter;
    x[1] = counter >> 32;
    x[2] = W{} + low(stream);
    x[3] = W{} + high(stream);
    std::uint32_t key0 = low(seed), key1 = high(seed);
    for (int round = 0; round < 10; ++round) {
      const W p0 = product(x[0], 0xD2511F53U);
      const W p1 = product(x[2], 0xCD9E8D57U);
      x[0] = (p1 >> 32) ^ x[1] ^ key0;
      x[1] = p1;
      x[2] = (p0 >> 32) ^ x[3] ^ key1;
      x[3] = p0;
      key0 += 0x9E3779B9;  // the golden ratio
      key1 += 0xBB67AE85;  // sqrt(3) - 1
    }
  }

  /// A uniform number in [0, 1), of 53 bits.
  static constexpr double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
    const auto words = block(seed, stream, counter);
    return static_cast<double>(((std::uint64_t{words[0]} << 32) | words[1]) >> 11) * 0x1p-53;
  }

 private:
  struct LowProduct {
    constexpr std::uint64_t operator()(std::uint64_t x, std::uint32_t m) const {
      return (x & 0xffffffffU) * m;
    }
  };
  static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
};

}  // namespace mtpx
