// libFuzzer: see targets.hpp for what must hold, tests/fuzz/CMakeLists.txt for how to run it.

#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mtpx_test::fuzz_text({data, size});
  return 0;
}
