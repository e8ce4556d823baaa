#include <mtpx/core/cpu.hpp>
#include <mtpx/core/meta.hpp>
#include <mtpx/core/print.hpp>

#include <doctest/doctest.h>

#include <iomanip>
#include <numeric>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/core/print.hpp");

namespace {

/// 0, 1, 2, ... in `shape`.
template <typename T>
Tensor<T, Cpu> numbered(const Shape& shape) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i) values.push_back(static_cast<T>(static_cast<float>(i)));
  return Tensor<T, Cpu>::from(Cpu(1), shape, values);
}

}  // namespace

TEST_CASE("<<: type, shape and every number of a small tensor") {
  CHECK(cat(numbered<float>({2, 3})) ==
        "float [2, 3]\n"
        "[[0, 1, 2],\n"
        " [3, 4, 5]]");
  CHECK(cat(numbered<double>({2, 2, 3})) ==
        "double [2, 2, 3]\n"
        "[[[ 0,  1,  2],\n"
        "  [ 3,  4,  5]],\n"
        " [[ 6,  7,  8],\n"
        "  [ 9, 10, 11]]]");
  CHECK(cat(numbered<bf16>({3})) == "bf16 [3]\n[0, 1, 2]");
  CHECK(cat(numbered<std::int32_t>({1, 1})) == "int32 [1, 1]\n[[0]]");
  CHECK(cat(numbered<float>({})) == "float []\n0");
  CHECK(cat(numbered<float>({2, 4}).narrow_last(1, 2)) == "float [2, 2], rows 4 apart\n[[1, 2],\n [5, 6]]");
}

TEST_CASE("<<: of many rows and columns the first and the last three") {
  CHECK(cat(numbered<float>({8, 8}).slice_front(7, 8)) == "float [1, 8]\n[[56, 57, 58, 59, 60, 61, 62, 63]]");
  CHECK(cat(numbered<float>({9})) == "float [9]\n[0, 1, 2, ..., 6, 7, 8]");
  CHECK(cat(numbered<float>({5, 2, 9})) ==
        "float [5, 2, 9]\n"
        "[[[ 0,  1,  2, ...,  6,  7,  8],\n"
        "  [ 9, 10, 11, ..., 15, 16, 17]],\n"
        " [[18, 19, 20, ..., 24, 25, 26],\n"
        "  ...,\n"
        "  [63, 64, 65, ..., 69, 70, 71]],\n"
        " [[72, 73, 74, ..., 78, 79, 80],\n"
        "  [81, 82, 83, ..., 87, 88, 89]]]");
  CHECK(cat(numbered<float>({1000, 1000})).size() < 400);
}

TEST_CASE("<<: in the stream's own format; nothing to see where nothing is") {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2) << numbered<float>({2});
  CHECK(out.str() == "float [2]\n[0.00, 1.00]");
  CHECK(cat(Tensor<float, Cpu>()) == "float undefined");
  CHECK(cat(numbered<float>({2, 0})) == "float [2, 0]");
  CHECK(cat(numbered<float>({0, 2})) == "float [0, 2]");
  CHECK(cat(Tensor<float, Meta>(Meta(), {4, 5})) == "float [4, 5], without memory");
}

TEST_SUITE_END();
