#pragma once
// Buffers of a device, recycled: after the first training step nothing is allocated any more, and the same
// step sees the same addresses (which a captured graph of launches needs).

#include <mtpx/core/error.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace mtpx {

/// Free blocks by size. Thread-safe. Counts bytes for "peak of a step" tests.
///
/// Two ways to recycle: whole blocks only, each an allocation of its own (the host: a checker of memory then
/// sees every overflow); or cut from large allocations and joined again (a GPU, where asking for memory waits
/// for all work, and where buffers of one size should make room for those of another).
class Pool {
 public:
  /// Takes memory from the device; throws where there is none.
  using Allocate = std::function<void*(std::size_t bytes)>;
  using Free = std::function<void(void* data)>;  ///< gives it back
  /// Whether blocks are cut from large allocations; kept: they are, and these are never given back while the
  /// pool lives.
  enum class Cutting { off, on, kept };

  /// A buffer with its reference count; handed out again and again.
  struct Block {
    void* data = nullptr;            ///< in the device's memory
    std::size_t bytes = 0;           ///< at least those asked for
    Pool* pool = nullptr;            ///< that it returns to
    std::atomic<int> references{0};  ///< owners, see Buffer

   private:
    friend class Pool;
    bool free = false;
    Block *below = nullptr, *above = nullptr;    // neighbours in the same allocation
    Block *previous = nullptr, *next = nullptr;  // in the list of free blocks
  };

  Pool(Allocate allocate, Free free, Cutting cutting = Cutting::off)
      : allocate_(std::move(allocate)),
        free_(std::move(free)),
        cutting_(cutting != Cutting::off),
        kept_(cutting == Cutting::kept) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    release_unused();
    while (spare_ != nullptr) delete std::exchange(spare_, spare_->next);
  }

  /// A block of at least `bytes`, content undefined. Throws what the device's allocator throws.
  Block* take(std::size_t bytes) {
    const std::size_t granule = cutting_ ? 256 : 64;
    std::size_t rounded = (bytes + granule - 1) / granule * granule;
    if (cutting_ && rounded == 0) rounded = granule;
    const std::lock_guard lock(mutex_);
    Block* block = best_fit(rounded);
    if (block == nullptr) {
      block = fresh(rounded);
    } else {
      unlink(block);
    }
    if (cutting_ && block->bytes > rounded) cut(block, rounded);
    in_use_ += block->bytes;
    if (in_use_ > peak_) peak_ = in_use_;
    return block;
  }

  /// Takes back what take() returned; anybody may have it next.
  void give_back(Block* block) {
    const std::lock_guard lock(mutex_);
    in_use_ -= block->bytes;
    if (Block* const above = block->above; above != nullptr && above->free) {
      unlink(above);
      absorb(block, above);
    }
    if (Block* const below = block->below; below != nullptr && below->free) {
      unlink(below);
      absorb(below, block);
      block = below;
    }
    link(block);
  }

  /// Frees every allocation of which nobody holds a part.
  void trim() {
    const std::lock_guard lock(mutex_);
    if (!kept_) release_unused();
  }

  /// Held by tensors now.
  std::size_t bytes_in_use() const { return read(in_use_); }
  /// Held by tensors at most, since reset_peak().
  std::size_t peak_bytes() const { return read(peak_); }
  /// Bytes taken from the device, held or free.
  std::size_t reserved_bytes() const { return read(reserved_); }
  /// How often the device was asked for memory: constant once a loop is warm.
  std::size_t allocations() const { return read(allocations_); }
  /// The peak from here on is counted.
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = in_use_;
  }

 private:
  static std::size_t list_of(std::size_t bytes) { return static_cast<std::size_t>(std::bit_width(bytes)); }

  /// The smallest free block that is large enough; of equals, the one given back last.
  Block* best_fit(std::size_t bytes) const {
    for (std::size_t list = list_of(bytes); list < lists_.size(); ++list) {
      Block* best = nullptr;
      for (Block* block = lists_[list]; block != nullptr; block = block->next) {
        if (block->bytes == bytes) return block;
        if (cutting_ && block->bytes > bytes && (best == nullptr || block->bytes < best->bytes)) best = block;
      }
      if (best != nullptr || !cutting_) return best;
    }
    return nullptr;
  }

  /// An allocation of its own, or of more than is asked for: an eighth of what is there, so that there are
  /// few.
  Block* fresh(std::size_t bytes) {
    constexpr std::size_t page = std::size_t{1} << 21;
    const auto whole_pages = [](std::size_t n) { return (n + page - 1) / page * page; };
    std::unique_ptr<Block> block(spare_ != nullptr ? std::exchange(spare_, spare_->next) : new Block);
    const std::size_t least = kept_ ? page : 16 * page;
    block->bytes = cutting_ ? whole_pages(std::max({bytes, least, reserved_ / 8})) : bytes;
    try {
      block->data = allocate_(block->bytes);
    } catch (...) {
      if (!cutting_) throw;
      if (!kept_) release_unused();
      block->bytes = whole_pages(bytes);
      block->data = allocate_(block->bytes);
    }
    block->pool = this;
    block->free = false;
    block->below = block->above = block->previous = block->next = nullptr;
    reserved_ += block->bytes;
    ++allocations_;
    return block.release();
  }

  /// Shortens a block to `bytes`; the rest is a free block above it.
  void cut(Block* block, std::size_t bytes) {
    Block* const rest = spare_ != nullptr ? std::exchange(spare_, spare_->next) : new Block;
    rest->data = static_cast<char*>(block->data) + bytes;
    rest->bytes = block->bytes - bytes;
    rest->pool = this;
    rest->below = block;
    rest->above = block->above;
    if (rest->above != nullptr) rest->above->below = rest;
    block->above = rest;
    block->bytes = bytes;
    link(rest);
  }

  /// `low` takes over `high`, which stands right above it; neither is in a list.
  void absorb(Block* low, Block* high) {
    low->bytes += high->bytes;
    low->above = high->above;
    if (low->above != nullptr) low->above->below = low;
    retire(high);
  }

  void release_unused() {
    for (Block* block : lists_) {
      while (block != nullptr) {
        Block* const unused = std::exchange(block, block->next);
        if (unused->below != nullptr || unused->above != nullptr) continue;
        unlink(unused);
        free_(unused->data);
        reserved_ -= unused->bytes;
        retire(unused);
      }
    }
  }

  void link(Block* block) {
    Block*& list = lists_[list_of(block->bytes)];
    block->free = true;
    block->previous = nullptr;
    block->next = list;
    if (list != nullptr) list->previous = block;
    list = block;
  }
  void unlink(Block* block) {
    if (block->previous != nullptr) block->previous->next = block->next;
    if (block->next != nullptr) block->next->previous = block->previous;
    if (block->previous == nullptr) lists_[list_of(block->bytes)] = block->next;
    block->free = false;
  }
  void retire(Block* block) {
    block->next = spare_;
    spare_ = block;
  }

  std::size_t read(const std::size_t& count) const {
    const std::lock_guard lock(mutex_);
    return count;
  }

  Allocate allocate_;
  Free free_;
  bool cutting_, kept_;
  mutable std::mutex mutex_;
  std::array<Block*, 66> lists_{};  // free blocks of [2^(i - 1), 2^i) bytes; of 0 bytes: list 0
  Block* spare_ = nullptr;          // descriptors to use again, linked by `next`
  std::size_t in_use_ = 0;
  std::size_t peak_ = 0;
  std::size_t reserved_ = 0;
  std::size_t allocations_ = 0;
};

/// Shared ownership of one block; the last owner returns it to its pool. Or of memory that is somebody
/// else's, whose handle the last owner drops.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Pool& pool, std::size_t bytes) : block_(pool.take(bytes)) { block_->references.store(1); }
  Buffer(void* data, std::shared_ptr<const void> owner) : block_(new Foreign(std::move(owner))) {
    block_->data = data;
    block_->references.store(1);
  }
  Buffer(const Buffer& other) : block_(other.block_) {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() {
    if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      if (block_->pool == nullptr) {
        delete static_cast<Foreign*>(block_);
      } else {
        block_->pool->give_back(block_);
      }
    }
  }

  /// The block's memory; null without a block.
  void* data() const { return block_ == nullptr ? nullptr : block_->data; }
  /// Whether nobody else holds the block; never of somebody else's memory.
  bool unique() const {
    return block_ != nullptr && block_->pool != nullptr &&
           block_->references.load(std::memory_order_acquire) == 1;
  }

 private:
  struct Foreign : Pool::Block {
    explicit Foreign(std::shared_ptr<const void> handle) : owner(std::move(handle)) {}
    std::shared_ptr<const void> owner;
  };

  Pool::Block* block_ = nullptr;
};

}  // namespace mtpx
