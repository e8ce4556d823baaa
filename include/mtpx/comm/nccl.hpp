#pragma once
// Several GPUs through NCCL.

#include <mtpx/comm/nccl_calls.hpp>
#include <mtpx/comm/peer_memory.hpp>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>

namespace mtpx {

/// NCCL between the GPUs of a run, one for each process. All calls are queued on the stream of the device
/// that they are given, so they are recorded with what stands around them, and a buffer may be handed on as
/// soon as the host has dropped it. The first run of what is recorded makes the connections; every rank
/// records and replays the same in the same order. Not for multicast over NVLink: NCCL_NVLS_ENABLE=0 where
/// that is not to be had.
///
/// NCCL's kernels take processors from what computes beside them. So what is exchanged from memory that ranks
/// show each other (share()) goes by copy engines where all GPUs reach each other, unless MTPX_PEER_COPIES is
/// 0: see detail::PeerMemory.
///
/// As long as it lives the host's waits for that GPU end, by a CommError, where a rank is gone.
class NcclWire {
 public:
  /// Waits for all. Throws CommError.
  NcclWire(const World& world, const Cuda& device) : world_(world), device_(device) {
    detail::NcclCalls::Id id{};
    if (world.rank() == 0) demand(calls_.get_unique_id(&id), "ncclGetUniqueId");
    const std::string text = world.exchange({id.bytes, sizeof id.bytes})[0];
    std::memcpy(id.bytes, text.data(), sizeof id.bytes);
    const Cuda::Current current(device);
    demand(calls_.comm_init_rank(&comm_, world.size(), id, world.rank()), "ncclCommInitRank");
    peers_ = std::make_shared<detail::PeerMemory>(world, device);
    device.while_waiting([this](bool first) { look(first); });
  }
  NcclWire(const NcclWire&) = delete;
  NcclWire& operator=(const NcclWire&) = delete;
  ~NcclWire() {
    device_.while_waiting({});
    if (comm_ == nullptr) return;
    const detail::CurrentGpu current(device_.ordinal(), std::nothrow);
    if (std::uncaught_exceptions() > 0) {
      give_up();  // who leaves by an exception waits for nobody
    } else {
      (void)calls_.comm_destroy(comm_);
    }
  }

  /// This process's number, from 0.
  int rank() const { return world_.rank(); }
  /// Processes of the run.
  int size() const { return world_.size(); }

  /// See HasCollectives, also for the following.
  void all_to_all(const Cuda& device, const void* from, void* to, std::size_t bytes) {
    if (!peers_->shares(from, bytes * static_cast<std::size_t>(size())) || device.planned())
      return detail::all_to_all_by_pairs(*this, device, from, to, bytes);
    const auto own = [&](int part) { return detail::part_of(from, part, bytes); };
    peers_->meet(device.stream(), 0);
    copy_on_device(device, detail::part_of(to, rank(), bytes), own(rank()), bytes);
    for (int ahead = 1; ahead < size(); ++ahead) {
      const int peer = (rank() + ahead) % size();
      copy_on_device(device, detail::part_of(to, peer, bytes), peers_->of(peer, own(rank())), bytes);
    }
    peers_->meet(device.stream(), 1);
  }
  /// Every rank's part to all.
  void all_gather(const Cuda& device, const void* from, void* to, std::size_t bytes) {
    if (device.planned()) return;
    const Cuda::Current current(device);
    demand(calls_.all_gather(from, to, bytes, detail::NcclCalls::bytes, comm_, device.stream()),
           "ncclAllGather");
  }
  /// See Group::share().
  std::shared_ptr<void> share(void* memory, std::size_t bytes) { return peers_->share(memory, bytes); }
  /// See Group::gather_blocks().
  void gather_blocks(const Cuda& device, void* memory, std::size_t blocks, std::size_t bytes) {
    const std::size_t block = bytes * static_cast<std::size_t>(size());
    if (!peers_->shares(memory, blocks * block) || device.planned())
      return detail::gather_blocks_by_pairs(*this, device, memory, blocks, bytes);
    peers_->meet(device.stream(), 0);
    for (int ahead = 1; ahead < size(); ++ahead) {
      const int peer = (rank() + ahead) % size();
      for (std::size_t i = 0; i < blocks; ++i) {
        std::byte* const place = detail::part_of(memory, peer, bytes) + i * block;
        copy_on_device(device, place, peers_->of(peer, place), bytes);
      }
    }
    peers_->meet(device.stream(), 1);
  }
  /// All in one group of NCCL's: a lone send would keep the GPU from the receive behind it.
  void send_receive(const Cuda& device, std::span<const Transfer> transfers) {
    if (device.planned()) return;
    const Cuda::Current current(device);
    constexpr int type = detail::NcclCalls::bytes;
    demand(calls_.group_start(), "ncclGroupStart");
    for (const Transfer& one : transfers) {
      if (one.sends) {
        demand(calls_.send(one.from, one.bytes, type, one.peer, comm_, device.stream()), "ncclSend");
      } else {
        demand(calls_.recv(one.to, one.bytes, type, one.peer, comm_, device.stream()), "ncclRecv");
      }
    }
    demand(calls_.group_end(), "ncclGroupEnd");
  }
  /// Begins to end what the device waits for, which may be a rank that is gone, and does not wait for that:
  /// what NCCL's kernels wait for and what its streams do, one behind the other in any order. Whoever learns
  /// by the host that a rank is gone calls it before letting go of what is queued, for giving memory back
  /// waits for the device. Nothing can be moved after it.
  void give_up() {
    if (comm_ == nullptr) return;
    std::thread([peers = peers_, device = device_] { peers->release(device.stream()); }).detach();
    std::thread([abort = calls_.comm_abort, comm = std::exchange(comm_, nullptr), device = device_] {
      const detail::CurrentGpu current(device.ordinal(), std::nothrow);
      (void)abort(comm);
    }).detach();
  }
  /// Waits for the device, then for the other hosts.
  void barrier(const Cuda& device) {
    check(device);
    world_.host().barrier();
  }
  /// Waits for the device's work, as long as all ranks live.
  void check(const Cuda& device) {
    try {
      device.synchronize();
    } catch (const DeviceError&) {
      world_.host().check();  // memory of one that is gone
      throw;
    }
  }

 private:
  /// While the host waits for the device, wherever that is: a rank that is gone leaves a kernel that waits
  /// for it, which is aborted a second later, for it may have done all that is waited for before it left.
  void look(bool first) {
    using Clock = std::chrono::steady_clock;
    if (comm_ == nullptr) throw CommError("[nccl] given up before");
    if (first) gone_.clear();
    int error = 0;
    if (calls_.comm_get_async_error(comm_, &error) != detail::NcclCalls::ok) error = detail::NcclCalls::ok;
    if (error != detail::NcclCalls::ok && error != detail::NcclCalls::in_progress)
      abort(cat("[nccl] ", calls_.get_error_string(error), ": ", calls_.get_last_error(comm_)));
    if (gone_.empty()) {
      try {
        world_.host().check();
      } catch (const CommError& found) {
        gone_ = found.what();
        since_ = Clock::now();
      }
    } else if (Clock::now() - since_ > std::chrono::seconds(1)) {
      abort(gone_);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  [[noreturn]] void abort(const std::string& text) {
    give_up();
    throw CommError(text);
  }
  void demand(int result, const char* what) const {
    if (result == detail::NcclCalls::ok || result == detail::NcclCalls::in_progress) return;
    throw CommError(cat("[nccl] rank ", rank(), ": ", what, ": ", calls_.get_error_string(result), ": ",
                        calls_.get_last_error(comm_)));
  }

  detail::NcclCalls calls_;
  World world_;
  Cuda device_;
  detail::NcclCalls::Comm comm_ = nullptr;
  std::shared_ptr<detail::PeerMemory> peers_;
  std::string gone_;  // what says that a rank is gone, of one wait; and since when
  std::chrono::steady_clock::time_point since_;
};

/// The ranks of a world, a GPU each. Of one rank it needs no library. Throws CommError.
inline Group<Cuda> nccl_group(const World& world, const Cuda& device) {
  if (world.size() == 1) return Group<Cuda>(device);
  return Group<Cuda>(device, std::make_shared<NcclWire>(world, device));
}

}  // namespace mtpx
