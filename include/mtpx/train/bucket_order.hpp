#pragma once
// When buckets of gradients are final, while a backward runs.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace mtpx::detail {

/// Says which buckets a backward writes to no more. It watches one backward, counting how often each bucket
/// has been written to, and when last; the same backward then writes as often again, so a bucket that has had
/// its number is final. Buckets go in the order in which that first backward left them, on every rank.
///
/// writes(b), below: how often bucket b has been written to, ever   send(b): called once for each bucket
class BucketOrder {
 public:
  explicit BucketOrder(Index buckets = 0) : buckets_(static_cast<std::size_t>(buckets)) {
    for (Index b = 0; b < buckets; ++b) buckets_[static_cast<std::size_t>(b)].number = b;
  }

  /// Between the steps of a backward, before the first of them, too: sends what is final.
  template <typename Writes, typename Send>
  void look(const Writes& writes, const Send& send) {
    if (time_ == 0) {
      for (Bucket& bucket : buckets_) bucket.begun = bucket.seen = writes(bucket.number);
    }
    ++time_;
    if (!known_) return watch(writes);
    for (; next_ < buckets_.size() && left(buckets_[next_], writes) == 0; ++next_)
      send(buckets_[next_].number);
  }

  /// Behind a backward: sends the rest; all, where nobody has looked. Throws Error where a bucket that was
  /// sent before has been written to since.
  template <typename Writes, typename Send>
  void finish(const Writes& writes, const Send& send) {
    for (std::size_t i = 0; i < next_; ++i) {
      if (left(buckets_[i], writes) != 0)
        throw Error("[shards] a gradient that had left was written to: backwards of one step are not alike");
    }
    for (; next_ < buckets_.size(); ++next_) send(buckets_[next_].number);
    if (!known_ && time_ > 0) {
      ++time_;
      watch(writes);
      for (Bucket& bucket : buckets_) bucket.writes = bucket.seen - bucket.begun;
      std::stable_sort(buckets_.begin(), buckets_.end(),
                       [](const Bucket& a, const Bucket& b) { return a.last < b.last; });
      known_ = true;
    }
    next_ = 0;
    time_ = 0;
  }

  /// The next backward is another one, or one was not finished.
  void forget() { *this = BucketOrder(static_cast<Index>(buckets_.size())); }

 private:
  struct Bucket {
    Index number = 0;
    Index begun = 0, seen = 0;   // writes before this backward, and when watch() saw it last
    Index writes = 0, last = 0;  // of a backward, and the time of the last one
  };

  template <typename Writes>
  static Index left(const Bucket& bucket, const Writes& writes) {
    return bucket.begun + bucket.writes - writes(bucket.number);
  }
  template <typename Writes>
  void watch(const Writes& writes) {
    for (Bucket& bucket : buckets_) {
      const Index now = writes(bucket.number);
      if (now != bucket.seen) bucket.last = time_;
      bucket.seen = now;
    }
  }

  std::vector<Bucket> buckets_;  // once known, in the order of their last writes
  std::size_t next_ = 0;         // that has not been sent
  Index time_ = 0;               // looks at this backward
  bool known_ = false;
};

}  // namespace mtpx::detail
