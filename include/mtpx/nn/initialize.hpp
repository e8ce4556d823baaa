#pragma once

#include <mtpx/nn/module.hpp>
#include <mtpx/ops/fill.hpp>

#include <cstdint>
#include <string>

namespace mtpx {

/// Fills all tensors of a module: matrices normal with standard deviation `deviation`, vectors 1 as norm
/// gains are, those whose name ends in "bias" 0. A tensor's numbers depend on the seed and its published name
/// alone: not on the device, the depth or the order, and on the type only by rounding. The device draws them
/// itself. Weights in 8 bits are those numbers, rounded to theirs.
template <typename Module>
void initialize(Module& module, std::uint64_t seed, double deviation) {
  const auto draw = [&](const std::string& name, const auto& tensor) {
    std::uint64_t stream = 14695981039346656037ULL;  // FNV-1a of the name
    for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    fill_normal(tensor, seed, stream, deviation);
  };
  for_each_tensor_of_numbers(module, [&](const std::string& name, const auto& tensor) {
    if (tensor.shape().rank() == 1) {
      fill(tensor, name.ends_with("bias") ? 0 : 1);
    } else {
      draw(name, tensor);
    }
  });
  for_each_int8(module, [&]<typename D>(const std::string& name, const Int8Weight<D>& weight, Index e) {
    if constexpr (HostMemory<D>) {
      const Int8Weights one = weight.matrix();
      const Tensor<float, D> numbers(weight.q.device(), {one.out, one.in});
      draw(name, numbers);
      for (Index i = 0; i < one.out; ++i)
        weight.making->quantize_row(weight, e, i, numbers.data() + i * one.in);
    } else {
      throw DeviceError(cat("[initialize] ", name, ": weights in 8 bits are made in the host's memory"));
    }
  });
}

}  // namespace mtpx
