#include <mtpx/autograd/checkpoint.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/swiglu.hpp>

#include "support/device.hpp"

#include <doctest/doctest.h>

#include <cmath>

using namespace mtpx;
using test::Device;

namespace {

constexpr Index rows = 16;
constexpr Index width = 32;

template <typename T>
Tensor<T, Device> waves(const Device& device, const Shape& shape, double frequency) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i)
    values.push_back(T(std::sin(frequency * static_cast<double>(i + 1))));
  return Tensor<T, Device>::from(device, shape, values);
}

/// x + W2 swiglu(W0 norm(x), W1 norm(x))
template <typename T>
struct Layer {
  Parameter<acc_t<T>, Device> gain;
  Parameter<T, Device> w0, w1, w2;

  Layer(const Device& device, double frequency)
      : gain(waves<acc_t<T>>(device, {width}, frequency + 0.1)),
        w0(waves<T>(device, {2 * width, width}, frequency + 0.2)),
        w1(waves<T>(device, {2 * width, width}, frequency + 0.3)),
        w2(waves<T>(device, {width, 2 * width}, frequency + 0.4)) {}

  Var<T, Device> operator()(const Var<T, Device>& x) const {
    const Var<T, Device> y = rms_norm(x, gain, acc_t<T>(1e-6));
    const Var<T, Device> gate = linear(y, w0);
    const Var<T, Device> up = linear(y, w1);
    return add(x, linear(swiglu(gate, up), w2));
  }

  void append_gradients(std::vector<double>& all) const {
    for (const auto& grad : {w0.grad(), w1.grad(), w2.grad(), gain.grad()}) {
      for (acc_t<T> g : grad.to_host()) all.push_back(static_cast<double>(g));
    }
  }
};

struct Outcome {
  std::vector<double> numbers;  // the output, the input's gradient, the parameters' gradients
  std::size_t peak = 0;
  std::size_t kept = 0;  // between forward and backward
};

enum class How { plain, checkpointed, nested };

template <typename T>
Outcome run(How how) {
  const Device device = test::fresh_device();
  std::vector<Layer<T>> layers;
  for (int i = 0; i < 4; ++i) layers.emplace_back(device, 0.7 * i);
  const Tensor<T, Device> input = waves<T>(device, {rows, width}, 0.9);
  const Tensor<T, Device> dy = waves<T>(device, {rows, width}, 1.1);
  Outcome outcome;
  // The second pass adds its gradients to the first's; and all buffers of gradients exist.
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape;
    const Var<T, Device> x = tape.input(input);
    Var<T, Device> y = x;
    device.pool().reset_peak();
    const std::size_t before = device.pool().bytes_in_use();
    const auto single = [](const Layer<T>& layer) {
      return [&layer](const Var<T, Device>& in) { return layer(in); };
    };
    if (how == How::plain) {
      for (const auto& layer : layers) y = layer(y);
    } else if (how == How::checkpointed) {
      for (const auto& layer : layers) y = checkpoint(y, single(layer));
    } else {
      for (std::size_t i = 0; i < layers.size(); i += 2) {
        y = checkpoint(y, [&a = layers[i], &b = layers[i + 1], single](const Var<T, Device>& in) {
          return checkpoint(checkpoint(in, single(a)), single(b));
        });
      }
    }
    outcome.kept = device.pool().bytes_in_use() - before;
    tape.backward(y, dy);
    outcome.peak = device.pool().peak_bytes() - before;
    for (T v : y.value().to_host()) outcome.numbers.push_back(static_cast<double>(v));
    for (T v : x.grad().to_host()) outcome.numbers.push_back(static_cast<double>(v));
  }
  for (const auto& layer : layers) layer.append_gradients(outcome.numbers);
  return outcome;
}

}  // namespace

TEST_CASE_TEMPLATE("checkpoint: the same values and gradients to the last bit, in less memory", T, float,
                   double, bf16) {
  const Outcome plain = run<T>(How::plain);
  const Outcome checkpointed = run<T>(How::checkpointed);
  const Outcome nested = run<T>(How::nested);
  CHECK(plain.numbers.size() == 2 * 2 * rows * width + 4 * (3 * 2 * width * width + width));
  CHECK(plain.numbers == checkpointed.numbers);
  CHECK(plain.numbers == nested.numbers);
  for (double number : plain.numbers) REQUIRE(std::isfinite(number));

  constexpr std::size_t one = rows * width * sizeof(T);
  CHECK(checkpointed.kept == 4 * one);  // the output of every layer; the first input is the caller's
  CHECK(nested.kept == 2 * one);
  CHECK(plain.kept > 20 * one);
  CHECK(checkpointed.peak < plain.peak * 6 / 10);
  CHECK(nested.peak < plain.peak * 6 / 10);
}

TEST_CASE("checkpoint: keeps its input and nothing else, neither during the forward nor after it") {
  const Device device = test::fresh_device();
  const auto& pool = device.pool();
  const Parameter<double, Device> gain(waves<double>(device, {width}, 0.4));
  constexpr std::size_t one = rows * width * sizeof(double);
  Tape tape;
  Var<double, Device> y = tape.input(waves<double>(device, {rows, width}, 0.9));
  const std::size_t before = pool.bytes_in_use();
  y = checkpoint(y, [&gain](const Var<double, Device>& x) {
    Var<double, Device> z = x;
    for (int i = 0; i < 20; ++i) z = rms_norm(z, gain, 1e-6);  // would keep z each time
    return z;
  });
  CHECK(pool.bytes_in_use() == before + one);
  CHECK(pool.peak_bytes() < before + 3 * one);
  y = add(y, y);  // add keeps nothing, so that the block's output goes
  CHECK(pool.bytes_in_use() == before + one);
}

TEST_CASE("checkpoint: backward allocates nothing new once it is warm") {
  const Device device = test::fresh_device();
  const Layer<float> layer(device, 0.5);
  const auto input = waves<float>(device, {rows, width}, 0.9);
  const auto dy = waves<float>(device, {rows, width}, 0.3);
  std::size_t warm = 0;
  for (int step = 0; step < 5; ++step) {
    {
      Tape tape;
      tape.backward(checkpoint(tape.input(input), [&](const Var<float, Device>& x) { return layer(x); }), dy);
    }
    if (step == 1) warm = device.pool().allocations();
  }
  CHECK(device.pool().allocations() == warm);
}

TEST_CASE("checkpoint: several outputs, of which one may have no gradient") {
  using Node = Var<double, Device>;
  const Device device = test::fresh_device();
  const Layer<double> layer(device, 0.5);
  const auto input = waves<double>(device, {rows, width}, 0.9);
  const auto block = [&](const Node& x) {
    const Node y = layer(x);
    const Node sum = add(y, x);
    return std::tuple(y, sum, swiglu(x, y));
  };
  const auto gradients = [&](bool checkpointed) {
    Tape tape;
    const Node x = tape.input(input);
    const auto [a, b, unused] = checkpointed ? checkpoint(x, block) : block(x);
    tape.backward(add(swiglu(a, b), x), waves<double>(device, {rows, width}, 1.3));
    CHECK(unused.shape() == Shape{rows, width});
    return x.grad().to_host();
  };
  CHECK(gradients(true) == gradients(false));
}

TEST_CASE("checkpoint: a block may pass its input on, or return one output twice") {
  using Node = Var<double, Device>;
  const Device device = test::fresh_device();
  const auto input = waves<double>(device, {1}, 0.7);
  const auto gradient = [&](bool checkpointed, const auto& block) {
    Tape tape;
    const Node x = tape.input(input);
    const auto [a, b] = checkpointed ? checkpoint(x, block) : block(x);
    tape.backward(add(swiglu(a, b), x));
    return x.grad().to_host()[0];
  };
  const auto passed_on = [](const Node& x) { return std::tuple(x, add(x, x)); };
  const auto twice = [](const Node& x) {
    const Node y = add(x, x);
    return std::tuple(y, y);
  };
  const auto one_from_the_other = [](const Node& x) {
    const Node y = swiglu(x, x);
    return std::tuple(y, swiglu(y, x));
  };
  CHECK(gradient(true, passed_on) == doctest::Approx(gradient(false, passed_on)).epsilon(1e-14));
  CHECK(gradient(true, twice) == doctest::Approx(gradient(false, twice)).epsilon(1e-14));
  CHECK(gradient(true, one_from_the_other) ==
        doctest::Approx(gradient(false, one_from_the_other)).epsilon(1e-14));
}

TEST_CASE("checkpoint: a block whose output nobody uses is not run again") {
  const Device device = test::fresh_device();
  int runs = 0;
  Tape tape;
  const auto x = tape.input(waves<double>(device, {1}, 1));
  const auto unused = checkpoint(x, [&runs](const Var<double, Device>& in) {
    ++runs;
    return add(in, in);
  });
  CHECK(unused.value().to_host()[0] == 2 * x.value().to_host()[0]);
  tape.backward(add(x, x));
  CHECK(runs == 1);
  CHECK(x.grad().to_host()[0] == 2);
}

TEST_CASE("checkpoint: a forward counts for statistics exactly once") {
  using Node = Var<double, Device>;
  const Device device = test::fresh_device();
  std::string seen;  // for each run of the inner block: counted, or not
  const auto inner = [&seen](const Node& x) {
    seen += x.tape()->statistics() ? '1' : '0';
    return add(x, x);
  };
  const auto forward = [&](Tape& tape, bool nested) {
    seen.clear();
    const Node x = tape.input(Tensor<double, Device>::zeros(device, {1}));
    return nested ? checkpoint(x, [&](const Node& in) { return checkpoint(in, inner); })
                  : checkpoint(x, inner);
  };
  for (bool nested : {false, true}) {
    CAPTURE(nested);
    Tape training;
    const Node loss = forward(training, nested);
    CHECK(seen == "1");
    training.backward(loss);
    CHECK(seen == (nested ? "100" : "10"));

    Tape evaluation(Mode::inference);
    forward(evaluation, nested);
    CHECK(seen == "0");

    Tape uncounted;
    uncounted.set_statistics(false);
    uncounted.backward(forward(uncounted, nested));
    CHECK(seen == (nested ? "000" : "00"));
  }
}

TEST_CASE("checkpoint: in inference mode the block just runs") {
  const Device device = test::fresh_device();
  Tape tape(Mode::inference);
  const auto x = tape.input(Tensor<double, Device>::zeros(device, {1}));
  const auto y = checkpoint(x, [&tape](const Var<double, Device>& in) {
    CHECK(in.tape() == &tape);
    return add(in, in);
  });
  CHECK(tape.size() == 0);
  CHECK(y.tape() == &tape);
}

TEST_CASE("checkpoint: one step on the tape, and errors that name the whole path") {
  const Device device = test::fresh_device();
  Tape tape;
  const auto x = tape.input(Tensor<double, Device>::zeros(device, {2, 4}));
  const Tape::Scope layer(tape, "model.layers.3");
  checkpoint(x, [](const auto& in) { return add(in, in); });
  std::ostringstream printed;
  tape.print(printed);
  CHECK(printed.str() == "model.layers.3.checkpoint [2, 4]\n");

  const auto bad = [](const Var<double, Device>& in) {
    const Tape::Scope mlp(*in.tape(), "mlp");
    return narrow(in, 3, 2);
  };
  const char* const text =
      "[narrow] columns 3 to 5 must lie inside the rows\n"
      "  x: [2, 4]\n"
      "  in model.layers.3.mlp";
  CHECK_THROWS_WITH_AS(bad(x), text, ShapeError);
  CHECK_THROWS_WITH_AS(checkpoint(x, bad), text, ShapeError);
  CHECK_THROWS_WITH_AS(checkpoint(x, [&](const auto& in) { return checkpoint(in, bad); }), text, ShapeError);
  CHECK(tape.path() == "model.layers.3");
  CHECK(tape.size() == 1);
}

TEST_CASE("checkpoint: needs a tape") {
  const Device device = test::fresh_device();
  const Var<double, Device> leaf(Tensor<double, Device>::zeros(device, {1}));
  CHECK_THROWS_WITH_AS(
      checkpoint(leaf, [](const auto& x) { return x; }),
      "[checkpoint] no operand is on a tape; start with embedding(tape, ...) or tape.input(...)", Error);
}
