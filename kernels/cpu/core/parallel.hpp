#pragma once
// The one place that starts threads.

#include <mtpx/core/cpu.hpp>

#include <algorithm>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace mtpx::cpu {

namespace detail {

/// One copy of a task's code for all callers. Inlined into several, a compiler may fuse a * b + c * d
/// differently in each, and the bits would depend on whether threads were started.
template <typename Body>
#ifndef __clang__
__attribute__((noclone))
#endif
__attribute__((noinline)) void
run_task(const Body& body, Index task) {
  body(task);
}

}  // namespace detail

/// Runs body(task) for task = 0 .. tasks - 1, on the device's threads if the work is `worth_sharing`. Tasks
/// must not depend on each other and must not throw. Which thread runs which task is open, so a task may not
/// carry sums to the next: that is what makes results independent of the number of threads.
template <typename Body>
void parallel_for(const Cpu& cpu, Index tasks, const Body& body, bool worth_sharing = true) {
#ifdef _OPENMP
  const int threads = static_cast<int>(std::min<Index>(cpu.threads(), tasks));
  if (worth_sharing && threads > 1 && omp_in_parallel() == 0) {
    _Pragma("omp parallel for schedule(dynamic, 1) num_threads(threads)") for (Index task = 0; task < tasks;
                                                                               ++task)
        detail::run_task(body, task);
    return;
  }
#else
  static_cast<void>(cpu);
  static_cast<void>(worth_sharing);
#endif
  for (Index task = 0; task < tasks; ++task) detail::run_task(body, task);
}

/// Memory of one thread, kept between calls.
template <typename T>
T* scratch(Index count, int which) {
  thread_local std::vector<T> memory[4];
  auto& mine = memory[which];
  if (static_cast<Index>(mine.size()) < count) mine.resize(static_cast<std::size_t>(count));
  return mine.data();
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
