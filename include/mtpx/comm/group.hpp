#pragma once
// Processes that work on one thing, as seen by what computes: who am I among how many, and moving bytes.

#include <mtpx/comm/pairs.hpp>
#include <mtpx/core/error.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace mtpx {

/// What carries bytes of device D's memory between the ranks of a group: MPI, NCCL, threads of a test. Every
/// rank makes the same calls in the same order. It adds nothing up: sums are our kernels' (fold_parts), in an
/// order that no library decides. Calls are queued with the device's work, and done on return where its
/// memory is the host's. All buffers are the caller's; they do not overlap, but where a call says so.
///
///   all_to_all(device, from, to, n)   part p of `from` [size, n] goes to rank p; part p of `to` is rank p's
///   all_gather(device, from, to, n)   part p of `to` [size, n] is rank p's `from` [n], which may be part
///                                     `rank` of `to` itself
///   send_receive(device, transfers)   all of them at once: no rank waits for another's receive to send
///   barrier(device)                   returns when every rank has come here, its device's work done
///   check(device)                     waits for the device's work and throws CommError where a rank that it
///                                     waits for is gone; with host memory it looks and does not wait
template <typename Wire, typename D>
concept HasCollectives = requires(Wire& wire, const D& device, const void* from, void* to, std::size_t bytes,
                                  std::span<const Transfer> transfers) {
  { wire.rank() } -> std::convertible_to<int>;
  { wire.size() } -> std::convertible_to<int>;
  wire.all_to_all(device, from, to, bytes);
  wire.all_gather(device, from, to, bytes);
  wire.send_receive(device, transfers);
  wire.barrier(device);
  wire.check(device);
};

/// The ranks that share a piece of work, and this process among them. A handle: copies share the wire. One
/// made of a device alone is a group of one, which needs no library and moves nothing.
template <typename D>
class Group {
 public:
  /// Of one rank.
  explicit Group(D device) : device_(std::move(device)) {}
  /// Of all that `wire` joins.
  template <HasCollectives<D> Wire>
  Group(D device, std::shared_ptr<Wire> wire)
      : device_(std::move(device)),
        rank_(wire->rank()),
        size_(wire->size()),
        wire_(std::move(wire)),
        calls_(&calls_of<Wire>) {}

  /// This process's number, from 0.
  int rank() const { return rank_; }
  /// How many there are.
  int size() const { return size_; }
  /// Whose memory it moves.
  const D& device() const { return device_; }

  /// The same ranks, seen by another handle of such a device.
  Group on(D device) const {
    Group other = *this;
    other.device_ = std::move(device);
    return other;
  }

  /// Part p of `from` [size, bytes_each] to rank p, part p of `to` from rank p. See HasCollectives, also for
  /// the following.
  void all_to_all(const void* from, void* to, std::size_t bytes_each) const {
    if (calls_ != nullptr) return calls_->all_to_all(wire_.get(), device_, from, to, bytes_each);
    copy_on_device(device_, to, from, bytes_each);
  }
  /// Every rank's `from` [bytes_each] to part p of every `to` [size, bytes_each]; in place where it is that
  /// part already.
  void all_gather(const void* from, void* to, std::size_t bytes_each) const {
    if (calls_ != nullptr) return calls_->all_gather(wire_.get(), device_, from, to, bytes_each);
    if (from != to) copy_on_device(device_, to, from, bytes_each);
  }
  /// Messages to and from single ranks, all at once. Throws Error for a peer that there is not, or itself.
  void send_receive(std::span<const Transfer> transfers) const {
    for (const Transfer& one : transfers) {
      if (one.peer < 0 || one.peer >= size_ || one.peer == rank_)
        throw Error(cat("[group] rank ", rank_, " of ", size_, " has no peer ", one.peer));
    }
    if (calls_ != nullptr && !transfers.empty()) calls_->send_receive(wire_.get(), device_, transfers);
  }
  /// Part p of each block of `memory` [blocks, size, bytes_each] is rank p's: to all, in place.
  void gather_blocks(void* memory, std::size_t blocks, std::size_t bytes_each) const {
    if (calls_ != nullptr) calls_->gather_blocks(wire_.get(), device_, memory, blocks, bytes_each);
  }
  /// Says that all_to_all() will often be called from inside these bytes, and gather_blocks() with them: a
  /// wire may show them to the other ranks. Every rank has as many and makes the call. They are the caller's,
  /// who drops the handle before giving them away.
  std::shared_ptr<void> share(void* memory, std::size_t bytes) const {
    return calls_ != nullptr ? calls_->share(wire_.get(), memory, bytes) : nullptr;
  }
  /// Returns when every rank is here.
  void barrier() const {
    if (calls_ != nullptr) calls_->barrier(wire_.get(), device_);
  }
  /// Throws CommError where a peer is known to be gone.
  void check() const {
    if (calls_ != nullptr) calls_->check(wire_.get(), device_);
  }

 private:
  struct Calls {
    void (*all_to_all)(void*, const D&, const void*, void*, std::size_t);
    void (*all_gather)(void*, const D&, const void*, void*, std::size_t);
    void (*send_receive)(void*, const D&, std::span<const Transfer>);
    void (*gather_blocks)(void*, const D&, void*, std::size_t, std::size_t);
    std::shared_ptr<void> (*share)(void*, void*, std::size_t);
    void (*barrier)(void*, const D&);
    void (*check)(void*, const D&);
  };
  template <typename Wire>
  static constexpr Calls calls_of{
      [](void* wire, const D& device, const void* from, void* to, std::size_t bytes) {
        static_cast<Wire*>(wire)->all_to_all(device, from, to, bytes);
      },
      [](void* wire, const D& device, const void* from, void* to, std::size_t bytes) {
        static_cast<Wire*>(wire)->all_gather(device, from, to, bytes);
      },
      [](void* wire, const D& device, std::span<const Transfer> transfers) {
        static_cast<Wire*>(wire)->send_receive(device, transfers);
      },
      [](void* wire, const D& device, void* memory, std::size_t blocks, std::size_t bytes) {
        Wire& own = *static_cast<Wire*>(wire);
        if constexpr (requires { own.gather_blocks(device, memory, blocks, bytes); }) {
          own.gather_blocks(device, memory, blocks, bytes);
        } else {
          detail::gather_blocks_by_pairs(own, device, memory, blocks, bytes);
        }
      },
      [](void* wire, void* memory, std::size_t bytes) {
        if constexpr (requires { static_cast<Wire*>(wire)->share(memory, bytes); }) {
          return static_cast<Wire*>(wire)->share(memory, bytes);
        } else {
          return std::shared_ptr<void>();
        }
      },
      [](void* wire, const D& device) { static_cast<Wire*>(wire)->barrier(device); },
      [](void* wire, const D& device) { static_cast<Wire*>(wire)->check(device); }};

  D device_;
  int rank_ = 0, size_ = 1;
  std::shared_ptr<void> wire_;
  const Calls* calls_ = nullptr;
};

}  // namespace mtpx
