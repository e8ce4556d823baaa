#include <mtpx/reference.hpp>

#include "support/not_finite.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_CASE("reference: logits that are not finite end the text with an error, however tokens are found") {
  check_not_finite<double, Reference>(mixture_config(1));
}
