#include <mtpx/kernels.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

using namespace mtpx;

namespace {

/// How often each task ran.
std::vector<int> runs_of(int threads, Index tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  cpu::parallel_for(Cpu(threads), tasks, [&](Index task) { ++runs[static_cast<std::size_t>(task)]; });
  return {runs.begin(), runs.end()};
}

using Chunks = std::set<std::pair<Index, Index>>;

Chunks chunks_of(int threads, Index count, Index cost) {
  Chunks chunks;
  std::mutex mutex;
  cpu::parallel_chunks(Cpu(threads), count, cost, [&](Index begin, Index end) {
    const std::lock_guard lock(mutex);
    CHECK(chunks.insert({begin, end}).second);
  });
  return chunks;
}

}  // namespace

TEST_CASE("parallel_for: every task runs once") {
  for (int threads : {1, 2, 3, 8}) {
    for (Index tasks : {0, 1, 2, 3, 7, 100, 1000}) {
      CAPTURE(threads);
      CAPTURE(tasks);
      CHECK(runs_of(threads, tasks) == std::vector<int>(static_cast<std::size_t>(tasks), 1));
    }
  }
  cpu::parallel_for(Cpu(2), -1, [](Index) { FAIL("there is no such task"); });
}

TEST_CASE("parallel_for: one thread takes the tasks in order") {
  std::vector<Index> order;
  cpu::parallel_for(Cpu(1), 5, [&](Index task) { order.push_back(task); });
  CHECK(order == std::vector<Index>{0, 1, 2, 3, 4});
}

TEST_CASE("parallel_for: inside a task it stays on the task's thread") {
  const Cpu cpu(3);
  std::vector<std::vector<Index>> inner(7);
  cpu::parallel_for(cpu, 7, [&](Index task) {
    auto& mine = inner[static_cast<std::size_t>(task)];  // unguarded: only one thread may come here
    cpu::parallel_for(cpu, 50, [&](Index i) { mine.push_back(i); });
  });
  for (const auto& tasks : inner) {
    REQUIRE(tasks.size() == 50);
    for (Index i = 0; i < 50; ++i) CHECK(tasks[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("parallel_for: no more threads than the device has, nor than there are tasks") {
  const auto team = [](int threads, Index tasks) {
    std::set<std::thread::id> seen;
    std::mutex mutex;
    const Cpu cpu(threads);
    for (int round = 0; round < 200; ++round) {
      cpu::parallel_for(cpu, tasks, [&](Index) {
        const std::lock_guard lock(mutex);
        seen.insert(std::this_thread::get_id());
      });
    }
    return seen.size();
  };
  CHECK(team(1, 10) == 1);
  CHECK(team(2, 10) <= 2);
  CHECK(team(3, 10) <= 3);
  CHECK(team(4, 2) <= 2);
  CHECK(team(4, 1) == 1);
}

TEST_CASE("parallel_chunks: the chunks tile the range and do not depend on the threads") {
  for (Index count : {0, 1, 5, 1000, 32768, 32769, 100000}) {
    for (Index cost : {0, 1, 3, 1000, 1000000}) {
      CAPTURE(count);
      CAPTURE(cost);
      const Chunks chunks = chunks_of(1, count, cost);
      Index at = 0;
      for (const auto& [begin, end] : chunks) {
        if (begin != at || end <= begin) FAIL("a hole or an overlap at ", at);
        at = end;
      }
      CHECK(at == count);
      if (count <= 1000) {
        CHECK(chunks == chunks_of(2, count, cost));
        CHECK(chunks == chunks_of(3, count, cost));
      }
    }
  }
}

TEST_CASE("parallel_chunks: cheap items share a chunk, dear ones have their own") {
  CHECK(chunks_of(2, 100, 1).size() == 1);
  CHECK(chunks_of(2, 100, 1 << 20).size() == 100);
  CHECK(chunks_of(2, 65536, 1).size() == 2);
  CHECK(chunks_of(2, 64, 1024).size() == 2);
}
