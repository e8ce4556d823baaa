// The primitives on the GPU and on the host.

#include "support/primitives.hpp"
#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: primitives");

TEST_CASE("twins: ops of one operand") {
  for (std::size_t i = 0; i < one_operand_ops<float, Cpu>().size(); ++i) {
    const std::string name = one_operand_ops<float, Cpu>()[i].name;
    CAPTURE(name);
    TwinErrors errors(name, name == "x x^T" ? inner_rounding : one_rounding);
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7, 33}, Shape{2, 65, 384}, Shape{5, 9000}}) {
      CAPTURE(shape.str());
      errors.check([&]<typename T, typename D>() { return one_operand_ops<T, D>()[i].card(shape); });
      errors.check([&]<typename T, typename D>() {
        return one_operand_ops<T, D>()[i].card(shape).template strided<0>();
      });
    }
  }
}

TEST_CASE("twins: ops of two operands") {
  for (std::size_t i = 0; i < two_operand_ops<float, Cpu>().size(); ++i) {
    const auto op = two_operand_ops<float, Cpu>()[i];
    CAPTURE(op.name);
    CAPTURE(op.a.str());
    CAPTURE(op.b.str());
    TwinErrors errors(op.name + op.a.str() + op.b.str(), one_rounding);
    errors.check([&]<typename T, typename D>() { return two_operand_ops<T, D>()[i].card(); });
    if (op.name == "scatter") continue;  // which wants dense rows
    errors.check([&]<typename T, typename D>() {
      return two_operand_ops<T, D>()[i].card().template strided<0>().template strided<1>();
    });
  }
}

TEST_CASE("twins: rows and columns that 16 bytes fit into") {
  for (const Shape& other : {Shape{256}, Shape{70, 1}, Shape{1}}) {
    TwinErrors errors("mul [70, 256] " + other.str(), one_rounding);
    errors.check([&]<typename T, typename D>() {
      return Card(
          {"a", "b"}, [](const auto& a, const auto& b) { return mul(a, b); },
          activation(random_tensor<T, D>({70, 256}, 1)), activation(random_tensor<T, D>(other, 2)));
    });
  }
  TwinErrors errors("bias", one_rounding);
  errors.check([&]<typename T, typename D>() {
    return Card(
        {"x", "b"}, [](const auto& x, const auto& b) { return bias(x, b); },
        activation(random_tensor<T, D>({700, 256}, 1)), weight(random_tensor<T, D>({256}, 2)));
  });
}

TEST_CASE("twins: losses") {
  for (const Shape& shape : {Shape{3, 7, 9}, Shape{70, 1000}}) {
    for (std::size_t i = 0; i < losses<float, Cpu>(shape).size(); ++i) {
      TwinErrors errors(losses<float, Cpu>(shape)[i].name, inner_rounding);
      errors.check([&]<typename T, typename D>() { return losses<T, D>(shape)[i].card(shape); });
    }
  }
}

TEST_SUITE_END();
