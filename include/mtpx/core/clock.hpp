#pragma once
// A clock that goes forward. The standard library's takes a compiler longer to read than most of core/.

#include <time.h>

#include <cstdint>

namespace mtpx {

/// Nanoseconds since some moment in the past; no change of the system's time moves it.
inline std::int64_t nanoseconds_now() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

}  // namespace mtpx
