#include <mtpx/core/cpu.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

using namespace mtpx;

namespace {

template <typename Body>
void run(Team& team, Index tasks, int threads, const Body& body) {
  team.run(
      tasks, threads, [](const void* b, Index task) { (*static_cast<const Body*>(b))(task); }, &body);
}

void nap(std::chrono::microseconds how_long) { std::this_thread::sleep_for(how_long); }

}  // namespace

TEST_CASE("team: every task runs once, round after round, for any number of threads and tasks") {
  Team team;
  std::vector<int> runs(64);
  for (int round = 0; round < 20000; ++round) {
    const Index tasks = round % 65;
    std::fill(runs.begin(), runs.end(), 0);
    run(team, tasks, 1 + round % 5, [&](Index task) { ++runs[static_cast<std::size_t>(task)]; });
    for (Index i = 0; i < 64; ++i) {
      if (runs[static_cast<std::size_t>(i)] != (i < tasks ? 1 : 0)) FAIL("round ", round, ", task ", i);
    }
  }
}

TEST_CASE("team: what a round wrote is there when it ends") {
  Team team;
  std::vector<long> numbers(1000, 0);  // unguarded: rounds must be apart
  for (int round = 0; round < 2000; ++round)
    run(team, 1000, 3, [&](Index task) { numbers[static_cast<std::size_t>(task)] += task; });
  for (Index i = 0; i < 1000; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == 2000 * i);
}

TEST_CASE("team: threads that went to sleep come back") {
  Team team;
  std::set<std::thread::id> seen;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> inside{0};
    std::vector<std::thread::id> by(2);
    // Two tasks of which each waits for the other: done only if two threads came.
    run(team, 2, 2, [&](Index task) {
      by[static_cast<std::size_t>(task)] = std::this_thread::get_id();
      ++inside;
      while (inside.load() < 2) nap(std::chrono::microseconds(20));
    });
    CHECK(by[0] != by[1]);
    nap(std::chrono::microseconds(round * 20));  // shorter and longer than they spin
  }
}

TEST_CASE("team: whoever asks does not wait for a thread that has not begun") {
  Team team;
  std::atomic<int> inside{0};
  run(team, 2, 2, [&](Index) {  // starts the second thread
    ++inside;
    while (inside.load() < 2) nap(std::chrono::microseconds(20));
  });
  // Asleep by now, it needs some microseconds to wake: tasks of none are done by then, nearly always.
  int alone = 0;
  for (int round = 0; round < 20; ++round) {
    nap(std::chrono::milliseconds(1));
    const auto me = std::this_thread::get_id();
    std::atomic<int> mine{0};
    run(team, 4, 2, [&](Index) { mine += std::this_thread::get_id() == me ? 1 : 0; });
    alone += mine == 4 ? 1 : 0;
  }
  CHECK(alone > 0);
}

TEST_CASE("team: a task stays on its thread, and so does a second thread that asks meanwhile") {
  Team team;
  std::atomic<bool> apart{true};
  run(team, 8, 3, [&](Index) {
    const auto me = std::this_thread::get_id();
    run(team, 20, 3, [&](Index) {
      if (std::this_thread::get_id() != me) apart = false;
    });
  });
  CHECK(apart);

  std::atomic<int> sums[2] = {0, 0};
  std::vector<std::thread> users;
  for (auto& sum : sums) {
    users.emplace_back([&team, &sum] {
      for (int round = 0; round < 500; ++round)
        run(team, 16, 2, [&](Index task) { sum += static_cast<int>(task); });
    });
  }
  for (auto& user : users) user.join();
  CHECK(sums[0] == 500 * 120);
  CHECK(sums[1] == 500 * 120);
}

TEST_CASE("team: it ends asleep, awake, or never started") {
  { const Team never; }
  for (int round = 0; round < 200; ++round) {
    Team team;
    run(team, 3, 3, [](Index) {});
    if (round % 2 == 0) nap(std::chrono::microseconds(100));
  }
}
