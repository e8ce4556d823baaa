#pragma once
// The processes of one run: `mtpx launch`, torchrun or mpirun started them.

#include "program.hpp"

#include <mtpx/comm/world.hpp>
#ifdef MTPX_CUDA
#include <mtpx/comm/nccl.hpp>
#endif

#include <functional>
#include <memory>

namespace program {

/// The processes that this one was started with; itself alone where nothing says otherwise. Waits for the
/// others. Throws ConfigError, also where mpirun started a program that was built without MPI, and CommError.
mtpx::World join_world();

/// Takes the GPU of its own, or its share of the processors, where `o` does not say how many.
void take_share(DeviceOptions& o, const mtpx::World& world);

/// The ranks as a device's tensors meet them.
template <typename D>
struct Ranks {
  mtpx::Group<D> all;
  std::function<void()> give_up{};  // ends what the device waits for, see NcclWire::give_up()

  /// Returns what work() does. Where a rank is gone, the device waits for it no more when the exception
  /// leaves.
  template <typename Work>
  auto run(const Work& work) const {
    try {
      return work();
    } catch (const mtpx::CommError&) {
      if (give_up) give_up();
      throw;
    }
  }
};
inline Ranks<mtpx::Cpu> ranks_of(const mtpx::World& world, const mtpx::Cpu& cpu) {
  return {world.host().on(cpu)};
}
#ifdef MTPX_CUDA
inline Ranks<mtpx::Cuda> ranks_of(const mtpx::World& world, const mtpx::Cuda& gpu) {
  if (world.size() == 1) return {mtpx::Group<mtpx::Cuda>(gpu)};
  const auto wire = std::make_shared<mtpx::NcclWire>(world, gpu);
  return {mtpx::Group<mtpx::Cuda>(gpu, wire), [wire] { wire->give_up(); }};
}
#endif

}  // namespace program
