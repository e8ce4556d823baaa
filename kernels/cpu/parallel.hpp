#pragma once
// The one place that starts threads.

#include <mtpx/core/cpu.hpp>

#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace mtpx::cpu {

/// Runs body(task) for task = 0 .. tasks - 1, on the device's threads. Tasks must not depend on each other
/// and must not throw. Which thread runs which task is open, so a task may not carry sums to the next: that
/// is what makes results independent of the number of threads.
template <typename Body>
void parallel_for(const Cpu& cpu, Index tasks, const Body& body) {
#ifdef _OPENMP
  const int threads = static_cast<int>(std::min<Index>(cpu.threads(), tasks));
  if (threads > 1 && omp_in_parallel() == 0) {
    // NOLINTNEXTLINE
    _Pragma("omp parallel for schedule(dynamic, 1) num_threads(threads)") for (Index task = 0; task < tasks;
                                                                               ++task) body(task);
    return;
  }
#else
  static_cast<void>(cpu);
#endif
  for (Index task = 0; task < tasks; ++task) body(task);
}

/// Runs body(begin, end) over chunks of [0, count), each worth about the cost of starting a task.
/// `cost`: operations per item, roughly.
template <typename Body>
void parallel_chunks(const Cpu& cpu, Index count, Index cost, const Body& body) {
  constexpr Index task_cost = 32768;
  const Index chunk = std::max<Index>(1, task_cost / std::max<Index>(1, cost));
  const Index tasks = (count + chunk - 1) / chunk;
  parallel_for(cpu, tasks, [&](Index task) { body(task * chunk, std::min(count, (task + 1) * chunk)); });
}

}  // namespace mtpx::cpu
