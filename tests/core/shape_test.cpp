#include <mtpx/core/shape.hpp>

#include <doctest/doctest.h>

using mtpx::Index;
using mtpx::Rows;
using mtpx::Shape;
using mtpx::Sink;

TEST_CASE("shape: a stack of rows") {
  const Shape shape{2, 3, 4};
  CHECK(shape.rank() == 3);
  CHECK(shape[0] == 2);
  CHECK(shape[1] == 3);
  CHECK(shape[2] == 4);
  CHECK(shape.width() == 4);
  CHECK(shape.rows() == 6);
  CHECK(shape.size() == 24);
  CHECK(shape.str() == "[2, 3, 4]");
}

TEST_CASE("shape: every rank from 0 to 6") {
  CHECK(Shape::max_rank == 6);
  const Shape shapes[] = {{}, {7}, {2, 3}, {2, 3, 4}, {2, 3, 4, 5}, {2, 3, 4, 5, 6}, {2, 3, 4, 5, 6, 7}};
  const Index widths[] = {1, 7, 3, 4, 5, 6, 7};
  const Index rows[] = {1, 1, 2, 6, 24, 120, 720};
  const char* texts[] = {
      "[]", "[7]", "[2, 3]", "[2, 3, 4]", "[2, 3, 4, 5]", "[2, 3, 4, 5, 6]", "[2, 3, 4, 5, 6, 7]"};
  for (int rank = 0; rank <= Shape::max_rank; ++rank) {
    CAPTURE(rank);
    CHECK(shapes[rank].rank() == rank);
    CHECK(shapes[rank].width() == widths[rank]);
    CHECK(shapes[rank].rows() == rows[rank]);
    CHECK(shapes[rank].size() == rows[rank] * widths[rank]);
    CHECK(shapes[rank].str() == texts[rank]);
  }
  CHECK(Shape() == Shape{});
}

TEST_CASE("shape: an extent of 0 leaves no element") {
  CHECK(Shape{0}.size() == 0);
  CHECK(Shape{0}.rows() == 1);
  CHECK(Shape{0, 5}.rows() == 0);
  CHECK(Shape{0, 5}.width() == 5);
  CHECK(Shape{5, 0}.rows() == 5);
  CHECK(Shape{5, 0}.size() == 0);
  CHECK(Shape{2, 0, 3}.str() == "[2, 0, 3]");
}

TEST_CASE("shape: equal means the same rank and the same extents") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2, 3} != Shape{2, 4});
  CHECK(Shape{2, 3} != Shape{2, 3, 1});
  CHECK(Shape{1, 6} != Shape{6});
  CHECK(Shape{} != Shape{1});
  CHECK(Shape{} != Shape{0});
}

TEST_CASE("shape: other extents, and one more") {
  CHECK(Shape{2, 3, 4}.with_width(9) == Shape{2, 3, 9});
  CHECK(Shape{4}.with_width(9) == Shape{9});
  CHECK(Shape{}.with_width(9) == Shape{9});
  CHECK(Shape{2, 3, 4}.with_front(9) == Shape{9, 3, 4});
  CHECK(Shape{4}.with_front(9) == Shape{9});
  CHECK(Shape{2, 3, 4}.with_axis(1, 9) == Shape{2, 9, 4});
  CHECK(Shape{2, 3}.with_last_axis(4) == Shape{2, 3, 4});
  CHECK(Shape{}.with_last_axis(4) == Shape{4});
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1}.with_last_axis(2)), std::length_error);

  const Shape shape{2, 3};
  CHECK(shape.with_width(5).with_front(7) == Shape{7, 5});
  CHECK(shape == Shape{2, 3});
}

TEST_CASE("shape: counts have 64 bits") {
  const Shape shape{1 << 20, 3, 1 << 20};
  CHECK(shape.size() == Index{3} << 40);
  CHECK(Shape{Index{1} << 40}.str() == "[1099511627776]");
}

TEST_CASE("rows and sinks start empty") {
  const Rows rows;
  CHECK(rows.count == 0);
  CHECK(rows.width == 0);
  CHECK(rows.stride == 0);

  const Sink<float> nobody;
  CHECK(!nobody);
  CHECK(!nobody.accumulate);
  float number = 0;
  CHECK(Sink<float>{&number, true});
}
