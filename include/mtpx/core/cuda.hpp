#pragma once
// An NVIDIA GPU as a device: one stream, and a pool of its memory. Needs the CUDA runtime's headers, so only
// builds with MTPX_BACKEND=cuda include it.

#include <mtpx/core/device.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/core/planned.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// Throws DeviceError "[what] CUDA's text" unless `status` is success.
inline void cuda_check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // not again at the next call
  throw DeviceError(cat('[', what, "] ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
}

/// Makes a GPU the current one of this thread, and at the end of the scope whichever was before. Asking costs
/// some ten nanoseconds; switching happens only where it must.
class CurrentGpu {
 public:
  explicit CurrentGpu(int ordinal) { cuda_check(enter(ordinal), "cuda"); }
  /// For destructors: a GPU that cannot be made current is not.
  CurrentGpu(int ordinal, std::nothrow_t) noexcept { (void)enter(ordinal); }
  CurrentGpu(const CurrentGpu&) = delete;
  CurrentGpu& operator=(const CurrentGpu&) = delete;
  ~CurrentGpu() {
    if (switched_) (void)cudaSetDevice(before_);
  }

 private:
  cudaError_t enter(int ordinal) noexcept {
    const cudaError_t status = cudaGetDevice(&before_);
    if (status != cudaSuccess || before_ == ordinal) return status;
    const cudaError_t set = cudaSetDevice(ordinal);
    switched_ = set == cudaSuccess;
    return set;
  }

  int before_ = 0;
  bool switched_ = false;
};

}  // namespace detail

/// Memory of the host that the copy engine reads by itself: a transfer through it does not wait for the
/// device, unless as many as there are slots are still under way.
class PinnedRing {
 public:
  static constexpr std::size_t slot_bytes = std::size_t{1} << 19;  ///< of one slot
  static constexpr std::size_t batch_bytes = 8 * slot_bytes;       ///< half of the ring

  PinnedRing() = default;
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;
  ~PinnedRing() {
    for (const cudaEvent_t event : done_) {
      if (event != nullptr) (void)cudaEventDestroy(event);
    }
    if (memory_ != nullptr) (void)cudaFreeHost(memory_);
  }

  /// Room for `bytes`, at most batch_bytes, to be filled and sent.   wait(event): until nobody reads it
  template <typename Wait>
  void* claim(std::size_t bytes, const Wait& wait) {
    if (memory_ == nullptr) {
      detail::cuda_check(cudaMallocHost(reinterpret_cast<void**>(&memory_), done_.size() * slot_bytes),
                         "pinned");
      for (cudaEvent_t& event : done_)
        detail::cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "pinned");
    }
    if (first_ + slots(bytes) > done_.size()) first_ = 0;
    for (std::size_t i = 0; i < slots(bytes); ++i) wait(done_[first_ + i]);
    return memory_ + first_ * slot_bytes;
  }
  /// Queues the copy of what was claimed.
  void send(cudaStream_t stream, void* to, std::size_t bytes) {
    detail::cuda_check(
        cudaMemcpyAsync(to, memory_ + first_ * slot_bytes, bytes, cudaMemcpyHostToDevice, stream), "copy");
    for (std::size_t i = 0; i < slots(bytes); ++i)
      detail::cuda_check(cudaEventRecord(done_[first_ + i], stream), "pinned");
    first_ += slots(bytes);
  }

 private:
  static std::size_t slots(std::size_t bytes) { return (bytes + slot_bytes - 1) / slot_bytes; }

  char* memory_ = nullptr;
  std::array<cudaEvent_t, 16> done_{};
  std::size_t first_ = 0;  // slot of the next upload, whose slots stand side by side
};

/// A handle to one GPU. Copies share the stream and the pool. All work of a handle is queued on its one
/// stream, so a buffer may be handed out again as soon as the host has dropped it: whoever gets it next is
/// queued behind whoever read it last. Calls return before the work is done; only copy_to_host() waits.
///
/// Several handles of several GPUs work side by side: whatever a handle does, it does with its GPU current,
/// and leaves the thread's current GPU as it was. (From CUDA 12 on, making GPU 0 current again sets it up: a
/// process that wants nothing of it holds a Cuda::Current, or is shown its own GPU alone by
/// CUDA_VISIBLE_DEVICES.)
class Cuda {
 public:
  static constexpr Memory memory = Memory::own;  ///< calls return before their work is done

  /// What an undefined tensor's handle is made from.
  struct Empty {};
  class Current;
  /// A handle to nothing, for undefined tensors.
  explicit Cuda(Empty) {}

  /// Throws DeviceError where there is no such GPU, no driver, or one too old.
  explicit Cuda(int ordinal = 0) : state_(std::make_shared<State>(ordinal, nullptr)) {}
  /// One that plans work of such a GPU: see Planned. Throws the same.
  explicit Cuda(Planned, int ordinal = 0)
      : state_(std::make_shared<State>(ordinal, std::make_shared<detail::PlannedMemory>())) {}

  /// Another handle to the same GPU, with a stream of its own, whose work goes first where both have some.
  Cuda beside() const {
    Cuda other{Empty{}};
    other.state_ = std::make_shared<State>(
        ordinal(), planned() ? std::make_shared<detail::PlannedMemory>() : nullptr, true);
    return other;
  }

  /// Whether this process can use GPU `ordinal`. If not, `why` (unless null) is told CUDA's reason.
  static bool available(int ordinal = 0, std::string* why = nullptr) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && ordinal < count) return true;
    if (why != nullptr) *why = status != cudaSuccess ? cudaGetErrorString(status) : "no such device";
    (void)cudaGetLastError();
    return false;
  }

  /// Where tensors come from: while work is being recorded, a pool of the record's own, so that nothing else
  /// is ever given memory that the record writes to.
  Pool& pool() const { return *state_->current; }
  /// Bytes that tensors hold at most since reset_peak(), over all pools.
  std::size_t peak_bytes() const { return state_->sum(&Pool::peak_bytes); }
  /// Bytes taken from CUDA, held or free.
  std::size_t reserved_bytes() const { return state_->sum(&Pool::reserved_bytes); }
  /// How often CUDA was asked for memory: constant once a loop is warm.
  std::size_t allocations() const { return state_->sum(&Pool::allocations); }
  /// The peak from here on is counted.
  void reset_peak() const {
    for (const auto& pool : state_->pools) pool->reset_peak();
  }
  /// The one stream of all work of this handle's copies.
  cudaStream_t stream() const { return state_->stream; }
  /// Number of the GPU, as CUDA counts them.
  int ordinal() const { return state_->ordinal; }
  /// Streaming multiprocessors.
  int processors() const { return state_->properties.multiProcessorCount; }
  /// What CUDA says of the GPU.
  const cudaDeviceProp& properties() const { return state_->properties; }
  /// Whether nothing is queued: see Planned.
  bool planned() const { return state_->planned != nullptr; }
  /// Host memory for uploads.
  PinnedRing& pinned() const { return *state_->pinned; }
  /// Room in it, as PinnedRing::claim() says.
  void* claim(std::size_t bytes) const {
    return pinned().claim(bytes, [this](cudaEvent_t event) {
      await([event] { return cudaEventQuery(event); }, [event] { return cudaEventSynchronize(event); });
    });
  }

  /// Waits until everything queued so far is done. Throws DeviceError for what went wrong there.
  void synchronize() const {
    await([this] { return cudaStreamQuery(stream()); }, [this] { return cudaStreamSynchronize(stream()); });
  }
  /// What is done again and again while the host waits for this handle's work: look(first), which may throw.
  void while_waiting(std::function<void(bool)> look) const { state_->look = std::move(look); }
  /// Whether something is.
  bool looks_while_waiting() const { return state_->look != nullptr; }

  /// What one handle owns besides memory, made on first use and destroyed with it: library handles, say.
  /// key: the address of something unique to the caller   make: returns a shared_ptr<void>; it and what it
  /// returns are called and destroyed with this GPU current
  template <typename Make>
  void* owned(const void* key, const Make& make) const {
    for (const auto& [name, thing] : state_->owned) {
      if (name == key) return thing.get();
    }
    const detail::CurrentGpu current(state_->ordinal);
    state_->owned.emplace_back(key, make());
    return state_->owned.back().second.get();
  }

 private:
  static void* allocate(int ordinal, std::size_t bytes) {
    const detail::CurrentGpu current(ordinal);
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) == cudaSuccess) return data;
    (void)cudaGetLastError();
    std::size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw OutOfMemory(cat("[cuda] out of memory: ", bytes, " bytes asked for, ", free, " free of ", total,
                          "; lower --batch or --seq"));
  }
  static void release(int ordinal, void* data) {
    const detail::CurrentGpu current(ordinal, std::nothrow);
    (void)cudaFree(data);
  }

  /// Waits until query() is not cudaErrorNotReady; wait() does the same where there is nothing to look at.
  template <typename Query, typename Wait>
  void await(const Query& query, const Wait& wait) const {
    const detail::CurrentGpu current(state_->ordinal);
    if (!state_->look) return detail::cuda_check(wait(), "cuda");
    cudaError_t status = cudaSuccess;
    for (bool first = true; (status = query()) == cudaErrorNotReady; first = false) state_->look(first);
    (void)cudaGetLastError();  // it was none
    detail::cuda_check(status, "cuda");
  }

  struct State {
    State(int device, std::shared_ptr<detail::PlannedMemory> addresses, bool goes_first = false)
        : ordinal(device), is_beside(goes_first), planned(std::move(addresses)) {
      current = add_pool(Pool::Cutting::on).get();
      std::string why;
      if (!available(device, &why)) throw DeviceError(cat("[cuda] device ", device, ": ", why));
      const detail::CurrentGpu now(device);
      detail::cuda_check(cudaGetDeviceProperties(&properties, device), "cuda");
      int last = 0, first = 0;
      detail::cuda_check(cudaDeviceGetStreamPriorityRange(&last, &first), "cuda");
      detail::cuda_check(
          cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, goes_first ? first : last), "cuda");
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
      const detail::CurrentGpu now(ordinal, std::nothrow);
      // What an exception has left beside may wait for a rank that is gone, until its wire is.
      if (!is_beside || std::uncaught_exceptions() == 0) (void)cudaStreamSynchronize(stream);
      owned.clear();
      pinned.reset();
      (void)cudaStreamDestroy(stream);
    }

    std::shared_ptr<Pool> add_pool(Pool::Cutting cutting) {
      if (planned != nullptr) {
        return pools.emplace_back(std::make_shared<Pool>(
            [addresses = planned](std::size_t bytes) { return addresses->allocate(bytes); },
            [addresses = planned](void* data) { addresses->free(data); }, cutting));
      }
      return pools.emplace_back(
          std::make_shared<Pool>([gpu = ordinal](std::size_t bytes) { return allocate(gpu, bytes); },
                                 [gpu = ordinal](void* data) { release(gpu, data); }, cutting));
    }
    std::size_t sum(std::size_t (Pool::*count)() const) const {
      std::size_t total = 0;
      for (const auto& pool : pools) total += ((*pool).*count)();
      return total;
    }

    int ordinal;
    bool is_beside;
    std::shared_ptr<detail::PlannedMemory> planned;
    cudaDeviceProp properties{};
    cudaStream_t stream = nullptr;
    std::vector<std::shared_ptr<Pool>> pools;  // the ordinary one, then those of records
    Pool* current = nullptr;
    std::optional<PinnedRing> pinned{std::in_place};
    std::function<void(bool)> look;  // see while_waiting()
    std::vector<std::pair<const void*, std::shared_ptr<void>>> owned;
  };
  std::shared_ptr<State> state_;
  friend class Recorded<Cuda>;
};

/// Makes the GPU the current one of this thread, and at the end of the scope whichever was before.
class Cuda::Current {
 public:
  explicit Current(const Cuda& device) : current_(device.ordinal()) {}

 private:
  detail::CurrentGpu current_;
};

/// Records launches as a CUDA graph: the first call runs the function, the second captures it, later ones
/// replay; where work is planned, all run it. Memory that the function takes comes from a pool that lasts as
/// long as the record.
template <>
class Recorded<Cuda> {
 public:
  Recorded() = default;
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  Recorded(Recorded&& other) noexcept { swap(other); }
  Recorded& operator=(Recorded&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Recorded() {
    forget();
    if (device_ == nullptr) return;
    // What still lives in the pool keeps it: the device drops it at its own end.
    auto& pools = device_->pools;
    const bool empty = pool_->bytes_in_use() == 0;
    if (empty) pools.erase(std::find(pools.begin(), pools.end(), pool_));
  }

  /// Runs `work`, records it, or replays the record. Throws DeviceError, and what `work` throws.
  template <typename Work>
  void operator()(const Cuda& device, const Work& work) {
    const Cuda::Current current(device);
    if (graph_ == nullptr) {
      if (pool_ == nullptr) {
        device_ = device.state_;
        device_->pools.front()->trim();  // what warmed up without a record makes room for it
        pool_ = device_->add_pool(Pool::Cutting::kept);
      }
      const Recording recording(*device_, *pool_);
      if (!warm_ || device.planned()) {
        work();
        warm_ = true;  // not where it throws: what is captured must have run before
        return;
      }
      capture(device.stream(), work);
    }
    detail::cuda_check(cudaGraphLaunch(graph_, device.stream()), "graph");
  }

  /// The next call runs the function itself.
  void forget() {
    if (graph_ != nullptr) {
      const detail::CurrentGpu current(device_->ordinal, std::nothrow);
      (void)cudaGraphExecDestroy(std::exchange(graph_, nullptr));
    }
    warm_ = false;
  }
  /// Whether the next call replays.
  bool recorded() const { return graph_ != nullptr; }

 private:
  struct Recording {
    Recording(Cuda::State& of, Pool& pool) : state(of), before(std::exchange(state.current, &pool)) {}
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    ~Recording() { state.current = before; }
    Cuda::State& state;
    Pool* before;
  };

  template <typename Work>
  void capture(cudaStream_t stream, const Work& work) {
    cudaGraph_t graph = nullptr;
    detail::cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "graph");
    try {
      work();
    } catch (...) {
      (void)cudaStreamEndCapture(stream, &graph);
      if (graph != nullptr) (void)cudaGraphDestroy(graph);
      (void)cudaGetLastError();
      throw;
    }
    detail::cuda_check(cudaStreamEndCapture(stream, &graph), "graph");
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    (void)cudaGraphDestroy(graph);
    detail::cuda_check(status, "graph");
  }

  void swap(Recorded& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(pool_, other.pool_);
    std::swap(graph_, other.graph_);
    std::swap(warm_, other.warm_);
  }

  std::shared_ptr<Cuda::State> device_;
  std::shared_ptr<Pool> pool_;
  cudaGraphExec_t graph_ = nullptr;
  bool warm_ = false;
};

/// On a stream of its own; while work is recorded, a branch of the graph.
template <>
class Beside<Cuda> {
 public:
  explicit Beside(const Cuda& device) : device_(device), beside_(device.beside()) {
    const Cuda::Current current(device);
    for (cudaEvent_t* const event : {&fork_, &join_})
      detail::cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cuda");
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  ~Beside() {
    const detail::CurrentGpu current(device_.ordinal(), std::nothrow);
    for (const cudaEvent_t event : {fork_, join_}) (void)cudaEventDestroy(event);
  }

  /// work(device): queued on that stream, behind what the device's own has.
  template <typename Work>
  void operator()(const Work& work) {
    order(device_, fork_, beside_);
    pending_ = true;
    work(beside_);
  }
  /// The device's own stream waits for it.
  void join() {
    if (std::exchange(pending_, false)) order(beside_, join_, device_);
  }
  /// The host does.
  void forget() {
    if (std::exchange(pending_, false)) beside_.synchronize();
  }

 private:
  /// What is queued on `second` from here on waits for what `first` has.
  static void order(const Cuda& first, cudaEvent_t event, const Cuda& second) {
    if (first.planned()) return;
    const Cuda::Current current(first);
    detail::cuda_check(cudaEventRecord(event, first.stream()), "cuda");
    detail::cuda_check(cudaStreamWaitEvent(second.stream(), event, 0), "cuda");
  }

  Cuda device_, beside_;
  cudaEvent_t fork_ = nullptr, join_ = nullptr;
  bool pending_ = false;
};

// Transfers and fills of raw bytes, in the order of the stream.

/// Overwrites device memory with what fill(piece, first byte, bytes) puts into pieces of the host's memory,
/// in order. A piece is on its way while the next is filled.
template <typename Fill>
void fill_by_host(const Cuda& device, void* to, std::size_t bytes, const Fill& fill) {
  if (device.planned()) return;
  const Cuda::Current current(device);
  for (std::size_t at = 0; at < bytes; at += PinnedRing::batch_bytes) {
    const std::size_t size = std::min(PinnedRing::batch_bytes, bytes - at);
    fill(device.claim(size), at, size);
    device.pinned().send(device.stream(), static_cast<char*>(to) + at, size);
  }
}
/// Returns when `from` may change, which is before the device is done.
inline void copy_to_device(const Cuda& device, void* to, const void* from, std::size_t bytes) {
  fill_by_host(device, to, bytes, [from](void* place, std::size_t at, std::size_t size) {
    std::memcpy(place, static_cast<const char*>(from) + at, size);
  });
}
/// Waits for the device.
inline void copy_to_host(const Cuda& device, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0 || device.planned()) return;
  const Cuda::Current current(device);
  if (device.looks_while_waiting()) device.synchronize();  // a copy to ordinary memory waits by itself
  detail::cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device.stream()), "copy");
  device.synchronize();
}
/// Pinned memory; ordinary memory where the system will not pin so much.
inline std::shared_ptr<std::byte[]> host_buffer(const Cuda& device, std::size_t bytes) {
  const Cuda::Current current(device);
  void* memory = nullptr;
  if (cudaHostAlloc(&memory, bytes, cudaHostAllocPortable) == cudaSuccess)
    return {static_cast<std::byte*>(memory), [](std::byte* pinned) { (void)cudaFreeHost(pinned); }};
  (void)cudaGetLastError();
  return std::shared_ptr<std::byte[]>(new std::byte[bytes]);
}
/// Queued; `to` is of host_buffer().
inline void queue_to_host(const Cuda& device, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0 || device.planned()) return;
  const Cuda::Current current(device);
  detail::cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device.stream()), "copy");
}
/// Waits for all work of the handle.
inline void wait_for_host(const Cuda& device) { device.synchronize(); }
/// Within the device's memory; queued.
inline void copy_on_device(const Cuda& device, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0 || device.planned()) return;
  const Cuda::Current current(device);
  detail::cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device.stream()), "copy");
}
/// Sets device memory to 0; queued.
inline void set_zero(const Cuda& device, void* data, std::size_t bytes) {
  if (bytes == 0 || device.planned()) return;
  const Cuda::Current current(device);
  detail::cuda_check(cudaMemsetAsync(data, 0, bytes, device.stream()), "set_zero");
}

static_assert(IsDevice<Cuda>);

}  // namespace mtpx
