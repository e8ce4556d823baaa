#pragma once
// GPUs of one machine that read each other's memory by their copy engines, which take nothing from what
// computes.

#include <mtpx/comm/world.hpp>
#include <mtpx/core/cuda.hpp>

#include <cuda.h>

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace mtpx::detail {

/// A function of the driver; null: it has none.
template <typename Function>
Function* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess) (void)cudaGetLastError();
  return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Function*>(function)
                                                                       : nullptr;
}

/// Memory that every rank of a world has alike and shows to the others, and a place where their streams meet.
/// Both are commands of a stream that no processor of the GPU runs: copies are its engines', and a meeting is
/// a number that is written to all others' memory and waited for in one's own. So they may be recorded, and
/// what they wait for stands still in no kernel.
///
/// A meeting takes back what it waited for, before this rank comes to the next one; two places take turns, so
/// that nobody writes to one that has not been taken back.
class PeerMemory {
 public:
  /// Waits for all ranks, which come to the same answer about usable().
  PeerMemory(const World& world, const Cuda& device) : world_(world), device_(device) {
    const Cuda::Current current(device);
    const auto size = static_cast<std::size_t>(world.size());
    const char* const wanted = std::getenv("MTPX_PEER_COPIES");
    bool able = (wanted == nullptr || std::string_view(wanted) != "0") &&
                world.local_size() == world.size() && !device.planned();
    write_ = driver_function<Write>("cuStreamWriteValue32");
    wait_ = driver_function<Wait>("cuStreamWaitValue32");
    range_ = driver_function<Range>("cuMemGetAddressRange");
    able = able && write_ != nullptr && wait_ != nullptr && range_ != nullptr;
    if (able) {
      able = cudaMalloc(&places_, 2 * size * place_bytes) == cudaSuccess &&
             cudaMemset(places_, 0, 2 * size * place_bytes) == cudaSuccess &&
             cudaDeviceSynchronize() == cudaSuccess &&
             cudaStreamCreateWithFlags(&rescue_, cudaStreamNonBlocking) == cudaSuccess;
      (void)cudaGetLastError();
    }
    std::vector<void*> peers = open(able ? places_ : nullptr);
    usable_ = !peers.empty();
    peer_places_ = std::move(peers);
  }
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  ~PeerMemory() {
    const CurrentGpu current(device_.ordinal(), std::nothrow);
    for (const auto& [base, mapped] : opened_) (void)cudaIpcCloseMemHandle(mapped);
    if (rescue_ != nullptr) (void)cudaStreamDestroy(rescue_);
    if (places_ != nullptr) (void)cudaFree(places_);
  }

  /// Whether all ranks are on one machine, and their GPUs reach each other.
  bool usable() const { return usable_; }

  /// Shows `bytes` of memory, of which every rank has as many, until the handle that it returns is gone.
  /// Every rank makes the call; the handle is null where one cannot.
  std::shared_ptr<void> share(void* memory, std::size_t bytes) {
    if (!usable_) return {};
    std::vector<void*> peers = open(memory);
    if (peers.empty()) return {};
    windows_.push_back({static_cast<std::byte*>(memory), bytes, std::move(peers)});
    return {memory, [alive = std::weak_ptr<int>(alive_), this](void* gone) {
              if (alive.expired()) return;
              std::erase_if(windows_, [&](const Window& window) { return window.own == gone; });
            }};
  }

  /// Whether these bytes are shared.
  bool shares(const void* from, std::size_t bytes) const { return window_of(from, bytes) != nullptr; }
  /// Where a peer has what stands here at `own`, in memory that is shared.
  const void* of(int peer, const void* own) const {
    const Window& window = *window_of(own, 1);
    return static_cast<const std::byte*>(window.peers[static_cast<std::size_t>(peer)]) +
           (static_cast<const std::byte*>(own) - window.own);
  }

  /// What is queued on `stream` from here on waits for what the others have queued up to here. place: 0 and
  /// 1, in turn.
  void meet(cudaStream_t stream, int place) const {
    const int rank = world_.rank(), size = world_.size();
    const auto at = [&](void* places, int who) {
      const auto number = static_cast<std::size_t>(place * size + who);
      return reinterpret_cast<CUdeviceptr>(static_cast<std::byte*>(places) + number * place_bytes);
    };
    for (int ahead = 1; ahead < size; ++ahead) {
      const int peer = (rank + ahead) % size;
      demand(write_(stream, at(peer_places_[static_cast<std::size_t>(peer)], rank), 1, 0));
    }
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      demand(wait_(stream, at(places_, peer), 1, CU_STREAM_WAIT_VALUE_GEQ));
      demand(write_(stream, at(places_, peer), 0, 0));
    }
  }

  /// Lets a stream run to its end that waits for a rank which is gone; what it computes is nothing to go on
  /// from.
  void release(cudaStream_t stream) const {
    if (!usable_) return;
    const CurrentGpu current(device_.ordinal(), std::nothrow);
    const auto bytes = 2 * static_cast<std::size_t>(world_.size()) * place_bytes;
    while (cudaStreamQuery(stream) == cudaErrorNotReady) {
      if (cudaMemsetAsync(places_, 1, bytes, rescue_) != cudaSuccess ||
          cudaStreamSynchronize(rescue_) != cudaSuccess)
        break;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    (void)cudaGetLastError();
  }

 private:
  using Write = CUresult(CUstream, CUdeviceptr, cuuint32_t, unsigned);
  using Wait = Write;
  using Range = CUresult(CUdeviceptr*, std::size_t*, CUdeviceptr);
  static constexpr std::size_t place_bytes = 128;

  struct Window {
    std::byte* own = nullptr;
    std::size_t bytes = 0;
    std::vector<void*> peers;
  };
  /// What a rank tells the others of its memory.
  struct Shown {
    cudaIpcMemHandle_t handle{};
    std::size_t offset = 0;  // behind the begin of what the handle names
    bool able = false;
  };

  static void demand(CUresult status) {
    if (status != CUDA_SUCCESS)
      throw DeviceError(cat("[peer memory] the driver gives error ", static_cast<int>(status)));
  }
  const Window* window_of(const void* from, std::size_t bytes) const {
    const auto* const at = static_cast<const std::byte*>(from);
    for (const Window& window : windows_) {
      if (at >= window.own && at + bytes <= window.own + window.bytes) return &window;
    }
    return nullptr;
  }

  /// Where this process sees what the others show, each in its place; nothing where one shows or sees none.
  std::vector<void*> open(void* memory) {
    const Cuda::Current current(device_);
    Shown own;
    CUdeviceptr base = 0;
    std::size_t size = 0;
    if (memory != nullptr && range_(&base, &size, reinterpret_cast<CUdeviceptr>(memory)) == CUDA_SUCCESS) {
      own.offset = reinterpret_cast<CUdeviceptr>(memory) - base;
      own.able = cudaIpcGetMemHandle(&own.handle, reinterpret_cast<void*>(base)) == cudaSuccess;
      (void)cudaGetLastError();
    }
    const std::vector<std::string> all = world_.exchange({reinterpret_cast<const char*>(&own), sizeof own});
    std::vector<void*> peers(all.size(), memory);
    bool able = own.able;
    for (std::size_t peer = 0; peer < all.size(); ++peer) {
      Shown shown;
      std::memcpy(&shown, all[peer].data(), sizeof shown);
      if (static_cast<int>(peer) == world_.rank()) continue;
      void* const mapped = shown.able && able ? map(shown.handle) : nullptr;
      able = able && mapped != nullptr;
      if (able) peers[peer] = static_cast<std::byte*>(mapped) + shown.offset;
    }
    for (const std::string& one : world_.exchange(able ? "1" : "0")) able = able && one == "1";
    return able ? peers : std::vector<void*>();
  }
  /// An allocation of a peer is mapped once, however many windows it has.
  void* map(const cudaIpcMemHandle_t& handle) {
    const std::string key(reinterpret_cast<const char*>(&handle), sizeof handle);
    for (const auto& [known, mapped] : opened_) {
      if (known == key) return mapped;
    }
    void* mapped = nullptr;
    if (cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
      (void)cudaGetLastError();
      return nullptr;
    }
    opened_.emplace_back(key, mapped);
    return mapped;
  }

  World world_;
  Cuda device_;
  Write* write_ = nullptr;
  Wait* wait_ = nullptr;
  Range* range_ = nullptr;
  void* places_ = nullptr;  // [2, ranks], in a line of memory each
  cudaStream_t rescue_ = nullptr;
  bool usable_ = false;
  std::vector<void*> peer_places_;
  std::vector<std::pair<std::string, void*>> opened_;  // by their handles
  std::vector<Window> windows_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace mtpx::detail
