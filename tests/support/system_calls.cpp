#include "support/system_calls.hpp"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>

namespace {
using mtpx::test::Fault;
std::atomic<bool> counting = false;
std::atomic<int> calls = 0;
int fault_call = 0, fault_error = 0;
Fault wanted = Fault::none;

/// Counts a call; what becomes of it.
Fault next() {
  if (!counting || calls++ != fault_call) return Fault::none;
  if (wanted == Fault::death) ::_exit(42);
  if (wanted == Fault::error) errno = fault_error;
  return wanted;
}
}  // namespace

namespace mtpx::test {
void fault_at(int count, Fault fault, int error) {
  fault_call = count;
  wanted = fault;
  fault_error = error;
  calls = 0;
  counting = true;
}

int stop_faults() {
  counting = false;
  return calls;
}
}  // namespace mtpx::test

extern "C" {
int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  if (next() == Fault::error) return -1;
  return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

ssize_t write(int file, const void* bytes, size_t count) {
  const Fault fault = next();
  if (fault == Fault::error) return -1;
  const size_t written = fault == Fault::none ? count : (count + 1) / 2;
  const ssize_t put = ::syscall(SYS_write, file, bytes, written);
  return fault == Fault::lost && put >= 0 ? static_cast<ssize_t>(count) : put;
}

ssize_t pwrite(int file, const void* bytes, size_t count, off_t offset) {
  const Fault fault = next();
  if (fault == Fault::error) return -1;
  const size_t written = fault == Fault::none ? count : (count + 1) / 2;
  const ssize_t put = ::syscall(SYS_pwrite64, file, bytes, written, offset);
  return fault == Fault::lost && put >= 0 ? static_cast<ssize_t>(count) : put;
}

// Nothing that a test can see depends on the disk, which would take most of the time.
int fsync(int) { return next() == Fault::error ? -1 : 0; }

int rename(const char* from, const char* to) noexcept {
  if (next() == Fault::error) return -1;
  return static_cast<int>(::syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}
}
