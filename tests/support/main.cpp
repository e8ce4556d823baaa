// The main function of mtpx_tests and mtpx_cuda_tests. `mtpx_tests --help` lists the filters; `-tc=NAME` runs
// one test case.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "support/device.hpp"

#include <iostream>
#include <string>

int main(int argc, char** argv) {
#ifdef MTPX_TEST_CUDA
  if (std::string why; !mtpx::Cuda::available(0, &why)) {
    std::cout << "skipped: no GPU here: " << why << '\n';
    return 77;
  }
#endif
  return doctest::Context(argc, argv).run();
}
