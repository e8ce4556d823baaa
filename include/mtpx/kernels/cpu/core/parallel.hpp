#pragma once
// The one place that gives work to threads.

#include <mtpx/core/cpu.hpp>

#include <algorithm>
#include <exception>
#include <vector>

namespace mtpx::cpu {

namespace detail {

/// Runs call(body, task) for task = 0 .. tasks - 1. Not in line and not copied for a caller, and so is no
/// task's code: inlined into several places, a compiler may fuse a * b + c * d differently in each, and the
/// bits would depend on whether threads were started. And so it is compiled once, and not for every kernel.
#ifndef __clang__
__attribute__((noclone))
#endif
__attribute__((noinline)) inline void
run_tasks(const Cpu& cpu, Index tasks, bool worth_sharing, void (*call)(const void* body, Index task),
          const void* body) {
  if (cpu.planned()) return;
  if (worth_sharing && tasks > 1 && cpu.threads() > 1) {
    cpu.team().run(tasks, cpu.threads(), call, body);
    return;
  }
  for (Index task = 0; task < tasks; ++task) call(body, task);
}

template <typename Body>
void call_body(const void* body, Index task) {
  (*static_cast<const Body*>(body))(task);
}

/// A body for chunks of [0, count) that is run by their numbers.
template <typename Body>
struct Chunks {
  const Body& body;
  Index count, chunk;

  static void run(const void* chunks, Index task) {
    const Chunks& of = *static_cast<const Chunks*>(chunks);
    of.body(task * of.chunk, std::min(of.count, (task + 1) * of.chunk));
  }
};

}  // namespace detail

/// Runs body(task) for task = 0 .. tasks - 1, on the device's threads if the work is `worth_sharing`. Tasks
/// must not depend on each other and must not throw. Which thread runs which task is open, so a task may not
/// carry sums to the next: that is what makes results independent of the number of threads. A device that
/// plans runs none.
template <typename Body>
void parallel_for(const Cpu& cpu, Index tasks, const Body& body, bool worth_sharing = true) {
  detail::run_tasks(cpu, tasks, worth_sharing, &detail::call_body<Body>, &body);
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

/// Memory of one thread, kept between calls, its content not.
template <typename T>
T* scratch(Index count, int which) {
  thread_local std::vector<T> memory[4];
  auto& mine = memory[which];
  const auto has = static_cast<Index>(mine.size());
  if (has < count) mine = std::vector<T>(static_cast<std::size_t>(std::max(count, 2 * has)));
  return mine.data();
}

/// Runs body(begin, end) over chunks of [0, count), each worth about the cost of starting a task.
/// `cost`: operations per item, roughly.
template <typename Body>
void parallel_chunks(const Cpu& cpu, Index count, Index cost, const Body& body) {
  constexpr Index task_cost = 32768;
  const Index chunk = std::max<Index>(1, task_cost / std::max<Index>(1, cost));
  const Index tasks = (count + chunk - 1) / chunk;
  const detail::Chunks<Body> chunks{body, count, chunk};
  detail::run_tasks(cpu, tasks, true, &detail::Chunks<Body>::run, &chunks);
}

}  // namespace mtpx::cpu
