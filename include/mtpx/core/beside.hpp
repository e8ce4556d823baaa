#pragma once
// Work that a device does beside its own.

#include <utility>

namespace mtpx {

/// Runs work beside what is queued on a device from then on, one piece behind the other. It reads and writes
/// memory that nobody hands on before join(), and takes none from the device's pool: whoever gets a buffer
/// next is queued behind the device's own work alone. A device that does one thing at a time does it at once;
/// for one that does not, see the specialisation beside it. It may be recorded (see Recorded), from the first
/// piece to join().
template <typename D>
class Beside {
 public:
  explicit Beside(D device) : device_(std::move(device)) {}

  /// work(device), a handle for work beside: behind all that has been queued so far.
  template <typename Work>
  void operator()(const Work& work) {
    work(device_);
  }
  /// What is queued from here on waits for all of it.
  void join() {}
  /// The host waits for it, where something threw before join().
  void forget() {}

 private:
  D device_;
};

}  // namespace mtpx
