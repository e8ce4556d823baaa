#pragma once
// A thread, as core/team.hpp needs one. The standard library's header brings clocks, semaphores and stop
// tokens to every file.

#include <pthread.h>
#include <sched.h>

#include <algorithm>

namespace mtpx::detail {

/// A thread that runs `call(context)`. It must be joined before it is destroyed.
class Thread {
 public:
  Thread() = default;
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  /// False where the system has no more threads.
  bool start(void* (*call)(void*), void* context) {
    return ::pthread_create(&thread_, nullptr, call, context) == 0;
  }
  /// Returns when it has ended.
  void join() { ::pthread_join(thread_, nullptr); }

 private:
  pthread_t thread_{};
};

/// Processors that this process may run on, at least 1.
inline int processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace mtpx::detail
