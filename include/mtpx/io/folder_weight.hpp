#pragma once
// A weight of a model folder as numbers, whatever type it is stored in.

#include <mtpx/io/block_scales.hpp>
#include <mtpx/io/weight_files.hpp>

#include <span>
#include <string>
#include <vector>

namespace mtpx {

/// One weight of a folder; F8_E4M3 and I8 matrices are multiplied by the scales of their blocks
/// (dequantize()). Borrows the files. What it needs of them is there: see check_weights().
class FolderWeight {
 public:
  FolderWeight(const WeightFiles& files, const std::string& name, BlockSize block)
      : weight_(files.find(name)), block_(block) {
    if (!has_scales(*weight_.entry)) return;
    const WeightFiles::Weight scales = files.find(scale_name(name));
    scales_ = scales.file->read<float>(*scales.entry);
  }

  const SafeTensors& file() const { return *weight_.file; }         ///< that holds it
  const SafeTensorsEntry& entry() const { return *weight_.entry; }  ///< its place there

  /// The scale of number (i, j) of a matrix that has_scales().
  float scale(Index i, Index j) const {
    const Index across = (entry().shape[1] + block_.columns - 1) / block_.columns;
    return scales_[static_cast<std::size_t>(i / block_.rows * across + j / block_.columns)];
  }

  /// out.size() numbers from `first` on, row by row, to float, double or bf16 (see convert()). Several
  /// threads may read at once.
  template <typename Number>
  void read(Index first, std::span<Number> out) const {
    if (scales_.empty()) {
      weight_.file->read(*weight_.entry, first, out);
    } else {
      dequantize<Number>(*weight_.file, *weight_.entry, scales_, block_, first, out);
    }
  }

 private:
  WeightFiles::Weight weight_;
  BlockSize block_;
  std::vector<float> scales_;  // none where numbers are as they stand
};

}  // namespace mtpx
