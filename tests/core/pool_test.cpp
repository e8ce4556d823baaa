#include <mtpx/core/cpu.hpp>
#include <mtpx/core/pool.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <map>
#include <new>
#include <thread>
#include <utility>
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

// A device of little memory for pools that cut: its addresses are never touched.
constexpr std::size_t mib = std::size_t{1} << 20;
struct Little {
  static inline std::size_t capacity = 0, used = 0, next = 0;
  static inline std::map<void*, std::size_t> sizes{};

  static void* allocate(std::size_t bytes) {
    if (used + bytes > capacity) throw std::bad_alloc();
    used += bytes;
    next += bytes + mib;  // allocations never touch each other
    void* const data = reinterpret_cast<void*>(next);
    sizes[data] = bytes;
    return data;
  }
  static void release(void* data) {
    used -= sizes.at(data);
    sizes.erase(data);
  }
};

/// A pool that cuts, on a device with so much memory.
struct CuttingPool : Pool {
  explicit CuttingPool(std::size_t capacity) : Pool(start(capacity), &Little::release, Cutting::on) {}

 private:
  static Allocate start(std::size_t capacity) {
    Little::capacity = capacity;
    Little::used = 0;
    Little::sizes.clear();
    return &Little::allocate;
  }
};

char* address(const Buffer& buffer) { return static_cast<char*>(buffer.data()); }

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

TEST_CASE("pool that cuts: buffers stand side by side in one allocation, at multiples of 256 bytes") {
  CuttingPool pool(1024 * mib);
  const std::size_t asked_for[] = {0, 1, 256, 257, 100000};
  const std::size_t rounded[] = {256, 256, 256, 512, 100096};
  std::vector<Buffer> buffers;
  std::size_t total = 0;
  for (std::size_t i = 0; i < std::size(asked_for); ++i) {
    CAPTURE(asked_for[i]);
    buffers.emplace_back(pool, asked_for[i]);
    CHECK(address(buffers[i]) == address(buffers[0]) + total);
    total += rounded[i];
    CHECK(pool.bytes_in_use() == total);
  }
  CHECK(pool.allocations() == 1);
  CHECK(pool.reserved_bytes() == 32 * mib);  // more than is asked for, so that there are few
  CHECK(pool.peak_bytes() == total);
  const Buffer large(pool, 100 * mib + 1);
  CHECK(pool.reserved_bytes() == 134 * mib);  // whole pages of 2 MiB
  CHECK(pool.allocations() == 2);
}

TEST_CASE("pool that cuts: allocations grow with what is reserved") {
  CuttingPool pool(std::size_t{1} << 40);
  std::vector<Buffer> buffers;
  for (int i = 0; i < 1000; ++i) buffers.emplace_back(pool, 16 * mib);
  CHECK(pool.bytes_in_use() == 16000 * mib);
  CHECK(pool.reserved_bytes() < 19000 * mib);
  CHECK(pool.allocations() < 60);
}

TEST_CASE("pool that cuts: neighbours that are free become one, in whatever order they are given back") {
  const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& order : orders) {
    CuttingPool pool(32 * mib);
    std::vector<Buffer> thirds;
    for (int i = 0; i < 3; ++i) thirds.emplace_back(pool, 8 * mib);
    const Buffer rest(pool, 8 * mib);
    char* const begin = address(thirds[0]);
    for (const int i : order) thirds[static_cast<std::size_t>(i)] = Buffer();
    CHECK(pool.bytes_in_use() == 8 * mib);
    const Buffer whole(pool, 24 * mib);
    CHECK(address(whole) == begin);
    CHECK(pool.allocations() == 1);
  }
}

TEST_CASE("pool that cuts: a buffer comes from the smallest free block that is large enough") {
  CuttingPool pool(32 * mib);
  const auto sizes = {5, 1, 3, 1, 4, 1};  // MiB
  std::vector<Buffer> buffers;
  for (const int size : sizes) buffers.emplace_back(pool, static_cast<std::size_t>(size) * mib);
  char* const three = address(buffers[2]);
  char* const four = address(buffers[4]);
  for (const std::size_t i : {0U, 2U, 4U}) buffers[i] = Buffer();
  const Buffer exact(pool, 3 * mib);
  CHECK(address(exact) == three);
  const Buffer half(pool, 2 * mib);  // cut from 4, not from 5 or from the 17 that are left
  CHECK(address(half) == four);
  const Buffer other(pool, 2 * mib);
  CHECK(address(other) == four + 2 * mib);
  CHECK(pool.allocations() == 1);
}

TEST_CASE("pool that cuts: a warm loop allocates nothing and sees the same addresses") {
  CuttingPool pool(1024 * mib);
  const Buffer weights(pool, 3 * mib);
  std::vector<Buffer> kept;
  const auto step = [&] {  // as a forward that keeps activations, and a backward that gives them back
    std::vector<void*> seen;
    std::vector<Buffer> saved;
    for (std::size_t layer = 0; layer < 20; ++layer) {
      const Buffer temporary(pool, (layer % 3 + 1) * 700000);
      saved.emplace_back(pool, (layer % 5 + 1) * 300000);
      seen.push_back(temporary.data());
      seen.push_back(saved.back().data());
    }
    if (kept.empty()) kept.emplace_back(pool, 1234567);
    while (!saved.empty()) {
      const Buffer gradient(pool, 2000000);
      seen.push_back(gradient.data());
      saved.pop_back();
    }
    return seen;
  };
  step();
  step();
  const std::size_t warm = pool.allocations(), in_use = pool.bytes_in_use();
  const auto seen = step();
  pool.reset_peak();
  step();
  const std::size_t peak = pool.peak_bytes();
  for (int i = 0; i < 50; ++i) CHECK(step() == seen);
  CHECK(pool.allocations() == warm);
  CHECK(pool.bytes_in_use() == in_use);
  CHECK(pool.peak_bytes() == peak);
}

TEST_CASE("pool that cuts: trim gives back allocations of which nobody holds a part") {
  {
    CuttingPool pool(1024 * mib);
    Buffer a(pool, 32 * mib), b(pool, 32 * mib);
    const Buffer part(pool, mib);
    CHECK(pool.reserved_bytes() == 96 * mib);
    pool.trim();
    CHECK(pool.reserved_bytes() == 96 * mib);
    a = Buffer();
    pool.trim();
    CHECK(pool.reserved_bytes() == 64 * mib);
    CHECK(Little::used == 64 * mib);
    b = Buffer();
    const Buffer again(pool, 2 * mib);  // from the allocation that `part` stands in
    pool.trim();
    CHECK(Little::used == 32 * mib);
    CHECK(pool.bytes_in_use() == 3 * mib);
    CHECK(pool.allocations() == 3);
  }
  CHECK(Little::used == 0);
}

TEST_CASE("pool that cuts: a device that is full makes it give back what is unused, and then ask for less") {
  CuttingPool pool(100 * mib);
  Buffer a(pool, 40 * mib);
  const Buffer b(pool, 10 * mib);  // of 32 MiB
  CHECK(pool.reserved_bytes() == 72 * mib);
  a = Buffer();
  const Buffer c(pool, 60 * mib);  // takes the place of a
  CHECK(pool.reserved_bytes() == 92 * mib);
  CHECK(pool.allocations() == 3);
  const Buffer d(pool, 22 * mib);  // what is left beside b
  CHECK(pool.allocations() == 3);
  const Buffer e(pool, 7 * mib);  // 32 MiB are not there, 8 are
  CHECK(pool.reserved_bytes() == 100 * mib);
  CHECK(pool.bytes_in_use() == 99 * mib);
  const std::size_t peak = pool.peak_bytes();
  CHECK_THROWS_AS(Buffer(pool, 2 * mib), std::bad_alloc);
  CHECK(pool.bytes_in_use() == 99 * mib);
  CHECK(pool.peak_bytes() == peak);
  CHECK(pool.reserved_bytes() == 100 * mib);
  CHECK(pool.allocations() == 4);
  const Buffer last(pool, mib);
  CHECK(pool.bytes_in_use() == 100 * mib);
}

TEST_CASE("pool that cuts: no buffer ever overlaps another, and all is one again in the end") {
  CuttingPool pool(std::size_t{1} << 40);
  std::map<char*, std::pair<Buffer, std::size_t>> held;
  std::uint64_t state = 1;
  const auto random = [&state](std::uint64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33) % below;
  };
  std::size_t in_use = 0, peak = 0;
  int overlaps = 0;
  for (int i = 0; i < 20000; ++i) {
    if (held.empty() || random(100) < (i / 1000 % 2 == 0 ? 60 : 40)) {
      const std::size_t bytes = random(3) == 0 ? 256 * (1 + random(8)) : 256 * (1 + random(40000));
      Buffer buffer(pool, bytes);
      char* const begin = address(buffer);
      const auto above = held.lower_bound(begin);
      if (above != held.end() && above->first < begin + bytes) ++overlaps;
      if (above != held.begin() && std::prev(above)->first + std::prev(above)->second.second > begin)
        ++overlaps;
      held.emplace(begin, std::pair(std::move(buffer), bytes));
      in_use += bytes;
      peak = std::max(peak, in_use);
    } else {
      auto place = held.begin();
      std::advance(place, random(held.size()));
      in_use -= place->second.second;
      held.erase(place);
    }
    if (pool.bytes_in_use() != in_use || pool.peak_bytes() != peak) ++overlaps;
  }
  CHECK(overlaps == 0);
  const std::size_t reserved = pool.reserved_bytes();
  CHECK(reserved < 2 * peak);
  held.clear();
  CHECK(pool.bytes_in_use() == 0);
  CHECK(pool.reserved_bytes() == reserved);
  pool.trim();
  CHECK(pool.reserved_bytes() == 0);
  CHECK(Little::used == 0);
}

TEST_CASE("pool that keeps: nothing goes back while it lives, not even when the device is full") {
  const int before = alive;
  {
    Pool pool(&allocate, &release, Pool::Cutting::kept);
    void* data = nullptr;
    {
      const Buffer a(pool, 100), b(pool, 1 << 20);
      data = a.data();
      CHECK(pool.reserved_bytes() == std::size_t{1} << 21);  // both in one small allocation
    }
    pool.trim();
    CHECK(alive == before + 1);
    full = true;
    CHECK_THROWS_AS(Buffer(pool, std::size_t{1} << 26), std::bad_alloc);
    full = false;
    CHECK(alive == before + 1);
    const Buffer again(pool, 100);
    CHECK(again.data() == data);
    CHECK(pool.allocations() == 1);
  }
  CHECK(alive == before);
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
