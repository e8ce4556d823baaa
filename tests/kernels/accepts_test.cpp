#include <mtpx/kernels/verify.hpp>

#include <doctest/doctest.h>

using namespace mtpx;

TEST_SUITE_BEGIN("kernels/verify.hpp");

namespace {
constexpr double below_one = 0x1.fffffffffffffp-1;
}

TEST_CASE("accepts: u < p / q strictly, and its corners") {
  CHECK(accepts(0.3, 0.6, 0.0));
  CHECK(accepts(0.3, 0.6, 0.49));
  CHECK_FALSE(accepts(0.3, 0.6, 0.5));  // u = p / q
  CHECK_FALSE(accepts(0.0, 0.6, 0.0));  // a token of probability 0, even at u = 0
  CHECK_FALSE(accepts(0.3, 0.0, 0.0));  // q = 0: was never drafted
  CHECK(accepts(0.5, 0.5, below_one));  // p == q: always
  CHECK(accepts(0.5, 0.25, below_one));
  CHECK(accepts(1e-300, 1.0, 0.0));
}

TEST_SUITE_END();
