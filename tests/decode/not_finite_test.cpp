#include "support/not_finite.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_CASE("generate: logits that are not finite end the text with an error, however tokens are found") {
  check_not_finite<float, Cpu>(mixture_config(1));
}
