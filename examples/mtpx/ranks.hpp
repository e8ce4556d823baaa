#pragma once
// The processes of one run: `mtpx launch`, torchrun or mpirun started them.

#include "program.hpp"

#include <mtpx/comm/world.hpp>
#ifdef MTPX_CUDA
#include <mtpx/comm/nccl.hpp>
#endif

namespace program {

/// The processes that this one was started with; itself alone where nothing says otherwise. Waits for the
/// others. Throws ConfigError, also where mpirun started a program that was built without MPI, and CommError.
mtpx::World join_world();

/// Takes the GPU of its own, or its share of the processors, where `o` does not say how many.
void take_share(DeviceOptions& o, const mtpx::World& world);

/// The ranks as a device's tensors meet them.
inline mtpx::Group<mtpx::Cpu> group_of(const mtpx::World& world, const mtpx::Cpu& cpu) {
  return world.host().on(cpu);
}
#ifdef MTPX_CUDA
inline mtpx::Group<mtpx::Cuda> group_of(const mtpx::World& world, const mtpx::Cuda& gpu) {
  return mtpx::nccl_group(world, gpu);
}
#endif

}  // namespace program
