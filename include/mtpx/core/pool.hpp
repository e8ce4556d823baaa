#pragma once
// Buffers of a device, recycled by size: after the first training step nothing is allocated any more,
// and the same step sees the same addresses (which a captured graph of launches needs).

#include <mtpx/core/error.hpp>

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace mtpx {

/// Free lists of buffers, one per rounded size. Thread-safe. Counts bytes for "peak of a step" tests.
class Pool {
 public:
  using Allocate = void* (*)(std::size_t bytes);
  using Free = void (*)(void* data);

  /// A buffer with its reference count; lives in the pool for ever and is handed out again and again.
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    Pool* pool = nullptr;
    std::atomic<int> references{0};
  };

  Pool(Allocate allocate, Free free) : allocate_(allocate), free_(free) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { trim(); }

  /// A block of at least `bytes`, content undefined. Throws what the device's allocator throws.
  Block* take(std::size_t bytes) {
    const std::size_t rounded = (bytes + granule - 1) / granule * granule;
    const std::lock_guard lock(mutex_);
    auto& free_blocks = free_blocks_[rounded];
    if (free_blocks.empty()) {
      auto fresh = std::make_unique<Block>();
      fresh->bytes = rounded;
      fresh->pool = this;
      fresh->data = allocate_(rounded);
      free_blocks.push_back(fresh.release());
      ++allocations_;
    }
    Block* const block = free_blocks.back();
    free_blocks.pop_back();
    in_use_ += rounded;
    if (in_use_ > peak_) peak_ = in_use_;
    return block;
  }

  void give_back(Block* block) {
    const std::lock_guard lock(mutex_);
    in_use_ -= block->bytes;
    free_blocks_[block->bytes].push_back(block);
  }

  /// Frees every buffer that nobody holds.
  void trim() {
    const std::lock_guard lock(mutex_);
    for (auto& [bytes, blocks] : free_blocks_) {
      for (Block* block : blocks) {
        free_(block->data);
        delete block;
      }
      blocks.clear();
    }
  }

  std::size_t bytes_in_use() const { return read(in_use_); }
  std::size_t peak_bytes() const { return read(peak_); }
  /// How often the device was asked for memory: constant once a loop is warm.
  std::size_t allocations() const { return read(allocations_); }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = in_use_;
  }

 private:
  static constexpr std::size_t granule = 64;

  std::size_t read(const std::size_t& count) const {
    const std::lock_guard lock(mutex_);
    return count;
  }

  Allocate allocate_;
  Free free_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<Block*>> free_blocks_;
  std::size_t in_use_ = 0;
  std::size_t peak_ = 0;
  std::size_t allocations_ = 0;
};

/// Shared ownership of one block; the last owner returns it to its pool.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Pool& pool, std::size_t bytes) : block_(pool.take(bytes)) { block_->references.store(1); }
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
      block_->pool->give_back(block_);
    }
  }

  void* data() const { return block_ == nullptr ? nullptr : block_->data; }

 private:
  Pool::Block* block_ = nullptr;
};

}  // namespace mtpx
