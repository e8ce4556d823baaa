#include <mtpx/core/cpu.hpp>
#include <mtpx/core/pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

using mtpx::Buffer;
using mtpx::Cpu;
using mtpx::Pool;

namespace {

// A device whose memory is counted, and which can be told to be full.
std::atomic<int> alive{0};
std::atomic<int> asked{0};
bool full = false;

void* allocate(std::size_t bytes) {
  if (full) throw std::bad_alloc();
  ++asked;
  ++alive;
  return ::operator new(bytes);
}
void release(void* data) {
  --alive;
  ::operator delete(data);
}

}  // namespace

TEST_CASE("pool: sizes are rounded up to 64 bytes") {
  Pool pool(&allocate, &release);
  const std::size_t asked_for[] = {0, 1, 63, 64, 65, 128, 1000};
  const std::size_t rounded[] = {0, 64, 64, 64, 128, 128, 1024};
  for (std::size_t i = 0; i < std::size(asked_for); ++i) {
    CAPTURE(asked_for[i]);
    const Buffer buffer(pool, asked_for[i]);
    CHECK(buffer.data() != nullptr);
    CHECK(pool.bytes_in_use() == rounded[i]);
  }
  CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("pool: a returned buffer is handed out again to the next of its size") {
  Pool pool(&allocate, &release);
  void* small = nullptr;
  void* large = nullptr;
  {
    const Buffer a(pool, 100);
    const Buffer b(pool, 200);
    CHECK(a.data() != b.data());
    small = a.data();
    large = b.data();
  }
  CHECK(pool.allocations() == 2);
  {
    const Buffer b(pool, 256);  // 200 bytes were rounded to the same size
    const Buffer a(pool, 65);
    CHECK(b.data() == large);
    CHECK(a.data() == small);
    CHECK(pool.allocations() == 2);
    const Buffer another(pool, 65);
    CHECK(another.data() != small);
    CHECK(pool.allocations() == 3);
    const Buffer smaller(pool, 64);  // a larger free buffer is not cut up
    CHECK(pool.allocations() == 4);
  }
  CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("pool: bytes in use and their peak") {
  Pool pool(&allocate, &release);
  CHECK(pool.peak_bytes() == 0);
  {
    const Buffer a(pool, 640);
    {
      const Buffer b(pool, 64);
      CHECK(pool.bytes_in_use() == 704);
    }
    CHECK(pool.bytes_in_use() == 640);
    CHECK(pool.peak_bytes() == 704);
    pool.reset_peak();
    CHECK(pool.peak_bytes() == 640);
    const Buffer c(pool, 64);
    CHECK(pool.peak_bytes() == 704);
  }
  CHECK(pool.bytes_in_use() == 0);
  CHECK(pool.peak_bytes() == 704);
  pool.reset_peak();
  CHECK(pool.peak_bytes() == 0);
}

TEST_CASE("pool: a warm loop allocates nothing and sees the same addresses") {
  Pool pool(&allocate, &release);
  const auto step = [&pool] {
    const Buffer x(pool, 1000);
    Buffer y(pool, 1000);
    const Buffer z(pool, 72);
    y = Buffer(pool, 500);
    return std::vector<void*>{x.data(), y.data(), z.data()};
  };
  step();
  const std::size_t warm = pool.allocations();
  const std::vector<void*> second = step();
  const std::vector<void*> third = step();
  for (int i = 0; i < 100; ++i) {
    CHECK(step() == second);
    CHECK(step() == third);
  }
  CHECK(second == third);
  CHECK(pool.allocations() == warm);
}

TEST_CASE("pool: trim and the end of the pool give memory back") {
  const int before = alive;
  {
    Pool pool(&allocate, &release);
    const Buffer kept(pool, 64);
    { const Buffer a(pool, 64), b(pool, 64), c(pool, 128); }
    CHECK(alive == before + 4);
    pool.trim();
    CHECK(alive == before + 1);
    pool.trim();
    CHECK(alive == before + 1);
    const std::size_t asked_before = pool.allocations();
    const Buffer again(pool, 64);
    CHECK(pool.allocations() == asked_before + 1);
  }
  CHECK(alive == before);
}

TEST_CASE("pool: a device without memory leaves every count as it was") {
  Pool pool(&allocate, &release);
  const Buffer held(pool, 64);
  full = true;
  CHECK_THROWS_AS(Buffer(pool, 1 << 20), std::bad_alloc);
  full = false;
  CHECK(pool.bytes_in_use() == 64);
  CHECK(pool.peak_bytes() == 64);
  CHECK(pool.allocations() == 1);
  const Buffer now(pool, 1 << 20);
  CHECK(now.data() != nullptr);
  CHECK(pool.bytes_in_use() == 64 + (1 << 20));
  CHECK(pool.allocations() == 2);
}

TEST_CASE("pool: threads never hold the same buffer at once") {
  Pool pool(&allocate, &release);
  constexpr int threads = 4, rounds = 3000, held = 5;
  std::atomic<int> spoilt{0};
  std::vector<std::thread> team;
  for (int id = 0; id < threads; ++id) {
    team.emplace_back([&pool, &spoilt, id] {
      std::vector<Buffer> mine(held);
      for (int i = 0; i < rounds; ++i) {
        auto& buffer = mine[static_cast<std::size_t>(i % held)];
        const auto* old = static_cast<const std::int64_t*>(buffer.data());
        if (old != nullptr && (old[0] != id * rounds + i - held || old[7] != -old[0])) ++spoilt;
        buffer = Buffer(pool, i % 3 == 0 ? 64 : 128);
        auto* numbers = static_cast<std::int64_t*>(buffer.data());
        numbers[0] = id * rounds + i;
        numbers[7] = -numbers[0];
        const Buffer shared = buffer;
        const std::size_t in_use = pool.bytes_in_use();  // may be read at any time
        if (in_use < 64 || in_use > threads * (held + 1) * 128) ++spoilt;
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  CHECK(spoilt == 0);
  CHECK(pool.bytes_in_use() == 0);
  CHECK(pool.peak_bytes() <= threads * (held + 1) * 128);
  CHECK(pool.allocations() <= 2 * threads * (held + 1));
}

TEST_CASE("buffer: the last of all copies returns the memory") {
  Pool pool(&allocate, &release);
  Buffer empty;
  CHECK(empty.data() == nullptr);
  Buffer a(pool, 64);
  void* const data = a.data();
  {
    const Buffer copy = a;
    CHECK(copy.data() == data);
    CHECK(pool.bytes_in_use() == 64);
  }
  CHECK(pool.bytes_in_use() == 64);
  Buffer moved = std::move(a);
  CHECK(moved.data() == data);
  CHECK(a.data() == nullptr);  // NOLINT(bugprone-use-after-move): an empty buffer is what a move leaves
  CHECK(pool.bytes_in_use() == 64);

  const Buffer& same = moved;
  moved = same;
  CHECK(moved.data() == data);
  CHECK(pool.bytes_in_use() == 64);
  empty = moved;
  moved = Buffer();
  CHECK(empty.data() == data);
  CHECK(pool.bytes_in_use() == 64);
  empty = Buffer();
  CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("pool: the host's buffers stand at multiples of 64 bytes") {
  const Cpu cpu(1);
  std::vector<Buffer> buffers;
  for (std::size_t bytes = 0; bytes < 1000; bytes += 7) {
    buffers.emplace_back(cpu.pool(), bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(buffers.back().data()) % 64 == 0);
  }
}
