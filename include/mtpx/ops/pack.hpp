#pragma once

#include <mtpx/autograd/packed_weight.hpp>

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
  PackedWeight<T, D> packed{w.shape(),
                            {},
                            &linear_packed_forward<T, T>,
                            &linear_packed_forward<T, acc_t<T>>,
                            &experts_packed_forward<T>};
  const PackedWeights<T> shape = packed.matrix();
  packed.numbers = Tensor<T, D>(w.device(), {packed.count(), shape.size()});
  pack_weights(w.device(), packed.count(), shape, w.data(), packed.numbers.data());
  return packed;
}

}  // namespace mtpx
