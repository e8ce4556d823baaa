// The primitives on the reference and on the host: values and all gradients, in double.

#include <mtpx/reference.hpp>

#include "support/primitives.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("reference: primitives");

namespace {

template <typename Got, typename Want, typename Make>
void check_list_of(const Got& got, const Want& want, double bound, const Make& make) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(got[i].name);
    check_same(make(got[i]), make(want[i]), bound);
  }
}

template <typename T>
void check_primitives(double bound) {
  const AllDigits digits;
  for (const Shape& shape : {Shape{1, 9}, Shape{2, 3, 5}, Shape{70, 33}}) {
    const auto make = [&](const auto& op) { return op.card(shape); };
    check_list_of(one_operand_ops<T, Cpu>(), one_operand_ops<T, Reference>(), bound, make);
    check_list_of(one_operand_ops<T, Cpu>(), one_operand_ops<T, Reference>(), bound,
                  [&](const auto& op) { return op.card(shape).template strided<0>(); });
    check_list_of(losses<T, Cpu>(shape), losses<T, Reference>(shape), bound, make);
  }
  check_list_of(two_operand_ops<T, Cpu>(), two_operand_ops<T, Reference>(), bound,
                [](const auto& op) { return op.card(); });
}

}  // namespace

TEST_CASE("reference: primitives") { check_primitives<double>(1e-12); }

TEST_SUITE_END();
