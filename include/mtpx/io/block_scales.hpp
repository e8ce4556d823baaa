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
  Index rows = 128;     ///< of a block; the last of a weight may have fewer
  Index columns = 128;  ///< likewise
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
/// quantized: F8_E4M3 [n, m] in `file`   scales: [ceil(n / rows), ceil(m / columns)]
/// out: elements from `first` on, row by row
/// Memory: one row besides `out`. The shapes are the caller's promise.
template <typename Number>
void dequantize(const SafeTensors& file, const SafeTensorsEntry& quantized, std::span<const float> scales,
                BlockSize block, Index first, std::span<Number> out) {
  const Index columns = quantized.shape[1], across = (columns + block.columns - 1) / block.columns;
  std::vector<float> row;
  while (!out.empty()) {
    const Index i = first / columns, begin = first % columns;
    const Index count = std::min(columns - begin, static_cast<Index>(out.size()));
    row.resize(static_cast<std::size_t>(count));
    file.read(quantized, first, std::span(row));
    const float* const scale = scales.data() + i / block.rows * across;
    for (Index done = 0; done < count;) {
      const Index b = (begin + done) / block.columns;
      const Index end = std::min(count, (b + 1) * block.columns - begin);
      const float factor = scale[b];
      const float* const from = row.data();
      Number* const to = out.data();
      for (; done < end; ++done) to[done] = static_cast<Number>(from[done] * factor);
    }
    first += count;
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace mtpx
