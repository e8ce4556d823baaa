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

/// Says what happened and ends the process, as a signal would.
[[noreturn]] void end_at_once(const mtpx::CommError& error);

/// Returns what work() does. Where a rank is gone, a GPU may wait for it for ever, and everything that gives
/// its memory back waits for the GPU: then the process ends here, behind done(), which finishes what is still
/// worth it.
template <typename D, typename Work, typename Done>
auto while_all_live(const D&, const Work& work, const Done& done) {
  try {
    return work();
  } catch (const mtpx::CommError& error) {
    if constexpr (mtpx::HostMemory<D>) throw;
    done();
    end_at_once(error);
  }
}

}  // namespace program
