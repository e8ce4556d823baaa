#pragma once
// The one place that gives work to threads.

#include <mtpx/core/cpu.hpp>

#include <algorithm>
#include <exception>
#include <vector>

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
/// carry sums to the next: that is what makes results independent of the number of threads. A device that
/// plans runs none.
template <typename Body>
void parallel_for(const Cpu& cpu, Index tasks, const Body& body, bool worth_sharing = true) {
  if (cpu.planned()) return;
  if (worth_sharing && tasks > 1 && cpu.threads() > 1) {
    const auto call = [](const void* context, Index task) {
      detail::run_task(*static_cast<const Body*>(context), task);
    };
    cpu.team().run(tasks, cpu.threads(), call, &body);
    return;
  }
  for (Index task = 0; task < tasks; ++task) detail::run_task(body, task);
}

/// The same for tasks that may throw: all are run, then the exception of the first task that had one comes
/// out.
template <typename Body>
void parallel_tasks(const Cpu& cpu, Index tasks, const Body& body) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(tasks));
  parallel_for(cpu, tasks, [&](Index task) {
    try {
      body(task);
    } catch (...) {
      errors[static_cast<std::size_t>(task)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
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
