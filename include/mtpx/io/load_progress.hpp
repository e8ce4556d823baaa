#pragma once
// How far the load of a model folder is.

#include <mtpx/io/weight_files.hpp>

#include <functional>
#include <mutex>

namespace mtpx {

/// How far a load is: bytes of the folder's tensors that are done of those that are to be. One that has a
/// checksum is to be done twice, read against it and then read into the model.
using LoadProgress = std::function<void(Index done, Index all)>;

namespace detail {

/// Counts what several threads are done with, and says it on one at a time.
class LoadCount {
 public:
  LoadCount(const LoadProgress& tell, const WeightFiles& files) : tell_(tell) {
    for (const auto& [name, weight] : files.weights()) {
      for (int times = weight.entry->checksum ? 2 : 1; times > 0; --times) all_ += weight.entry->bytes();
    }
  }
  void add(const SafeTensorsEntry& entry) {
    if (!tell_) return;
    const std::lock_guard lock(mutex_);
    done_ += entry.bytes();
    tell_(done_, all_);
  }
  /// Whatever the model has no use for, such as scales, is done, too.
  void finish() {
    if (tell_ && done_ < all_) tell_(all_, all_);
  }

 private:
  const LoadProgress& tell_;
  std::mutex mutex_;
  Index done_ = 0, all_ = 0;
};

}  // namespace detail

}  // namespace mtpx
