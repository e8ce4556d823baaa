#include <mtpx/train/schedule.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/train/schedule.hpp");

TEST_CASE("LearningRate: linear rise, constant, cosine, at the corners") {
  const LearningRate lr{1.0, 10, 0.5, 0.1};
  CHECK(lr.at(0, 100) == 0.1);  // the first step already learns
  CHECK(lr.at(4, 100) == 0.5);
  CHECK(lr.at(9, 100) == 1.0);
  CHECK(lr.at(10, 100) == 1.0);
  CHECK(lr.at(50, 100) == 1.0);
  CHECK(lr.at(51, 100) < 1.0);
  CHECK(lr.at(75, 100) == doctest::Approx(0.1 + 0.9 / 2).epsilon(1e-14));  // half of the cosine
  CHECK(lr.at(100, 100) == doctest::Approx(0.1).epsilon(1e-14));
  CHECK(lr.at(1000, 100) == doctest::Approx(0.1).epsilon(1e-14));
  for (Index step = 1; step < 120; ++step) {
    if (step < 10) CHECK(lr.at(step, 100) > lr.at(step - 1, 100));
    if (step >= 10) CHECK(lr.at(step, 100) <= lr.at(step - 1, 100));
  }
}

TEST_CASE("LearningRate: no rise, no end, a rise longer than the run, decay from the end") {
  CHECK(LearningRate{2.0, 0, 0.5, 0.1}.at(0, 100) == 2.0);
  CHECK(LearningRate{2.0, 0, 0.0, 0.1}.at(0, 100) == 2.0);
  CHECK(LearningRate{2.0, 0, 0.0, 0.1}.at(1, 100) < 2.0);
  for (const Index step : {10, 1000, 1000000}) CHECK(LearningRate{2.0, 10, 0.5, 0.1}.at(step, 0) == 2.0);
  const LearningRate longer{2.0, 200, 0.5, 0.1};
  CHECK(longer.at(99, 100) == 1.0);
  for (const Index step : {10, 99, 100}) CHECK(LearningRate{2.0, 10, 1.0, 0.1}.at(step, 100) == 2.0);
  CHECK(LearningRate{0.0, 10, 0.5, 0.1}.at(50, 100) == 0.0);
}

TEST_CASE("LambdaSchedule: early, then late from the switch on") {
  const LambdaSchedule lambda{0.1, 0.5};
  CHECK(lambda.at(0.3, 0, 100) == 0.3);
  CHECK(lambda.at(0.3, 49, 100) == 0.3);
  CHECK(lambda.at(0.3, 50, 100) == 0.1);
  CHECK(lambda.at(0.3, 99, 100) == 0.1);
  const LambdaSchedule published;  // 0.3 for 10 T of 14.8 T tokens
  CHECK(published.at(0.3, 9999, 14800) == 0.3);
  CHECK(published.at(0.3, 10001, 14800) == 0.1);
}

TEST_SUITE_END();
