#include <mtpx/core/error.hpp>

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/tensor.hpp>

#include "support/allocations.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <new>
#include <string>

using namespace mtpx;

namespace {

template <typename Thrown, typename Other>
bool catches() {
  try {
    throw Thrown("text");
  } catch (const Other& error) {
    return std::string(error.what()) == "text";
  } catch (...) {
    return false;
  }
}

}  // namespace

TEST_CASE("errors: one base for all, and none is another's") {
  CHECK(catches<Error, std::runtime_error>());
  CHECK(catches<ShapeError, Error>());
  CHECK(catches<ConfigError, Error>());
  CHECK(catches<FileError, Error>());
  CHECK(catches<DeviceError, Error>());
  CHECK(catches<NumericError, Error>());
  CHECK(!catches<ShapeError, NumericError>());
  CHECK(!catches<ConfigError, FileError>());
  CHECK(!catches<Error, ShapeError>());
  CHECK(!catches<DeviceError, ShapeError>());
}

TEST_CASE("cat prints its arguments one after the other") {
  CHECK(cat("rows ", 3, " to ", 2.5, ' ', std::string("x"), std::string_view("y"), true) ==
        "rows 3 to 2.5 xy1");
}

TEST_CASE("cat: a text is whole, or there is none where memory ran out") {
  const std::string part(1000, 'x');
  for (std::size_t n = 0; n < 20; ++n) {
    std::string text;
    test::fail_allocation(n);
    try {
      text = cat(part, 1, part, 2.5, part);
    } catch (const std::bad_alloc&) {
    }
    test::stop_failing();
    CHECK((text.empty() || text.size() == 3004));
  }
}

// A sanitizer ends the program where memory runs out.
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
constexpr bool ends_without_memory = true;
#else
constexpr bool ends_without_memory = false;
#endif

TEST_CASE("a tensor for which the host has no memory: its bytes are named" *
          doctest::skip(ends_without_memory)) {
  const Cpu cpu(1);
  std::string text;
  try {
    Tensor<float, Cpu>(cpu, {Index{1} << 30, Index{1} << 30});
  } catch (const std::bad_alloc& error) {
    text = error.what();
  }
  CHECK(text == "[cpu] out of memory: 4611686018427387904 bytes asked for");
}

TEST_CASE("require is silent when the rule holds") {
  CHECK_NOTHROW(require(true, "op", "a rule", {{"x", Shape{1}}}, "model.layers.0"));
}

TEST_CASE("require: the rule, a line for each operand, the path") {
  CHECK_THROWS_WITH_AS(require(false, "op", "a rule"), "[op] a rule", ShapeError);
  CHECK_THROWS_WITH_AS(require(false, "op", "a rule", {}, "model.mtp.0"), "[op] a rule\n  in model.mtp.0",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      require(false, "linear", "w needs one column per column of x", {{"x", Shape{2, 3, 4}}, {"w", Shape{}}}),
      "[linear] w needs one column per column of x\n"
      "  x: [2, 3, 4]\n"
      "  w: []",
      ShapeError);
  CHECK_THROWS_WITH_AS(require(false, "add", "a and b need the same shape and dense rows",
                               {{"a", Shape{1}}, {"b", Shape{0, 2}}}, "model.layers.3.mlp"),
                       "[add] a and b need the same shape and dense rows\n"
                       "  a: [1]\n"
                       "  b: [0, 2]\n"
                       "  in model.layers.3.mlp",
                       ShapeError);
}

TEST_CASE("require: a tensor's text says where its rows are apart, and that it is undefined") {
  const Tensor<float, Cpu> x(Cpu(1), {2, 2, 6});
  const auto text = [](const Operand& operand) { return operand.str(); };
  CHECK(text({"x", x}) == "[2, 2, 6]");
  CHECK(text({"x", x.narrow_last(1, 4)}) == "[2, 2, 4], rows 6 apart");
  CHECK(text({"x", x.narrow_last(1, 4).reshape({4, 4}).slice_front(0, 1)}) == "[1, 4]");  // one row is dense
  CHECK(text({"x", Tensor<float, Cpu>()}) == "undefined");
  CHECK(text({"x", Shape{}}) == "[]");
  CHECK_THROWS_WITH_AS(require(false, "add", "a and b need the same shape and dense rows",
                               {{"a", x}, {"b", x.narrow_last(1, 4)}}, "mlp"),
                       "[add] a and b need the same shape and dense rows\n"
                       "  a: [2, 2, 6]\n"
                       "  b: [2, 2, 4], rows 6 apart\n"
                       "  in mlp",
                       ShapeError);
}

TEST_CASE("cat: a NaN has no sign, whatever made it; other numbers keep theirs") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinite = std::numeric_limits<double>::infinity();
  CHECK(cat(nan, ' ', std::copysign(nan, -1.0), ' ', -infinite, ' ', -0.0, ' ', -1.5F) ==
        "nan nan -inf -0 -1.5");
}
