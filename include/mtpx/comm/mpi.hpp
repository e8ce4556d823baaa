#pragma once
// Ranks that mpirun started. Needs an MPI library, which nothing else of mtpx does: whoever includes this
// file links it (CMake: MTPX_MPI; Debian: libopenmpi-dev).

#include <mtpx/comm/group.hpp>
#include <mtpx/comm/world.hpp>

// The C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <limits>
#include <memory>
#include <span>
#include <vector>

namespace mtpx {

/// MPI between all processes of a run, for devices with the host's memory. It moves bytes; no MPI operation
/// adds anything up. MPI's own errors end all processes, as MPI's default is.
///
/// One at a time in a process, once: MPI cannot be begun again. Where it goes because of an exception MPI is
/// not finalised, which would wait for the others: the process ends with its message, and mpirun ends them.
class MpiWire {
 public:
  /// Begins MPI, unless the program has; then the program ends it, too.
  MpiWire() {
    int begun = 0, given = 0;
    MPI_Initialized(&begun);
    if (begun == 0) MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
    own_ = begun == 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm beside = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &beside);
    MPI_Comm_rank(beside, &local_rank_);
    MPI_Comm_size(beside, &local_size_);
    MPI_Comm_free(&beside);
  }
  MpiWire(const MpiWire&) = delete;
  MpiWire& operator=(const MpiWire&) = delete;
  ~MpiWire() {
    if (own_ && std::uncaught_exceptions() == 0) MPI_Finalize();
  }

  /// This process's number, from 0.
  int rank() const { return rank_; }
  /// Processes of the run.
  int size() const { return size_; }
  /// Its number among those of this machine.
  int local_rank() const { return local_rank_; }

  /// Processes of this machine.
  int local_size() const { return local_size_; }

  /// See HasCollectives, also for the following.
  template <HostMemory D>
  void all_to_all(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_to_all_by_pairs(*this, device, from, to, bytes);
  }
  /// Every rank's part to all.
  template <HostMemory D>
  void all_gather(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_gather_by_pairs(*this, device, from, to, bytes);
  }
  /// All at once, in pieces whose sizes an int can count.
  template <HostMemory D>
  void send_receive(const D&, std::span<const Transfer> transfers) {
    constexpr std::size_t piece = std::size_t{1} << 30;
    std::vector<MPI_Request> requests;
    for (const Transfer& one : transfers) {
      for (std::size_t at = 0; at < one.bytes; at += piece) {
        const int count = static_cast<int>(std::min(piece, one.bytes - at));
        MPI_Request& request = requests.emplace_back(MPI_REQUEST_NULL);
        if (!one.sends) {
          MPI_Irecv(static_cast<std::byte*>(one.to) + at, count, MPI_BYTE, one.peer, 0, MPI_COMM_WORLD,
                    &request);
        } else {
          MPI_Isend(static_cast<const std::byte*>(one.from) + at, count, MPI_BYTE, one.peer, 0,
                    MPI_COMM_WORLD, &request);
        }
      }
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  }
  /// Waits for all.
  template <HostMemory D>
  void barrier(const D&) {
    MPI_Barrier(MPI_COMM_WORLD);
  }
  /// mpirun ends all where one is gone.
  template <HostMemory D>
  void check(const D&) {}

 private:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  bool own_ = false;
};

/// The world of the processes that mpirun started.
inline World mpi_world() {
  const auto wire = std::make_shared<MpiWire>();
  return World(wire->local_rank(), wire->local_size(), Group<Cpu>(Cpu(1), wire));
}

}  // namespace mtpx
