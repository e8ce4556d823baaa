#pragma once

#include <mtpx/core/rng.hpp>

#include "../normals.hpp"
#include "core/parallel.hpp"
#include "core/simd.hpp"

namespace mtpx {

namespace cpu {

/// A register of 64-bit words.
typedef std::uint64_t LongWords __attribute__((vector_size(register_bytes)));

/// The lower half of each word, times m.
struct LowProducts {
  LongWords operator()(LongWords x, std::uint32_t m) const {
    const LongWords factor = LongWords{} + m;
#if defined(__SSE2__)
    return LongWords(processor::low_products(processor::LongWords(x), processor::LongWords(factor)));
#else
    return (x & 0xffffffffU) * factor;
#endif
  }
};

/// The words of lanes<float> Philox blocks, counter, counter + 1, ..: words[j][i] is word j of block i.
inline void words_of_blocks(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter,
                            exact::Words<Vec<float>> (&words)[4]) {
  LongWords at{};
  for (int i = 0; i < static_cast<int>(lanes<float>) / 2; ++i)
    at[i] = counter + 2 * static_cast<std::uint64_t>(i);
  LongWords even[4], odd[4];
  Philox::blocks(seed, stream, at, LowProducts{}, even);
  Philox::blocks(seed, stream, at + 1, LowProducts{}, odd);
  for (int j = 0; j < 4; ++j) words[j] = (exact::Words<Vec<float>>)((even[j] & 0xffffffffU) | (odd[j] << 32));
}

/// The normal numbers of lanes<float> blocks, counter, counter + 1, ..: y[4 * lanes<float>], block by block.
inline void normals_of_blocks(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter, float* y) {
  constexpr int blocks = static_cast<int>(lanes<float>);
  exact::Words<Vec<float>> words[4];
  words_of_blocks(seed, stream, counter, words);
  Vec<float> n[4];
  exact::normals(
      words, [](Vec<float> x) { return sqrt<float>(x); }, n);
  for (int b = 0; b < blocks; ++b) {
    for (int j = 0; j < 4; ++j) y[4 * b + j] = n[j][b];
  }
}

}  // namespace cpu

/// y_i = deviation n_i: the standard normal floats of exact::normals(), n_i being the one of word i % 4 of
/// Philox block i / 4. Multiplied in the accumulation type, rounded to T.
template <typename T>
void draw_normals(const Cpu& cpu, Index count, std::uint64_t seed, std::uint64_t stream, double deviation,
                  T* y) {
  using A = acc_t<T>;
  constexpr Index step = 4 * cpu::lanes<float>;
  const auto factor = static_cast<A>(deviation);
  cpu::parallel_chunks(cpu, (count + step - 1) / step, 4 * step, [&](Index begin, Index end) {
    for (Index i = begin * step; i < std::min(count, end * step); i += step) {
      float n[step];
      cpu::normals_of_blocks(seed, stream, static_cast<std::uint64_t>(i / 4), n);
      T scaled[step];
      for (Index j = 0; j < step; ++j) scaled[j] = static_cast<T>(factor * static_cast<A>(n[j]));
      std::memcpy(static_cast<void*>(y + i), scaled,
                  static_cast<std::size_t>(std::min(step, count - i)) * sizeof(T));
    }
  });
}

}  // namespace mtpx
