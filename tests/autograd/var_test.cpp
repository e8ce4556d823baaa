#include <mtpx/autograd/var.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/core/meta.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace mtpx;

namespace {

using Floats = std::vector<float>;
using FloatMatrix = Tensor<float, Cpu>;

/// Writes `value` everywhere the way a backward kernel does.
void deliver(const Sink<float>& sink, Index count, float value) {
  if (!sink) return;
  for (Index i = 0; i < count; ++i) sink.data[i] = sink.accumulate ? sink.data[i] + value : value;
}

}  // namespace

TEST_CASE("var: without a slot it is a constant, without a tape a leaf") {
  const Cpu cpu(1);
  const Var<float, Cpu> nothing;
  CHECK(!nothing.defined());

  const Var<float, Cpu> x(FloatMatrix::from(cpu, {2, 2}, Floats{1, 2, 3, 4}));
  CHECK(x.defined());
  CHECK(!x.wants_grad());
  CHECK(x.tape() == nullptr);
  CHECK(x.slot() == nullptr);
  CHECK(!x.sink());
  CHECK(!x.grad().defined());
  CHECK(x.shape() == Shape{2, 2});
  CHECK(x.rows().count == 2);
  CHECK(x.data() == x.value().data());
  CHECK(&x.device().pool() == &cpu.pool());
  CHECK(cpu.pool().bytes_in_use() == 64);
}

TEST_CASE("parameter: the first gradient overwrites, the next ones add") {
  const Cpu cpu(1);
  {
    FloatMatrix junk =
        FloatMatrix::from(cpu, {3}, Floats{9, 9, 9});  // the gradient's buffer holds nines at first
  }
  const FloatMatrix value(cpu, {3});
  const FloatMatrix more_junk = FloatMatrix::from(cpu, {3}, Floats{9, 9, 9});
  Parameter<float, Cpu> p(value);
  CHECK(p.wants_grad());
  CHECK(p.tape() == nullptr);
  CHECK(!p.grad().defined());
  CHECK(!p.slot()->grad.defined());  // no buffer before somebody writes
  // Was a segmentation fault.
  CHECK_THROWS_WITH_AS(p.grad().to_host(),
                       "[to_host] the tensor is undefined, as a gradient is before backward()", ShapeError);

  deliver(p.sink(), 3, 2);
  CHECK(p.grad().to_host() == Floats{2, 2, 2});
  deliver(p.sink(), 3, 5);
  deliver(p.destination().sink(), 3, 1);
  CHECK(p.grad().to_host() == Floats{8, 8, 8});

  const float* const buffer = p.grad().data();
  p.zero_grad();
  CHECK(!p.grad().defined());
  const Sink<float> again = p.sink();
  CHECK(!again.accumulate);
  CHECK(again.data == buffer);
  deliver(again, 3, 1);
  CHECK(p.grad().to_host() == Floats{1, 1, 1});
}

TEST_CASE("parameter: the gradient is dense, of the value's shape and of the accumulation type") {
  const Cpu cpu(1);
  const Parameter<bf16, Cpu> p(cpu, {4, 3});
  static_assert(std::is_same_v<decltype(p.grad()), Tensor<float, Cpu>>);
  const Sink<float> sink = p.sink();
  CHECK(!sink.accumulate);
  CHECK(p.grad().shape() == Shape{4, 3});
  CHECK(p.grad().contiguous());
  CHECK(p.grad().data() == sink.data);

  const auto slot = std::make_shared<detail::Slot<float, Cpu>>();
  const Var<float, Cpu> strided(FloatMatrix(cpu, {4, 8}).narrow_last(2, 3), slot, nullptr);
  CHECK(strided.rows().stride == 8);
  strided.sink();
  CHECK(strided.grad().shape() == Shape{4, 3});
  CHECK(strided.grad().row_stride() == 3);
}

TEST_CASE("parameter: a new one is NaN, not what its memory held before") {
  const Cpu cpu(2);
  { const FloatMatrix junk = FloatMatrix::from(cpu, {2, 2}, Floats{9, 8, 7, 6}); }
  const Parameter<float, Cpu> p(cpu, {2, 2});  // was 9, 8, 7, 6
  for (const float x : p.value().to_host()) CHECK(std::isnan(x));
  for (const bf16 x : Parameter<bf16, Cpu>(cpu, {3}).value().to_host()) CHECK(std::isnan(float{x}));
  for (const double x : Parameter<double, Cpu>(cpu, {3}).value().to_host()) CHECK(std::isnan(x));
  CHECK(Parameter<float, Meta>(Meta(), {1 << 20, 1 << 20}).shape() == Shape{1 << 20, 1 << 20});
}

TEST_CASE("var: item and << are its value's") {
  const Var<float, Cpu> x(FloatMatrix::from(Cpu(1), {1, 1}, Floats{7}));
  CHECK(x.item() == 7);
  CHECK(cat(x) == "float [1, 1]\n[[7]]");
  CHECK(cat(Var<float, Cpu>()) == "float undefined");
  CHECK_THROWS_AS((Var<float, Cpu>(FloatMatrix(Cpu(1), {2})).item()), ShapeError);
}

TEST_CASE("parameter: moves and never copies") {
  using P = Parameter<float, Cpu>;
  static_assert(!std::is_copy_constructible_v<P> && !std::is_copy_assignable_v<P>);
  static_assert(std::is_move_constructible_v<P> && std::is_move_assignable_v<P>);
  static_assert(std::is_convertible_v<const P&, Weight<float, Cpu>>);

  const Cpu cpu(1);
  P a(cpu, {2});
  deliver(a.sink(), 2, 3);
  const float* const value = a.data();
  const P b = std::move(a);
  CHECK(b.data() == value);
  CHECK(b.grad().to_host() == Floats{3, 3});

  // As ops see it: another handle to the same value and the same gradient.
  const Weight<float, Cpu> w = b;
  deliver(w.sink(), 2, 1);
  CHECK(b.grad().to_host() == Floats{4, 4});
}

TEST_CASE("parameter: frozen, it has no gradient; thawed, it starts anew") {
  const Cpu cpu(1);
  Parameter<float, Cpu> p(cpu, {2});
  CHECK(!p.frozen());
  deliver(p.sink(), 2, 3);
  CHECK(cpu.pool().bytes_in_use() == 128);
  p.freeze();
  CHECK(p.frozen());
  CHECK(!p.wants_grad());
  CHECK(!p.sink());
  CHECK(!p.grad().defined());
  CHECK(cpu.pool().bytes_in_use() == 64);
  p.zero_grad();  // nothing to forget
  p.freeze(false);
  CHECK(!p.frozen());
  CHECK(!p.sink().accumulate);
  p.freeze(false);  // a second time changes nothing
  CHECK(p.sink().accumulate);
}

TEST_CASE("destination: keeps the place for a gradient, not the value") {
  const Cpu cpu(1);
  const auto slot = std::make_shared<detail::Slot<float, Cpu>>();
  auto x = std::make_unique<Var<float, Cpu>>(FloatMatrix(cpu, {2, 32}), slot, nullptr);
  const Destination<float, Cpu> destination = x->destination();
  CHECK(cpu.pool().bytes_in_use() == 256);
  x.reset();
  CHECK(cpu.pool().bytes_in_use() == 0);
  CHECK(destination.shape() == Shape{2, 32});
  deliver(destination.sink(), 64, 3);
  CHECK(slot->filled);
  CHECK(slot->grad.to_host() == Floats(64, 3.0f));
}
