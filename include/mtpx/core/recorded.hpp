#pragma once
// Work that is the same every time, such as a training step: a device that can record it runs the record.

namespace mtpx {

/// Runs `work`, a function of no arguments, again and again. On the host this is a call. A device that
/// records its launches (see the specialisation beside the device) runs the function twice, then only replays
/// what it launched: no work on the host, no allocation, no gaps. So the function must launch the same
/// kernels on the same addresses every time, must not read the device, and may change nothing on the host
/// that its own next run would see; what differs between runs stands in device memory that is written before
/// the call. Results are tensors that somebody keeps; they hold the values of the last run.
template <typename D>
class Recorded {
 public:
  /// Runs `work`.
  template <typename Work>
  void operator()(const D&, const Work& work) {
    work();
  }
  /// The next call runs the function itself.
  void forget() {}
  /// Whether the next call takes no longer than those behind it: runs what is recorded, or there are no
  /// records.
  bool recorded() const { return true; }
};

}  // namespace mtpx
