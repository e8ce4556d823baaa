// Which process of a run this is.

#include "ranks.hpp"

#ifdef MTPX_MPI
#include <mtpx/comm/mpi.hpp>
#endif

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

namespace program {

mtpx::World join_world() {
  const char* const size = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (size == nullptr || std::string_view(size) == "1") return mtpx::World::from_environment();
#ifdef MTPX_MPI
  return mtpx::mpi_world();
#else
  throw mtpx::ConfigError(
      mtpx::cat("[world] mpirun started ", size,
                " processes, and this build has no MPI: install libopenmpi-dev and build again with "
                "-DMTPX_MPI=ON, or start them with mtpx launch -n ",
                size));
#endif
}

void take_share(DeviceOptions& o, const mtpx::World& world) {
  o.ordinal = world.local_rank();
  const int here = world.local_size(), all = static_cast<int>(std::thread::hardware_concurrency());
  if (o.threads == 0 && here > 1) o.threads = std::max(1, all / here);
}

void end_at_once(const mtpx::CommError& error) {
  std::cout.flush();
  std::cerr << "mtpx: " << error.what() << std::endl;
  std::_Exit(peer_gone);
}

}  // namespace program
