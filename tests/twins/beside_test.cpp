// Work beside a GPU's own, launched and recorded.

#include <mtpx/core/beside.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: beside");

TEST_CASE("Beside: behind what was queued before, before what is queued behind join(), recorded or not") {
  const Cuda own;
  constexpr Index count = 1 << 22, pieces = 8, runs = 5;
  const Tensor<float, Cuda> from(own, {pieces, count}), to = Tensor<float, Cuda>::zeros(own, {count}),
                                                        seen(own, {runs, 2});
  Beside<Cuda> beside(own);
  Recorded<Cuda> record;
  for (Index run = 0; run < runs; ++run) {
    record(own, [&] {
      for (Index p = 0; p < pieces; ++p) {
        float* const piece = from.data() + p * count;
        fill_value(own, count, static_cast<float>(p + 1), piece);
        beside([&](const Cuda& other) {
          REQUIRE(other.stream() != own.stream());
          fold_parts(other, count, 1, piece, Sink<float>{to.data(), true});
        });
      }
      beside.join();
      for (Index p = 0; p < pieces; ++p) fill_value(own, count, -1.0F, from.data() + p * count);
    });
    copy_on_device(own, seen.data() + 2 * run, to.data(), sizeof(float));
    copy_on_device(own, seen.data() + 2 * run + 1, to.data() + count - 1, sizeof(float));
  }
  const Numbers got = host(seen);
  for (Index run = 0; run < runs; ++run) {
    CHECK(nth(got, 2 * run) == 36 * static_cast<double>(run + 1));
    CHECK(nth(got, 2 * run + 1) == 36 * static_cast<double>(run + 1));
  }
}

TEST_CASE("Cuda: whoever looks while the host waits may end the wait; the work goes on") {
  const Cuda gpu;
  constexpr Index count = 1 << 26, launches = 400;
  const Tensor<float, Cuda> numbers(gpu, {count});
  const auto work = [&] {
    for (Index i = 0; i < launches; ++i) fill_value(gpu, count, static_cast<float>(i), numbers.data());
  };
  Index looks = 0, waits = 0;
  gpu.while_waiting([&](bool first) {
    waits += first ? 1 : 0;
    if (++looks == 3) throw Error("gone");
  });
  work();
  CHECK(error_text<Error>([&] { gpu.synchronize(); }) == "gone");
  CHECK(waits == 1);
  float last = 0;
  copy_to_host(gpu, &last, numbers.data() + count - 1, sizeof last);
  CHECK(last == launches - 1);
  CHECK(waits == 2);
  CHECK(looks > 3);
  gpu.while_waiting({});
  const Index before = looks;
  work();
  gpu.synchronize();
  CHECK(looks == before);
}

TEST_SUITE_END();
