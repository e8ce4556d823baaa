#pragma once
// What stands in place of a weight's value, for decoding alone.

#include <mtpx/autograd/int8_weight.hpp>

#include <memory>
#include <string_view>

namespace mtpx {

/// Matrices in the order in which products of few rows stream them (PackedWeights), and these products:
/// whoever packs a weight brings them (pack_for_decoding()), so that who does not pack does not compile them.
template <typename T, typename D>
struct PackedWeight {
  Shape shape;           ///< of the weight: [out, in], or [E, out, in]
  Tensor<T, D> numbers;  ///< PackedWeights::data of each matrix

  /// linear_packed_forward(), to results of type T
  void (*linear)(const D&, Rows, const T*, const PackedWeights<T>&, T*) = nullptr;
  /// and of the type of sums
  void (*logits)(const D&, Rows, const T*, const PackedWeights<T>&, acc_t<T>*) = nullptr;
  /// experts_packed_forward()
  void (*experts)(const D&, ExpertsShape, const std::int32_t*, const std::int32_t*, const std::int32_t*,
                  const T*, Index, const acc_t<T>*, const PackedWeights<T>&, const PackedWeights<T>&,
                  const PackedWeights<T>&, T*, T*, T*) = nullptr;

  /// How many matrices it is.
  Index count() const { return shape.rank() == 3 ? shape[0] : 1; }
  /// The first matrix as kernels take it.
  PackedWeights<T> matrix() const { return {shape[shape.rank() - 2], shape.width(), numbers.data_or_null()}; }
};

/// One of the two.
template <typename T, typename D>
struct KeptWeight {
  std::shared_ptr<const Int8Weight<D>> int8;  ///< or, where that is null,
  PackedWeight<T, D> packed;                  ///< this

  /// Which.
  bool in_8_bits() const { return int8 != nullptr; }
  /// Of the weight.
  const Shape& shape() const { return in_8_bits() ? int8->shape : packed.shape; }
  /// Where its numbers are.
  const D& device() const { return in_8_bits() ? int8->q.device() : packed.numbers.device(); }
  /// What a token reads of them.
  std::size_t bytes() const { return in_8_bits() ? int8->bytes() : packed.numbers.bytes(); }
  /// As errors call it.
  const char* how() const { return in_8_bits() ? "kept in 8 bits" : "packed"; }
};

namespace detail {
/// Throws where an op with a weight that is `kept` so, and not as it is trained, would be recorded.
[[gnu::noinline, gnu::cold]] inline void check_inference(std::string_view op, std::string_view kept,
                                                         bool recording) {
  if (recording)
    throw Error(cat("[", op, "] a weight ", kept, " has no backward; use a tape in inference mode"));
}
}  // namespace detail

}  // namespace mtpx
