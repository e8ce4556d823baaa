// A library to preload (LD_PRELOAD) that lets the calls of a process on some files fail, or ends the process
// in one:
//
//   FAULT_PATH   calls on paths that contain this text are counted; temporary names and descriptors too
//   FAULT_AT     the call, from 1, at which it happens
//   FAULT_DO     kill: the process ends before the call is made, as by kill -9; ENOSPC, EIO: the call fails
//   so, if
//                it is one that can (open, mkdir, write, fsync, rename); short: a write takes half of its
//                bytes; truncate: counts looks at a file's size alone, and empties the file behind that one
//   FAULT_LOG    file that the calls are appended to, one a line

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

using Write = ssize_t (*)(int, const void*, size_t);

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

std::mutex mutex;
long calls = 0;

bool truncates() {
  const char* what = std::getenv("FAULT_DO");
  return what != nullptr && std::strcmp(what, "truncate") == 0;
}

/// Counts a call, and does what is to be done at it. True: the caller fails, errno is set.
bool fault(const char* call, const char* path, bool can_fail, bool* half = nullptr) {
  static const char* const part = std::getenv("FAULT_PATH");
  if (part == nullptr || path == nullptr || std::strstr(path, part) == nullptr) return false;
  if (truncates() != (std::strcmp(call, "fstat") == 0)) return false;
  const std::lock_guard lock(mutex);
  ++calls;
  if (const char* log = std::getenv("FAULT_LOG")) {
    char line[5000];
    const int size = std::snprintf(line, sizeof line, "%ld %s %s\n", calls, call, path);
    const int file = next<int (*)(const char*, int, ...)>("open")(log, O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (next<Write>("write")(file, line, static_cast<size_t>(size)) != size) std::abort();
    ::close(file);
  }
  const char* at = std::getenv("FAULT_AT");
  if (at == nullptr || calls != std::atol(at)) return false;
  const char* what = std::getenv("FAULT_DO");
  if (what == nullptr) return false;
  if (std::strcmp(what, "kill") == 0) ::raise(SIGKILL);
  if (std::strcmp(what, "short") == 0 && half != nullptr) *half = true;
  if (!can_fail) return false;
  if (std::strcmp(what, "truncate") == 0) return true;
  errno = std::strcmp(what, "EIO") == 0 ? EIO : ENOSPC;
  return std::strcmp(what, "EIO") == 0 || std::strcmp(what, "ENOSPC") == 0;
}

/// The path of an open file; empty if it has none.
struct PathOf {
  char path[4096] = "";

  explicit PathOf(int descriptor) {
    char link[64];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t size = ::readlink(link, path, sizeof path - 1);
    path[size < 0 ? 0 : size] = '\0';
  }
};

bool fault(const char* call, int descriptor, bool* half = nullptr) {
  return fault(call, PathOf(descriptor).path, true, half);
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & (O_CREAT | O_TMPFILE)) != 0) {
    va_list rest;
    va_start(rest, flags);
    mode = static_cast<mode_t>(va_arg(rest, int));
    va_end(rest);
  }
  const bool writes = (flags & (O_WRONLY | O_RDWR)) != 0;
  if (fault(writes ? "open" : "read", path, writes)) return -1;
  return next<int (*)(const char*, int, ...)>("open")(path, flags, mode);
}
int mkdir(const char* path, mode_t mode) {
  if (fault("mkdir", path, true)) return -1;
  return next<int (*)(const char*, mode_t)>("mkdir")(path, mode);
}
ssize_t write(int file, const void* bytes, size_t size) {
  bool half = false;
  if (fault("write", file, &half)) return -1;
  return next<Write>("write")(file, bytes, half ? (size + 1) / 2 : size);
}
int fstat(int file, struct stat* status) noexcept {
  const int result = next<int (*)(int, struct stat*)>("fstat")(file, status);
  const PathOf opened(file);
  if (fault("fstat", opened.path, true)) return ::truncate(opened.path, 0);
  return result;
}
int fsync(int file) {
  if (fault("fsync", file)) return -1;
  return next<int (*)(int)>("fsync")(file);
}
int rename(const char* from, const char* to) {
  if (fault("rename", to, true)) return -1;
  return next<int (*)(const char*, const char*)>("rename")(from, to);
}
int unlink(const char* path) {
  fault("unlink", path, false);
  return next<int (*)(const char*)>("unlink")(path);
}
int unlinkat(int folder, const char* path, int flags) {
  fault("unlinkat", folder);
  errno = 0;
  return next<int (*)(int, const char*, int)>("unlinkat")(folder, path, flags);
}

}  // extern "C"
