// A machine without NCCL, or with another file in its place: what is told. With it: docs/distributed.md.

#include <mtpx/comm/nccl_calls.hpp>

#include <cstdlib>
#include <string>

#include <doctest/doctest.h>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_CASE("NCCL that is not there, or is another library, is named") {
  const auto told = [](const char* file) {
    ::setenv("MTPX_NCCL", file, 1);
    const std::string text = error_text<DeviceError>([] { detail::NcclCalls(); });
    ::unsetenv("MTPX_NCCL");
    return text;
  };
  CHECK(told("/nonexistent/libnccl.so.2") ==
        "[nccl] /nonexistent/libnccl.so.2: cannot open shared object file: No such file or directory; "
        "several GPUs "
        "need NCCL, version 2.18 or later: install it, or name its file in MTPX_NCCL");
  CHECK(told("libm.so.6") == "[nccl] libm.so.6 has no ncclGetVersion: it is too old, or not NCCL");
}
