#pragma once

#include <mtpx/nn/module.hpp>
#include <mtpx/ops/pack.hpp>

namespace mtpx {

/// Has every weight that products alone read in the order in which few rows stream it, where the device has
/// such products. The module then decodes faster, with the same bits, and does nothing else: what reads such
/// a weight throws Error. As much memory as before, but for padding of rows to a multiple of 32; while it
/// packs, one weight more.
template <typename Module>
void pack_for_decoding(Module& module) {
  for_each_parameter(module, []<typename T, typename D>(const std::string&, Parameter<T, D>& parameter) {
    if constexpr (packs<T, D>) {
      if (!parameter.can_be_packed()) return;
      const D device = parameter.device();
      parameter.pack(mtpx::pack(parameter.value()));
      device.pool().trim();
    }
  });
}

}  // namespace mtpx
