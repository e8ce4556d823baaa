#pragma once

#include <mtpx/autograd/packed_weight.hpp>

#include <cstdint>
#include <type_traits>

namespace mtpx {

namespace detail {
template <typename T, typename D>
concept HasPackedProducts = requires(const D& device, const T* x, const PackedWeights<T>& w, T* y) {
  linear_packed_forward(device, Rows{}, x, w, y);
};
}  // namespace detail

/// Whether D multiplies with packed weights of type T.
template <typename T, typename D>
inline constexpr bool packs = !std::is_same_v<T, double> && detail::HasPackedProducts<T, D>;

/// A weight in the order in which products of few rows stream it, with these products.
///
/// w: [out, in] or [E, out, in]
template <typename T, typename D>
PackedWeight<T, D> pack(const Tensor<T, D>& w) {
  using Weights = PackedWeights<T>;
  using Ids = const std::int32_t*;
  PackedWeight<T, D> packed{w.shape(), {}};
  packed.linear = [](const D& device, Rows rows, const T* x, const Weights& weights, T* y) {
    linear_packed_forward(device, rows, x, weights, y);
  };
  packed.logits = [](const D& device, Rows rows, const T* x, const Weights& weights, acc_t<T>* y) {
    linear_packed_forward(device, rows, x, weights, y);
  };
  packed.experts = [](const D& device, ExpertsShape s, Ids offsets, Ids slot, Ids place, const T* x,
                      Index x_stride, const acc_t<T>* of_slots, const Weights& gate, const Weights& up,
                      const Weights& down, T* hidden_gate, T* hidden_up, T* y) {
    experts_packed_forward(device, s, offsets, slot, place, x, x_stride, of_slots, gate, up, down,
                           hidden_gate, hidden_up, y);
  };
  const Weights shape = packed.matrix();
  packed.numbers = Tensor<T, D>(w.device(), {packed.count(), shape.size()});
  pack_weights(w.device(), packed.count(), shape, w.data(), packed.numbers.data());
  return packed;
}

}  // namespace mtpx
