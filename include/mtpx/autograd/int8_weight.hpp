#pragma once
// A weight that is kept in 8 bits.

#include <mtpx/core/tensor.hpp>
#include <mtpx/kernels.hpp>

#include <algorithm>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

template <typename D>
struct Int8Weight;

/// How weights in 8 bits come about on device D.
template <typename D>
struct Int8Making {
  /// A new one, as Int8Weight(device, shape, columns), which knows its `making`
  std::shared_ptr<const Int8Weight<D>> (*make)(const D& device, const Shape& shape, Index columns,
                                               const Int8Making& making);
  /// Int8Weight::quantize_row(); throws DeviceError where the memory is not the host's
  void (*quantize_row)(const Int8Weight<D>& weight, Index e, Index i, const float* numbers);
};
/// What is done with weights in 8 bits on device D, for activations of type T: the one is int8_products<T, D>
/// (ops/int8.hpp). A weight brings it along, so whoever has none does not compile it.
template <typename T, typename D>
struct Int8Products : Int8Making<D> {
  /// y = x W^T; `op` heads what is thrown
  template <typename Y>
  using Multiply = void (*)(std::string_view op, const Tensor<T, D>& x, const Int8Weight<D>& w,
                            const Tensor<Y, D>& y, bool recording);
  /// The sums of experts_int8_forward()
  using Experts = void (*)(bool recording, const ExpertsShape& s, const std::int32_t* offsets,
                           const std::int32_t* slot, const std::int32_t* place, const Tensor<T, D>& x,
                           const acc_t<T>* weights, const Int8Weight<D>& gate, const Int8Weight<D>& up,
                           const Int8Weight<D>& down, T* hidden_gate, T* hidden_up, T* y);
  Multiply<T> multiply;                 ///< to activations
  Multiply<acc_t<T>> multiply_to_sums;  ///< to logits
  Experts experts;                      ///< a mixture, all three weights in 8 bits
};

namespace detail {
/// Its address stands for two types.
template <typename T, typename D>
inline constexpr char int8_types = 0;
}  // namespace detail

/// Whether a parameter is kept in 8 bits, and how: see Parameter.
struct Int8Run {
  Index columns = 0;               ///< that share a scale of a row; 0: it is kept in numbers of its type
  const void* products = nullptr;  ///< the Int8Making<D> of its device
  const void* types = nullptr;     ///< the detail::int8_types of the products

  Int8Run() = default;
  template <typename T, typename D>
  Int8Run(Index shared, const Int8Products<T, D>* of)
      : columns(shared), products(static_cast<const Int8Making<D>*>(of)), types(&detail::int8_types<T, D>) {}
};

/// Matrices of whole numbers with scales, in the order in which products read them (Int8Weights): what
/// decoding reads in place of a weight. It has no gradient and is no operand of anything else.
template <typename D>
struct Int8Weight {
  Shape shape;                            ///< of the weight: [out, in], or [E, out, in]
  Index run = 1;                          ///< columns that share a row's scale
  Tensor<std::int8_t, D> q;               ///< Int8Weights::q of each matrix
  Tensor<float, D> scales;                ///< Int8Weights::scales of each
  const Int8Making<D>* making = nullptr;  ///< what is done with it

  /// Of no shape.
  Int8Weight() = default;
  /// Numbers of 0 with scales of NaN, as a Parameter is NaN until it is given numbers.
  [[gnu::cold]] Int8Weight(const D& device, const Shape& of, Index columns) : shape(of), run(columns) {
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
  [[gnu::cold]] void quantize_row(Index e, Index i, const float* numbers) const requires HostMemory<D> {
    const Int8Weights to = matrix();
    std::vector<std::int8_t> row(static_cast<std::size_t>(to.in));
    for (Index j = 0; j < to.in; j += to.run) {
      const Index columns = std::min(to.run, to.in - j);
      put_scale(e, i, j, quantize_block(numbers + j, 1, columns, to.in, row.data() + j));
    }
    put_row(e, i, row.data());
  }

  /// Its products with activations of type T.
  template <typename T>
  const Int8Products<T, D>& products() const {
    return *static_cast<const Int8Products<T, D>*>(making);
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
