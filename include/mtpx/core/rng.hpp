#pragma once
// Counter-based random numbers: no state, so any number of any stream is found without the ones before it.

#include <array>
#include <cmath>
#include <cstddef>
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
    std::uint32_t x0 = low(counter), x1 = high(counter), x2 = low(stream), x3 = high(stream);
    std::uint32_t key0 = low(seed), key1 = high(seed);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53} * x0;
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * x2;
      x0 = high(p1) ^ x1 ^ key0;
      x1 = low(p1);
      x2 = high(p0) ^ x3 ^ key1;
      x3 = low(p0);
      key0 += 0x9E3779B9;  // the golden ratio
      key1 += 0xBB67AE85;  // sqrt(3) - 1
    }
    return {x0, x1, x2, x3};
  }

  /// Four independent standard normal numbers (Box & Muller 1958), in double.
  static std::array<double, 4> normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
    const auto words = block(seed, stream, counter);
    std::array<double, 4> out{};
    for (std::size_t i = 0; i < 4; i += 2) {
      const double radius =
          std::sqrt(-2.0 * std::log((words[i] + 1.0) * 0x1p-32));  // in (0, 1]: log is finite
      const double angle = 6.283185307179586 * (words[i + 1] * 0x1p-32);
      out[i] = radius * std::cos(angle);
      out[i + 1] = radius * std::sin(angle);
    }
    return out;
  }

  /// A uniform number in [0, 1), of 53 bits.
  static constexpr double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
    const auto words = block(seed, stream, counter);
    return static_cast<double>(((std::uint64_t{words[0]} << 32) | words[1]) >> 11) * 0x1p-53;
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
};

}  // namespace mtpx
