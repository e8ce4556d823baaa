#pragma once
// What is done with weights in 8 bits.

#include <mtpx/autograd/packed_weight.hpp>
#include <mtpx/kernels.hpp>

#include <memory>
#include <string_view>
#include <type_traits>

namespace mtpx {

/// Whether D multiplies with weights in 8 bits, of activations of type X, to results of type Y.
template <typename X, typename Y, typename D>
inline constexpr bool multiplies_int8 =
    std::is_same_v<acc_t<Y>, float>&& requires(const D& device, const X* x, const Int8Weights& w, Y* y) {
  linear_int8_forward(device, Rows{}, x, w, y);
};

namespace detail {
/// Throws what is to be said of an op with a weight in 8 bits that is not for it.
template <bool multiplies>
void check_int8(std::string_view op, bool recording) {
  if (!multiplies)
    throw DeviceError(cat("[", op, "] a weight in 8 bits: this device has no products with them"));
  check_inference(op, "in 8 bits", recording);
}

/// y = x W^T with a weight in 8 bits, into memory of any such type.
template <typename X, typename Y, typename D>
void multiply_int8(std::string_view op, const Tensor<X, D>& x, const Int8Weight<D>& w, const Tensor<Y, D>& y,
                   bool recording) {
  constexpr bool can = multiplies_int8<X, Y, D>;
  check_int8<can>(op, recording);
  if constexpr (can) linear_int8_forward(x.device(), x.rows(), x.data(), w.matrix(), y.data());
}

/// experts() with all three weights in 8 bits.
template <typename T, typename D>
void experts_int8(bool recording, const ExpertsShape& s, const std::int32_t* offsets,
                  const std::int32_t* slot, const std::int32_t* place, const Tensor<T, D>& x,
                  const acc_t<T>* weights, const Int8Weight<D>& gate, const Int8Weight<D>& up,
                  const Int8Weight<D>& down, T* hidden_gate, T* hidden_up, T* y) {
  constexpr bool can = multiplies_int8<T, T, D>;
  check_int8<can>("experts", recording);
  if constexpr (can)
    experts_int8_forward(x.device(), s, offsets, slot, place, x.data(), x.rows().stride, weights,
                         gate.matrix(), up.matrix(), down.matrix(), hidden_gate, hidden_up, y);
}

template <typename D>
std::shared_ptr<const Int8Weight<D>> make_int8(const D& device, const Shape& shape, Index columns,
                                               const Int8Making<D>& making) {
  auto weight = std::make_shared<Int8Weight<D>>(device, shape, columns);
  weight->making = &making;
  return weight;
}
template <typename D>
void quantize_int8_row(const Int8Weight<D>& weight, Index e, Index i, const float* numbers) {
  if constexpr (HostMemory<D>) {
    weight.quantize_row(e, i, numbers);
  } else {
    throw DeviceError("[initialize] weights in 8 bits are made in the host's memory");
  }
}
}  // namespace detail

/// For models with weights in 8 bits: `Transformer<T, D> model(device, config, int8_products<T, D>)`, and
/// Parameter(device, shape, Int8Run(columns, &int8_products<T, D>)).
template <typename T, typename D>
inline constexpr Int8Products<T, D> int8_products{{&detail::make_int8<D>, &detail::quantize_int8_row<D>},
                                                  &detail::multiply_int8<T, T, D>,
                                                  &detail::multiply_int8<T, acc_t<T>, D>,
                                                  &detail::experts_int8<T, D>};

}  // namespace mtpx
