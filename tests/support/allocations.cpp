#include "support/allocations.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

namespace {
std::atomic<std::size_t> count = 0;
constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
std::atomic<std::int64_t> left = never;  // allocations until one fails
std::atomic<bool> failing_all = false, failed = false;

/// Counts an allocation; whether it is to fail.
bool fails() {
  ++count;
  if (left.load(std::memory_order_relaxed) == never) return false;
  const std::int64_t before = left.fetch_sub(1);
  if (before > 0 || (before < 0 && !failing_all)) return false;
  failed = true;
  return true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t size = bytes > 0 ? bytes : 1;
  return alignment == 0 ? std::malloc(size)
                        : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* allocate_or_throw(std::size_t bytes, std::size_t alignment = 0) {
  void* const memory = fails() ? nullptr : allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

namespace mtpx::test {
std::size_t allocations() { return count; }

void fail_allocation(std::size_t after, bool all) {
  failed = false;
  failing_all = all;
  left = static_cast<std::int64_t>(after);
}

bool stop_failing() {
  left = never;
  return failed;
}
}  // namespace mtpx::test

void* operator new(std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate_or_throw(bytes, static_cast<std::size_t>(alignment));
}
// The standard library takes its temporary buffers by this one.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : allocate(bytes, 0);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
