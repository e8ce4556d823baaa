#pragma once
// Weights in 8 bits with one scale per block: floats, as DeepSeek-V3 publishes them, or whole numbers, which
// are our own.

#include <mtpx/core/block_size.hpp>
#include <mtpx/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace mtpx {

/// The shape of the scales of a [rows, columns] weight. Blocks at the edges may be partial.
inline std::vector<Index> scales_shape(BlockSize block, const std::vector<Index>& weight) {
  return {(weight[0] + block.rows - 1) / block.rows, (weight[1] + block.columns - 1) / block.columns};
}

/// The name of the scales of a weight.
inline std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }

/// Whether a tensor is to be multiplied by scales.
inline bool has_scales(const SafeTensorsEntry& entry) {
  return (entry.dtype == DType::f8_e4m3 || entry.dtype == DType::i8) && entry.shape.size() == 2;
}

/// w_ij = q_ij s_{i / rows, j / columns} (DeepSeek-V3 sec. 3.3.2; inference/fp8_cast_bf16.py), multiplied in
/// float and rounded once to Number. "inv" in the published name says that quantisation divided by s.
///
/// quantized: F8_E4M3 or I8 [n, m] in `file`   scales: [ceil(n / rows), ceil(m / columns)]
/// out: elements from `first` on, row by row
/// Memory: one row besides `out`, and for each of its blocks what the 256 bytes stand for: with a scale that
/// many elements share that is worked out once. The shapes are the caller's promise.
template <typename Number>
void dequantize(const SafeTensors& file, const SafeTensorsEntry& quantized, std::span<const float> scales,
                BlockSize block, Index first, std::span<Number> out) {
  constexpr Index bytes = 256;
  const Index columns = quantized.shape[1], across = (columns + block.columns - 1) / block.columns;
  const bool whole = quantized.dtype == DType::i8;
  const auto value_of = [whole](std::size_t byte) {
    return whole ? static_cast<float>(static_cast<std::int8_t>(byte)) : detail::f8_e4m3_values[byte];
  };
  std::vector<std::byte> row;
  std::vector<Number> values(static_cast<std::size_t>(across * bytes));  // [across, bytes]
  Index known = -1;                                                      // row of blocks of the values
  while (!out.empty()) {
    const Index i = first / columns, begin = first % columns;
    const Index count = std::min(columns - begin, static_cast<Index>(out.size()));
    if (i / block.rows != known) {
      known = i / block.rows;
      for (Index b = 0; b < across; ++b) {
        const float scale = scales[static_cast<std::size_t>(known * across + b)];
        Number* const of = values.data() + b * bytes;
        for (std::size_t byte = 0; byte < bytes; ++byte)
          of[byte] = static_cast<Number>(value_of(byte) * scale);
      }
    }
    row.resize(static_cast<std::size_t>(count));
    file.read_bytes(quantized, first, row);
    Number* const to = out.data();
    for (Index done = 0; done < count;) {
      const Index b = (begin + done) / block.columns;
      const Index end = std::min(count, (b + 1) * block.columns - begin);
      const Number* const of = values.data() + b * bytes;
      const std::byte* const from = row.data();
      for (; done < end; ++done) to[done] = of[std::to_integer<std::size_t>(from[done])];
    }
    first += count;
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace mtpx
