#pragma once
// System calls that fail on demand. This program's own open, write, pwrite, fsync and rename stand before the
// C library's, so that what is tested needs no hook.

namespace mtpx::test {

/// What becomes of the call.
enum class Fault {
  none,
  error,  ///< it fails
  part,   ///< of a write: half of the bytes are written, and it says so; other calls work
  lost,   ///< of a write: half of the bytes are written, and it says that all were; other calls work
  death,  ///< the process ends before it
};

/// The call after `count` more of them meets the fault; `error` is its errno.
void fault_at(int count, Fault fault, int error = 0);

/// All calls work again. Returns how many there were since fault_at().
int stop_faults();

}  // namespace mtpx::test
