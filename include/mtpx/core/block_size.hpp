#pragma once

#include <mtpx/core/shape.hpp>

namespace mtpx {

/// Extents of the blocks of a weight that share a scale: `quantization_config.weight_block_size` of
/// config.json.
struct BlockSize {
  Index rows = 128;     ///< of a block; the last of a weight may have fewer
  Index columns = 128;  ///< likewise
  bool operator==(const BlockSize&) const = default;
};

}  // namespace mtpx
