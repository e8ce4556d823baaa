#pragma once
// Weights in 8-bit floating point with one scale per block, as DeepSeek-V3 publishes them.

#include <mtpx/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace mtpx {

/// Extents of the blocks that share a scale: `quantization_config.weight_block_size` of config.json.
struct BlockSize {
  Index rows = 128;
  Index columns = 128;
  bool operator==(const BlockSize&) const = default;

  /// The shape of the scales of a [rows, columns] weight. Blocks at the edges may be partial.
  std::vector<Index> scales(const std::vector<Index>& weight) const {
    return {(weight[0] + rows - 1) / rows, (weight[1] + columns - 1) / columns};
  }
};

/// The name of the scales of a weight.
inline std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }

/// w_ij = q_ij s_{i / rows, j / columns} (DeepSeek-V3 sec. 3.3.2; inference/fp8_cast_bf16.py), multiplied in
/// float and rounded once to Number. "inv" in the published name says that quantisation divided by s.
///
/// quantized: F8_E4M3 [n, m] in `file`   scales: [ceil(n / rows), ceil(m / columns)]   out: n m numbers
/// Memory: one row besides `out`. The shapes are the caller's promise.
template <typename Number>
void dequantize(const SafeTensors& file, const SafeTensorsEntry& quantized, std::span<const float> scales,
                BlockSize block, std::span<Number> out) {
  const Index rows = quantized.shape[0], columns = quantized.shape[1];
  const Index across = (columns + block.columns - 1) / block.columns;
  std::vector<std::byte> bytes(static_cast<std::size_t>(columns));
  std::vector<float> row(static_cast<std::size_t>(columns));
  for (Index i = 0; i < rows; ++i) {
    file.read_bytes(quantized, i * columns, bytes);
    convert(DType::f8_e4m3, bytes.data(), columns, row.data());
    const float* scale = scales.data() + i / block.rows * across;
    for (Index first = 0; first < columns; first += block.columns, ++scale) {
      for (Index j = first; j < std::min(columns, first + block.columns); ++j) {
        out[static_cast<std::size_t>(i * columns + j)] =
            static_cast<Number>(row[static_cast<std::size_t>(j)] * *scale);
      }
    }
  }
}

}  // namespace mtpx
