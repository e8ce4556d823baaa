#include <mtpx/train/bucket_order.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/bucket_order.hpp");

namespace {

/// Buckets that a backward writes to, step by step; what is sent, and behind which step.
struct WrittenBuckets {
  detail::BucketOrder order;
  std::vector<Index> writes;
  std::vector<std::pair<Index, Index>> sent;  // bucket, steps that had run

  explicit WrittenBuckets(Index buckets) : order(buckets), writes(static_cast<std::size_t>(buckets)) {}

  void backward(const std::vector<Index>& steps, bool looks = true) {
    sent.clear();
    Index done = 0;
    const auto count = [&](Index bucket) { return writes[static_cast<std::size_t>(bucket)]; };
    const auto send = [&](Index bucket) { sent.emplace_back(bucket, done); };
    for (const Index bucket : steps) {
      if (looks) order.look(count, send);
      ++writes[static_cast<std::size_t>(bucket)];
      ++done;
    }
    order.finish(count, send);
  }
};

using Sent = std::vector<std::pair<Index, Index>>;

}  // namespace

TEST_CASE("BucketOrder: a backward is watched, the next ones send what they write to no more") {
  WrittenBuckets run(4);
  const std::vector<Index> steps{3, 1, 3, 0, 1, 0};  // 2 is never written to
  run.backward(steps);
  CHECK(run.sent == Sent{{0, 6}, {1, 6}, {2, 6}, {3, 6}});
  for (int i = 0; i < 3; ++i) {
    run.backward(steps);
    CHECK(run.sent == Sent{{2, 0}, {3, 3}, {1, 5}, {0, 6}});
  }
  run.order.forget();
  run.backward({0, 1, 2, 3});
  CHECK(run.sent == Sent{{0, 4}, {1, 4}, {2, 4}, {3, 4}});
  run.backward({0, 1, 2, 3});
  CHECK(run.sent == Sent{{0, 1}, {1, 2}, {2, 3}, {3, 4}});
}

TEST_CASE("BucketOrder: nobody looks, nothing leaves early; what left and is written to is an error") {
  WrittenBuckets run(2);
  run.backward({0, 1});
  run.backward({0, 1}, false);
  CHECK(run.sent == Sent{{0, 2}, {1, 2}});
  run.backward({0, 1});
  CHECK(run.sent == Sent{{0, 1}, {1, 2}});
  CHECK(error_text<Error>([&] {
          run.backward({0, 1, 0});
        }) == "[shards] a gradient that had left was written to: backwards of one step are not alike");
}

TEST_SUITE_END();
