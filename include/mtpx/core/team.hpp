#pragma once
// The host's threads: they share tasks, and where there are none they wait a moment, then sleep.

#include <mtpx/core/clock.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/core/thread.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace mtpx {

/// Threads that take tasks beside the one that asks for them. Whoever asks works, too, and does not wait for
/// a thread that has not begun: on a machine with other work, whose threads come late or not at all, it does
/// the tasks itself. Nobody spins for longer than `patience`; then a thread sleeps until there is work.
class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    stop_.store(true);
    round_.fetch_add(2);
    for (const auto& worker : workers_) wake(*worker);
    for (const auto& worker : workers_) worker->thread.join();
  }

  /// Runs call(context, task) for task = 0 .. tasks - 1 on at most `threads` threads, this one among them.
  /// Inside a task, or while another thread has the team, this thread does it all, in order. Tasks must not
  /// throw.
  void run(Index tasks, int threads, void (*call)(const void* context, Index task), const void* context) {
    threads = static_cast<int>(std::min<Index>(threads, tasks));
    const std::unique_lock<std::mutex> mine = threads > 1 && !in_task()
                                                  ? std::unique_lock(one_at_a_time_, std::try_to_lock)
                                                  : std::unique_lock<std::mutex>();
    if (!mine.owns_lock()) {
      for (Index task = 0; task < tasks; ++task) call(context, task);
      return;
    }
    const std::size_t helpers = start(static_cast<std::size_t>(threads - 1));
    call_ = call;
    context_ = context;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    helpers_.store(helpers, std::memory_order_relaxed);
    round_.fetch_add(1);  // odd: open
    for (std::size_t i = 0; i < helpers; ++i) wake(*workers_[i]);
    work();
    round_.fetch_add(1);  // even: closed, nobody comes in any more
    // Whoever is inside has a task that began: it takes as long as a task does, unless another program has
    // the processor.
    if (!soon([this] { return inside_.load() == 0; })) {
      for (int n = inside_.load(); n != 0; n = inside_.load()) inside_.wait(n);
    }
  }

 private:
  /// How long a thread spins. The gap between two parallel parts of a step is shorter, a time slice longer.
  static constexpr std::int64_t patience = 150'000;  // nanoseconds

  struct alignas(64) Worker {
    std::atomic<int> asleep{0};  // an int: what the system's wait takes as it is
    Team* team = nullptr;
    std::size_t place = 0;
    detail::Thread thread;
  };

  static bool& in_task() {
    thread_local bool inside = false;
    return inside;
  }

  /// Spins until done() or for as long as it has patience; returns whether it is done.
  template <typename Done>
  static bool soon(const Done& done) {
    for (std::int64_t until = 0;;) {
      for (int i = 0; i < 32; ++i) {
        if (done()) return true;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
      }
      const std::int64_t now = nanoseconds_now();
      if (until == 0) until = now + patience;
      if (now >= until) return false;
    }
  }

  /// At least `helpers` workers, or as many as the system gives.
  std::size_t start(std::size_t helpers) {
    while (workers_.size() < helpers) {
      auto worker = std::make_unique<Worker>();
      workers_.reserve(workers_.size() + 1);
      worker->team = this;
      worker->place = workers_.size();
      const auto serve = [](void* self) -> void* {
        Worker* const mine = static_cast<Worker*>(self);
        mine->team->serve(mine, mine->place);
        return nullptr;
      };
      if (!worker->thread.start(serve, worker.get())) return workers_.size();
      workers_.push_back(std::move(worker));
    }
    return helpers;
  }

  static void wake(Worker& worker) {
    if (worker.asleep.load() == 1 && worker.asleep.exchange(0) == 1) worker.asleep.notify_one();
  }

  /// Takes tasks until there are none.
  void work() {
    in_task() = true;
    for (Index task = next_.fetch_add(1, std::memory_order_relaxed); task < tasks_;
         task = next_.fetch_add(1, std::memory_order_relaxed))
      call_(context_, task);
    in_task() = false;
  }

  void serve(Worker* self, std::size_t place) {
    for (std::uint64_t seen = 0;;) {
      const auto called = [&] { return round_.load() != seen; };
      if (!soon(called)) {
        // Asleep first, then one more look: whoever opens a round does it the other way round.
        self->asleep.store(1);
        if (called()) {
          self->asleep.store(0);
        } else {
          self->asleep.wait(1);
        }
        if (!called()) continue;
      }
      seen = round_.load();
      if (stop_.load()) return;  // looked at last: the round that stops all is never taken for seen
      if (seen % 2 == 0 || place >= helpers_.load(std::memory_order_relaxed)) continue;
      // In first, then one more look: whoever closes a round counts afterwards who is inside.
      inside_.fetch_add(1);
      if (round_.load() == seen) work();
      if (inside_.fetch_sub(1) == 1) inside_.notify_all();
    }
  }

  std::mutex one_at_a_time_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<std::uint64_t> round_{0};  // odd while tasks can be taken
  std::atomic<std::size_t> helpers_{0};              // workers that may come in
  void (*call_)(const void* context, Index task) = nullptr;
  const void* context_ = nullptr;
  Index tasks_ = 0;
  alignas(64) std::atomic<Index> next_{0};
  alignas(64) std::atomic<int> inside_{0};  // workers that may be running a task
};

}  // namespace mtpx
