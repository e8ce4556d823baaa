#pragma once
// A weight that is kept in 8 bits.

#include <mtpx/core/tensor.hpp>
#include <mtpx/kernels.hpp>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace mtpx {

/// Matrices of whole numbers with scales, in the order in which products read them (Int8Weights): what
/// decoding reads in place of a weight. It has no gradient and is no operand of anything else.
template <typename D>
struct Int8Weight {
  Shape shape;               ///< of the weight: [out, in], or [E, out, in]
  Index run = 1;             ///< columns that share a row's scale
  Tensor<std::int8_t, D> q;  ///< Int8Weights::q of each matrix
  Tensor<float, D> scales;   ///< Int8Weights::scales of each

  /// Of no shape.
  Int8Weight() = default;
  /// Numbers of 0 with scales of NaN, as a Parameter is NaN until it is given numbers.
  Int8Weight(const D& device, const Shape& of, Index columns) : shape(of), run(columns) {
    const Int8Weights one = matrix();
    q = Tensor<std::int8_t, D>::zeros(device, {count(), one.bytes()});
    scales = Tensor<float, D>(device, {count(), one.scale_count()});
    if constexpr (!NoMemory<D>)
      fill_value(device, scales.size(), std::numeric_limits<float>::quiet_NaN(), scales.data());
  }

  /// Row i of matrix e.   numbers: as many as it has columns
  void put_row(Index e, Index i, const std::int8_t* numbers) const requires HostMemory<D> {
    const Int8Weights to = matrix();
    std::int8_t* const at = q.data() + e * to.bytes();
    for (Index j = 0; j < to.in; ++j) at[to.place(i, j)] = numbers[j];
  }
  /// The scale of a number of matrix e, and of all that share it.
  void put_scale(Index e, Index i, Index j, float scale) const requires HostMemory<D> {
    const Int8Weights to = matrix();
    scales.data()[e * to.scale_count() + to.scale_place(i, j)] = scale;
  }
  /// Row i of matrix e from numbers, each run for itself (quantize_block()).
  void quantize_row(Index e, Index i, const float* numbers) const requires HostMemory<D> {
    const Int8Weights to = matrix();
    std::vector<std::int8_t> row(static_cast<std::size_t>(to.in));
    for (Index j = 0; j < to.in; j += to.run) {
      const Index columns = std::min(to.run, to.in - j);
      put_scale(e, i, j, quantize_block(numbers + j, 1, columns, to.in, row.data() + j));
    }
    put_row(e, i, row.data());
  }

  /// How many matrices it is.
  Index count() const { return shape.rank() == 3 ? shape[0] : 1; }
  /// What a token reads of them.
  std::size_t bytes() const { return q.bytes() + scales.bytes(); }
  /// The first matrix as kernels take it.
  Int8Weights matrix() const {
    return {shape[shape.rank() - 2], shape.width(), run, q.data_or_null(), scales.data_or_null()};
  }
};

}  // namespace mtpx
