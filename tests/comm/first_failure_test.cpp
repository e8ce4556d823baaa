// Which rank `mtpx launch` names (examples/mtpx/first_failure.hpp).

#include "../../examples/mtpx/first_failure.hpp"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx launch: first failure");

namespace {

constexpr int ended_well = 0, failed_by_file = 3, noticed = 8;
int code(int number) { return __W_EXITCODE(number, 0); }
int signal_of(int number) { return __W_EXITCODE(0, number); }

/// What is said of ranks that end so, in this order; which one has the others ended.
std::string said(const std::vector<std::pair<int, int>>& ends) {
  program::FirstFailure failure(noticed);
  std::string asks;
  for (const auto& [rank, status] : ends) {
    if (failure.add(rank, status)) asks += cat(" asks at ", rank);
  }
  return failure ? cat(failure.text(4), ", ", failure.code(), asks) : cat("none, ", failure.code(), asks);
}

}  // namespace

TEST_CASE("FirstFailure: who only noticed gives way, who was asked to end is not named") {
  CHECK(said({{0, code(ended_well)}, {1, code(ended_well)}}) == "none, 0");
  CHECK(
      said({{1, signal_of(SIGKILL)}, {0, code(noticed)}, {2, signal_of(SIGTERM)}, {3, signal_of(SIGKILL)}}) ==
      "rank 1 of 4 was ended by signal 9, 137 asks at 1");
  // The one that noticed is seen first.
  CHECK(said({{0, code(noticed)}, {2, code(noticed)}, {1, signal_of(SIGKILL)}, {3, signal_of(SIGTERM)}}) ==
        "rank 1 of 4 was ended by signal 9, 137 asks at 0");
  CHECK(said({{0, code(noticed)},
              {1, signal_of(SIGTERM)},
              {2, code(failed_by_file)},
              {3, signal_of(SIGKILL)}}) == "rank 2 of 4 ended with exit code 3, 3 asks at 0");
  // Nobody else failed.
  CHECK(said({{0, code(noticed)}, {1, signal_of(SIGTERM)}, {2, code(ended_well)}, {3, code(noticed)}}) ==
        "rank 0 of 4 ended with exit code 8, 8 asks at 0");
  CHECK(said({{3, code(failed_by_file)}, {1, signal_of(SIGKILL)}}) ==
        "rank 3 of 4 ended with exit code 3, 3 asks at 3");
  // A signal from elsewhere, before anybody was asked.
  CHECK(said({{2, signal_of(SIGTERM)}, {0, code(noticed)}}) ==
        "rank 2 of 4 was ended by signal 15, 143 asks at 2");
}

TEST_SUITE_END();
