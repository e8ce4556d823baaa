#pragma once
// First numbers of a tensor, drawn or set by its device. No gradients; nothing where there is no memory.

#include <mtpx/kernels.hpp>

namespace mtpx {

/// x_i = value.   x: dense
template <typename T, typename D>
void fill(const Tensor<T, D>& x, double value) {
  require(x.contiguous(), "fill", "a dense tensor", {{"x", x}});
  if constexpr (!NoMemory<D>)
    fill_value(x.device(), x.size(), static_cast<T>(static_cast<acc_t<T>>(value)), x.data());
}

/// x_i = deviation n_i, n_i standard normal: a function of seed, stream and i alone, with the same bits on
/// every device.   x: dense   stream: one number for each use, so that uses never share numbers
template <typename T, typename D>
void fill_normal(const Tensor<T, D>& x, std::uint64_t seed, std::uint64_t stream, double deviation) {
  require(x.contiguous(), "fill_normal", "a dense tensor", {{"x", x}});
  if constexpr (!NoMemory<D>) draw_normals(x.device(), x.size(), seed, stream, deviation, x.data());
}

}  // namespace mtpx
