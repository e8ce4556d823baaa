#include <mtpx/core/cpu.hpp>
#include <mtpx/core/tensor.hpp>

#include <doctest/doctest.h>

#include <numeric>

using namespace mtpx;

namespace {

using Floats = std::vector<float>;
using FloatMatrix = Tensor<float, Cpu>;

/// 0, 1, 2, ... in `shape`.
FloatMatrix counting(const Cpu& cpu, const Shape& shape) {
  Floats values(static_cast<std::size_t>(shape.size()));
  std::iota(values.begin(), values.end(), 0.0f);
  return FloatMatrix::from(cpu, shape, values);
}

}  // namespace

TEST_CASE("tensor: an undefined one has no storage and makes no pool") {
  const FloatMatrix nothing;
  CHECK(!nothing.defined());
  CHECK(nothing.data_or_null() == nullptr);
  const FloatMatrix copy = nothing;
  CHECK(!copy.defined());
}

TEST_CASE("tensor: an undefined one says so to whoever asks for more") {
  const FloatMatrix nothing;
  const auto text = [](const auto& access) {
    try {
      access();
    } catch (const ShapeError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const auto refuses = [&](const char* name, const auto& access) {
    CHECK(text(access) == cat('[', name, "] the tensor is undefined, as a gradient is before backward()"));
  };
  refuses("data", [&] { return nothing.data(); });
  refuses("device", [&] { return &nothing.device(); });
  refuses("size", [&] { return nothing.size(); });
  refuses("size", [&] { return nothing.bytes(); });
  refuses("rows", [&] { return nothing.rows(); });
  refuses("item", [&] { return nothing.item(); });
  refuses("at", [&] { return nothing.at(); });
  refuses("to_host", [&] { return nothing.to_host(); });  // read one float from a null pointer before
  refuses("reshape", [&] { return nothing.reshape({1, 1}); });
  refuses("narrow_last", [&] { return nothing.narrow_last(0, 1); });
  refuses("slice_front", [&] { return nothing.slice_front(0, 1); });
  refuses("assign", [&] { nothing.assign(Floats{1}); });  // wrote one to it
  refuses("assign", [&] { nothing.assign_by([](Index, std::span<float>) {}); });
}

TEST_CASE("tensor: item is the only number") {
  const Cpu cpu(1);
  CHECK(FloatMatrix::from(cpu, {}, Floats{7}).item() == 7);
  CHECK(FloatMatrix::from(cpu, {1, 1}, Floats{7}).item() == 7);
  CHECK(counting(cpu, {2, 3}).narrow_last(2, 1).slice_front(1, 2).item() == 5);
  CHECK_THROWS_WITH_AS(counting(cpu, {2, 3}).narrow_last(1, 1).item(),
                       "[item] a tensor of one number\n  x: [2, 1], rows 3 apart", ShapeError);
  CHECK_THROWS_AS(FloatMatrix(cpu, {0}).item(), ShapeError);
}

TEST_CASE("tensor: at reads and writes one number, of views too; never outside") {
  const Cpu cpu(1);
  const FloatMatrix x = counting(cpu, {2, 3, 4});
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (Index k = 0; k < 4; ++k) CHECK(x.at(i, j, k) == static_cast<float>(12 * i + 4 * j + k));
    }
  }
  const FloatMatrix view = x.narrow_last(1, 2).slice_front(1, 2).reshape({3, 2});
  CHECK(view.at(2, 1) == 22);
  view.at(2, 1) = -1;
  CHECK(x.at(1, 2, 2) == -1);
  CHECK(x.reshape({24}).at(5) == 5);
  CHECK(FloatMatrix::from(cpu, {}, Floats{7}).at() == 7);

  const auto text = [](const char* indices, const char* shape) {
    return cat("[at] an index for each axis, inside it, not (", indices, ")\n  x: ", shape);
  };
  CHECK_THROWS_WITH_AS(view.at(3, 0), text("3, 0", "[3, 2], rows 4 apart").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(view.at(0, 2), text("0, 2", "[3, 2], rows 4 apart").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(view.at(-1, 0), text("-1, 0", "[3, 2], rows 4 apart").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(view.at(1), text("1", "[3, 2], rows 4 apart").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(view.at(1, 0, 0), text("1, 0, 0", "[3, 2], rows 4 apart").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(view.at(), text("", "[3, 2], rows 4 apart").c_str(), ShapeError);
}

TEST_CASE("tensor: a new one is dense") {
  const Cpu cpu(1);
  const FloatMatrix x(cpu, {2, 3, 4});
  CHECK(x.defined());
  CHECK(x.shape() == Shape{2, 3, 4});
  CHECK(x.size() == 24);
  CHECK(x.bytes() == 96);
  CHECK(x.row_stride() == 4);
  CHECK(x.rows().count == 6);
  CHECK(x.rows().width == 4);
  CHECK(x.rows().stride == 4);
  CHECK(x.contiguous());
  CHECK(&x.device().pool() == &cpu.pool());
  CHECK(cpu.pool().bytes_in_use() == 128);
  CHECK(reinterpret_cast<std::uintptr_t>(x.data()) % Cpu::alignment == 0);
}

TEST_CASE("tensor: a scalar is one number") {
  const Cpu cpu(1);
  const float one = 7;
  const FloatMatrix x = FloatMatrix::from(cpu, {}, std::span(&one, 1));
  CHECK(x.size() == 1);
  CHECK(x.to_host() == Floats{7});
  CHECK(x.reshape({1, 1}).to_host() == Floats{7});
}

TEST_CASE("tensor: zeros, numbers from the host and back") {
  const Cpu cpu(1);
  {
    const FloatMatrix junk = counting(cpu, {4, 4});  // the next one of its size gets its memory
  }
  CHECK(FloatMatrix::zeros(cpu, {4, 4}).to_host() == Floats(16, 0.0f));
  const FloatMatrix x = FloatMatrix::from(cpu, {2, 2}, Floats{1, 2, 3, 4});
  CHECK(x.to_host() == Floats{1, 2, 3, 4});
  x.assign(Floats{5, 6, 7, 8});
  CHECK(x.to_host() == Floats{5, 6, 7, 8});

  const std::vector<std::int32_t> ids{3, -1};
  CHECK(Tensor<std::int32_t, Cpu>::from(cpu, {2}, ids).to_host() == ids);
  const std::vector<bf16> halves{bf16(0.5f), bf16(-3.0f)};
  const auto back = Tensor<bf16, Cpu>::from(cpu, {2, 1}, halves).to_host();
  CHECK(back[0].bits == halves[0].bits);
  CHECK(back[1].bits == halves[1].bits);
}

TEST_CASE("tensor: as many values as elements") {
  const Cpu cpu(1);
  CHECK_THROWS_WITH_AS(FloatMatrix::from(cpu, {2, 3}, Floats(5)),
                       "[tensor] as many values as the shape has elements\n  shape: [2, 3]\n  values: [5]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(FloatMatrix(cpu, {2, 3}).assign(Floats(7)),
                       "[assign] as many values as a dense tensor has elements\n  x: [2, 3]\n  values: [7]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      FloatMatrix(cpu, {2, 3}).narrow_last(0, 2).assign(Floats(4)),
      "[assign] as many values as a dense tensor has elements\n  x: [2, 2], rows 3 apart\n  values: [4]",
      ShapeError);
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE("tensor: copies and views share storage; the last one returns it") {
  const Cpu cpu(1);
  FloatMatrix view;
  {
    const FloatMatrix x = counting(cpu, {4, 6});
    const FloatMatrix copy = x;
    CHECK(copy.data() == x.data());
    view = x.slice_front(1, 3).narrow_last(2, 3);
    CHECK(cpu.pool().bytes_in_use() == 128);
    copy.data()[8] = -1;
  }
  CHECK(cpu.pool().bytes_in_use() == 128);
  CHECK(view.to_host() == Floats{-1, 9, 10, 14, 15, 16});
  view = FloatMatrix();
  CHECK(cpu.pool().bytes_in_use() == 0);
}

TEST_CASE("tensor: may be the last owner of its device") {
  FloatMatrix x(Cpu(1), {4});
  x = FloatMatrix();
  CHECK(!x.defined());
  x = FloatMatrix::zeros(Cpu(1), {4});
  x = FloatMatrix::zeros(Cpu(2), {5});
  const FloatMatrix& same = x;
  x = same;
  CHECK(x.to_host() == Floats(5, 0.0f));
}

TEST_CASE("tensor: moved from, it is undefined") {
  const Cpu cpu(1);
  FloatMatrix x = counting(cpu, {2, 3});
  const FloatMatrix y = std::move(x);
  CHECK(y.to_host() == Floats{0, 1, 2, 3, 4, 5});
  CHECK(!x.defined());  // NOLINT(bugprone-use-after-move)
  CHECK(x.shape() == Shape{});
  x = y.slice_front(1, 2);
  CHECK(x.to_host() == Floats{3, 4, 5});
}

TEST_CASE("tensor: reshape") {
  const Cpu cpu(1);
  const FloatMatrix x = counting(cpu, {2, 6});
  const FloatMatrix y = x.reshape({3, 2, 2});
  CHECK(y.data() == x.data());
  CHECK(y.shape() == Shape{3, 2, 2});
  CHECK(y.row_stride() == 2);
  CHECK(y.to_host() == x.to_host());
  CHECK(x.shape() == Shape{2, 6});
  CHECK_THROWS_WITH_AS(x.reshape({5, 2}),
                       "[reshape] as many elements as before\n  from: [2, 6]\n  to: [5, 2]", ShapeError);
}

TEST_CASE("tensor: a strided view may be regrouped, but its rows stay whole") {
  const Cpu cpu(1);
  const FloatMatrix x = counting(cpu, {4, 3}).narrow_last(1, 2);
  CHECK(!x.contiguous());
  const FloatMatrix y = x.reshape({2, 2, 2});
  CHECK(y.row_stride() == 3);
  CHECK(y.to_host() == Floats{1, 2, 4, 5, 7, 8, 10, 11});
  CHECK_THROWS_WITH_AS(x.reshape({2, 4}),
                       "[reshape] a strided view keeps its width; make it dense with contiguous(x)\n"
                       "  from: [4, 2], rows 3 apart\n"
                       "  to: [2, 4]",
                       ShapeError);
  // A single row is dense wherever it stands.
  const FloatMatrix row = x.slice_front(2, 3);
  CHECK(row.contiguous());
  CHECK(row.row_stride() == 3);
  CHECK(row.reshape({2, 1}).to_host() == Floats{7, 8});
  CHECK(row.reshape({2, 1}).row_stride() == 1);
}

TEST_CASE("tensor: narrow_last") {
  const Cpu cpu(1);
  const FloatMatrix x = counting(cpu, {2, 2, 4});
  const FloatMatrix y = x.narrow_last(1, 2);
  CHECK(y.data() == x.data() + 1);
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(y.row_stride() == 4);
  CHECK(y.rows().count == 4);
  CHECK(y.rows().width == 2);
  CHECK(y.rows().stride == 4);
  CHECK(!y.contiguous());
  CHECK(y.bytes() == 32);
  CHECK(y.to_host() == Floats{1, 2, 5, 6, 9, 10, 13, 14});
  CHECK(y.narrow_last(1, 1).to_host() == Floats{2, 6, 10, 14});
  CHECK(x.narrow_last(0, 4).contiguous());
  CHECK(x.narrow_last(4, 0).size() == 0);
  CHECK(x.narrow_last(4, 0).to_host().empty());

  const auto text = [](const char* columns) {
    return std::string("[narrow_last] columns ") + columns + " must lie inside the rows\n  x: [2, 2, 4]";
  };
  CHECK_THROWS_WITH_AS(x.narrow_last(1, 4), text("1 to 5").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(x.narrow_last(-1, 2), text("-1 to 1").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(x.narrow_last(3, -1), text("3 to 2").c_str(), ShapeError);
}

TEST_CASE("tensor: slice_front") {
  const Cpu cpu(1);
  const FloatMatrix x = counting(cpu, {3, 2, 2});
  const FloatMatrix y = x.slice_front(1, 3);
  CHECK(y.data() == x.data() + 4);
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(y.row_stride() == 2);
  CHECK(y.to_host() == Floats{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(x.slice_front(0, 3).to_host() == x.to_host());
  CHECK(x.slice_front(2, 2).size() == 0);
  CHECK(x.slice_front(3, 3).to_host().empty());
  CHECK(x.narrow_last(1, 1).slice_front(1, 2).to_host() == Floats{5, 7});

  const FloatMatrix line = counting(cpu, {5});
  CHECK(line.slice_front(1, 4).to_host() == Floats{1, 2, 3});
  CHECK(line.slice_front(1, 4).contiguous());
  CHECK(line.slice_front(1, 4).slice_front(1, 2).to_host() == Floats{2});
  CHECK(line.narrow_last(1, 3).slice_front(2, 3).to_host() == Floats{3});

  const auto text = [](const char* entries, const char* shape) {
    return std::string("[slice_front] entries ") + entries + " must lie inside the first axis\n  x: " + shape;
  };
  CHECK_THROWS_WITH_AS(x.slice_front(1, 4), text("1 to 4", "[3, 2, 2]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(x.slice_front(-1, 2), text("-1 to 2", "[3, 2, 2]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(x.slice_front(2, 1), text("2 to 1", "[3, 2, 2]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(FloatMatrix(cpu, {}).slice_front(0, 1), text("0 to 1", "[]").c_str(), ShapeError);
}

TEST_CASE("tensor: without elements") {
  const Cpu cpu(1);
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{2, 0, 3}}) {
    CAPTURE(shape.str());
    const FloatMatrix x(cpu, shape);
    CHECK(x.defined());
    CHECK(x.size() == 0);
    CHECK(x.bytes() == 0);
    CHECK(x.contiguous());
    CHECK(x.to_host().empty());
    CHECK(x.reshape({7, 0}).shape() == Shape{7, 0});
    CHECK(x.slice_front(0, 0).to_host().empty());
    CHECK_NOTHROW(x.assign(Floats{}));
    CHECK(FloatMatrix::zeros(cpu, shape).to_host().empty());
    CHECK(FloatMatrix::from(cpu, shape, Floats{}).shape() == shape);
  }
  CHECK(cpu.pool().bytes_in_use() == 0);
}
