#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/swiglu.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <sstream>

using namespace mtpx;

namespace {

using Numbers = std::vector<double>;
using Matrix = Tensor<double, Cpu>;
using Node = Var<double, Cpu>;
using Leaf = Parameter<double, Cpu>;

Matrix numbers(const Cpu& cpu, const Numbers& values) {
  return Matrix::from(cpu, {static_cast<Index>(values.size())}, values);
}

/// y = factor * x; leaves its name in `log` when its backward runs.
Node times(const Node& x, double factor, std::string name = "", std::string* log = nullptr) {
  Matrix y(x.device(), x.shape());
  scale_into(x.device(), y.size(), factor, x.data(), Sink<double>{y.data(), false});
  return tape_of("times", x).record("times", y, [factor, name, log, dx = x.destination()](const Matrix& dy) {
    if (log != nullptr) *log += name;
    scale_into(dy.device(), dy.size(), factor, dy.data(), dx.sink());
  });
}

/// y = x, and x is kept for backward.
Node keep(const Node& x) {
  Matrix y(x.device(), x.shape());
  copy_on_device(x.device(), y.data(), x.data(), y.bytes());
  return tape_of("keep", x).record(
      "keep", y, [x](const Matrix& dy) { scale_into(dy.device(), dy.size(), 1.0, dy.data(), x.sink()); });
}

}  // namespace

TEST_CASE("tape: backward runs the steps last first and drops them") {
  const Cpu cpu(1);
  const Leaf p(numbers(cpu, {5}));
  Tape tape;
  std::string log;
  const Node a = times(tape.adopt(p), 2, "a", &log);
  const Node b = times(a, 3, "b", &log);
  const Node c = times(a, 7, "c", &log);
  const Node loss = times(add(b, c), 1, "d", &log);
  CHECK(tape.size() == 5);
  CHECK(loss.value().to_host() == Numbers{100});
  tape.backward(loss);
  CHECK(log == "dcba");
  CHECK(tape.size() == 0);
  CHECK(p.grad().to_host() == Numbers{20});
}

TEST_CASE("tape: a value used three times gathers three gradients") {
  const Cpu cpu(1);
  Tape tape;
  const Node x = tape.input(numbers(cpu, {2, -3}));
  const Node y = times(x, 2);
  const Node z = add(add(times(y, 1), times(y, 10)), times(y, 100));
  tape.backward(z, numbers(cpu, {1, 0.5}));
  CHECK(x.grad().to_host() == Numbers{222, 111});
  CHECK(!y.grad().defined());  // passed on, not kept

  Tape other;
  const Node twice = other.input(numbers(cpu, {1, 1}));
  other.backward(add(twice, twice), numbers(cpu, {1, 3}));
  CHECK(twice.grad().to_host() == Numbers{2, 6});
}

TEST_CASE("tape: constants and what depends only on them cost nothing in backward") {
  const Cpu cpu(1);
  Tape tape;
  std::string log;
  const Node c = tape.constant(numbers(cpu, {1}));
  const Node x = tape.input(numbers(cpu, {1}));
  const Node unused = times(times(x, 2, "u", &log), 2, "v", &log);
  const Node loss = add(times(x, 3, "x", &log), c);
  CHECK(!c.wants_grad());
  tape.backward(loss);
  CHECK(log == "x");  // u and v lead nowhere
  CHECK(x.grad().to_host() == Numbers{3});
  CHECK(!c.grad().defined());
  CHECK(!unused.grad().defined());
}

TEST_CASE("tape: a loss that depends on nothing has an empty backward") {
  const Cpu cpu(1);
  Tape tape;
  const Node x = tape.input(numbers(cpu, {1}));
  const Node ignored = times(x, 2);
  tape.backward(tape.constant(numbers(cpu, {1})));
  CHECK(tape.size() == 0);
  CHECK(!x.grad().defined());
}

TEST_CASE("tape: of several outputs, one without a gradient among others gets zeros") {
  const Cpu cpu(1);
  { const Matrix junk = numbers(cpu, {9, 9}); }
  Tape tape;
  const Node x = tape.input(numbers(cpu, {1, 2}));
  Numbers seen0, seen1, seen2;
  const auto split = [&](std::string op) {
    return tape.record(
        op, std::tuple(Matrix(cpu, {2}), Tensor<float, Cpu>(cpu, {3, 1}), Matrix(cpu, {1})),
        [&, dx = x.destination()](const Matrix& d0, const Tensor<float, Cpu>& d1, const Matrix& d2) {
          seen0 = d0.to_host();
          for (float d : d1.to_host()) seen1.push_back(static_cast<double>(d));
          seen2 = d2.to_host();
          CHECK(d1.shape() == Shape{3, 1});
          scale_into(cpu, 2, 1.0, d0.data(), dx.sink());
        });
  };
  const auto [a, b, c] = split("split");
  const auto [unused0, unused1, unused2] = split("nobody asks");
  tape.backward(times(c, 4));
  CHECK(seen0 == Numbers{0, 0});
  CHECK(seen1 == Numbers{0, 0, 0});
  CHECK(seen2 == Numbers{4});
  CHECK(x.grad().to_host() == Numbers{0, 0});
}

TEST_CASE("tape: backward frees activations on the way") {
  const Cpu cpu(1);
  const auto& pool = cpu.pool();
  const Leaf p(Matrix::zeros(cpu, {128}));
  constexpr std::size_t one = 1024;
  Tape tape;
  std::vector<std::size_t> in_use;
  const auto probe = [&](const Node& x) {  // notes how much is alive when backward passes here
    return tape.record("probe", x.value(), [&in_use, &pool, dx = x.destination()](const Matrix& dy) {
      in_use.push_back(pool.bytes_in_use());
      scale_into(dy.device(), dy.size(), 1.0, dy.data(), dx.sink());
    });
  };
  Node loss;
  {
    Node x = times(tape.adopt(p), 1);
    for (int i = 0; i < 4; ++i) x = keep(probe(x));
    loss = times(x, 1);
  }
  const std::size_t before = pool.bytes_in_use();
  CHECK(before == 6 * one);  // p, four kept inputs, loss
  tape.backward(loss, Matrix::zeros(cpu, {128}));
  REQUIRE(in_use.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    // p, the loss, its gradient, the one that passes, and what the steps still to come keep. What the keep()
    // above this probe kept is freed already.
    CAPTURE(i);
    CHECK(in_use[i] == (4 + 3 - i) * one);
  }
  loss = Node();
  CHECK(pool.bytes_in_use() == 2 * one);  // p and its gradient
  CHECK(p.grad().data() != nullptr);
}

TEST_CASE("tape: what no op saves lives no longer than its last Var") {
  const Cpu cpu(1);
  const Leaf p(Matrix::zeros(cpu, {128}));
  Tape tape;
  Node x = times(tape.adopt(p), 1);
  for (int i = 0; i < 100; ++i) x = add(x, x);
  CHECK(tape.size() == 101);
  CHECK(cpu.pool().bytes_in_use() == 2 * 1024);
  CHECK(cpu.pool().peak_bytes() == 3 * 1024);
}

TEST_CASE("tape: after backward of real ops only the parameters' gradients remain") {
  const Cpu cpu(1);
  const Leaf gain(Matrix::zeros(cpu, {64}));
  Parameter<double, Cpu> input(Matrix::zeros(cpu, {8, 64}));
  {
    Tape tape;
    Node x = tape.adopt(input);
    for (int i = 0; i < 3; ++i) {
      const Node y = rms_norm(x, gain, 1e-6);
      x = add(x, swiglu(y, y));
    }
    const Node loss = narrow(reshape(x, {1, 512}), 0, 1);
    x = Node();
    // The input, every y and x, one rstd for each norm, the gain. The loss is a view of the last x.
    CHECK(cpu.pool().bytes_in_use() == (1 + 3 + 3) * 4096 + 3 * 64 + 512);
    tape.backward(loss);
  }
  CHECK(cpu.pool().bytes_in_use() == 2 * (512 + 4096));
}

TEST_CASE("tape: in inference mode nothing is recorded and nothing is kept") {
  const Cpu cpu(1);
  const Leaf p(Matrix::zeros(cpu, {128}));
  Tape tape(Mode::inference);
  CHECK(!tape.recording());
  Node x = keep(tape.adopt(p));
  for (int i = 0; i < 10; ++i) x = keep(x);
  CHECK(tape.size() == 0);
  CHECK(!x.wants_grad());
  CHECK(x.tape() == &tape);
  CHECK(cpu.pool().bytes_in_use() == 2 * 1024);
  CHECK(cpu.pool().peak_bytes() == 3 * 1024);
  CHECK(!tape.input(numbers(cpu, {1})).wants_grad());
  const auto [a, b] = tape.record("two", std::tuple(numbers(cpu, {1}), numbers(cpu, {2})),
                                  [](const Matrix&, const Matrix&) { FAIL("recorded"); });
  CHECK(!a.wants_grad());
  CHECK(b.value().to_host() == Numbers{2});
}

TEST_CASE("tape: only a training forward counts for statistics, unless told otherwise") {
  Tape training;
  Tape inference(Mode::inference);
  CHECK(training.recording());
  CHECK(training.statistics());
  CHECK(!inference.statistics());
  training.set_statistics(false);
  CHECK(!training.statistics());
  CHECK(training.recording());
  inference.set_statistics(true);
  CHECK(inference.statistics());
}

TEST_CASE("tape: gradients accumulate over tapes until zero_grad") {
  const Cpu cpu(1);
  Leaf p(numbers(cpu, {1, 1}));
  const auto pass = [&](double factor) {
    Tape tape;
    tape.backward(times(tape.adopt(p), factor), numbers(cpu, {1, 2}));
  };
  pass(3);
  const double* const buffer = p.grad().data();
  pass(4);
  CHECK(p.grad().to_host() == Numbers{7, 14});
  CHECK(p.grad().data() == buffer);
  p.zero_grad();
  CHECK(!p.grad().defined());
  const std::size_t warm = cpu.pool().allocations();
  for (int i = 1; i < 5; ++i) {
    p.zero_grad();
    pass(i);
    CHECK(p.grad().data() == buffer);
  }
  CHECK(p.grad().to_host() == Numbers{4, 8});
  CHECK(cpu.pool().allocations() == warm);
}

TEST_CASE("tape: a frozen parameter is a constant") {
  const Cpu cpu(1);
  Parameter<double, Cpu> gain(numbers(cpu, {1, 2}));
  gain.freeze();
  Tape tape;
  const Node x = tape.input(Matrix::from(cpu, {1, 2}, Numbers{3, 4}));
  tape.backward(rms_norm(x, gain, 0.0), Matrix::from(cpu, {1, 2}, Numbers{1, 1}));
  CHECK(x.grad().defined());
  CHECK(!gain.grad().defined());
}

TEST_CASE("tape: 200000 ops in a row") {
  const Cpu cpu(1);
  const std::size_t before = cpu.pool().bytes_in_use();
  for (bool run : {true, false}) {
    Tape tape;
    const Node one = tape.constant(numbers(cpu, {1}));
    const Node x = tape.input(numbers(cpu, {0}));
    Node y = x;
    for (int i = 0; i < 200000; ++i) y = add(y, one);
    CHECK(y.value().to_host() == Numbers{200000});
    CHECK(tape.size() == 200000);
    if (!run) continue;  // a tape that is only dropped must not recurse either
    tape.backward(y);
    CHECK(x.grad().to_host() == Numbers{1});
  }
  CHECK(cpu.pool().bytes_in_use() == before);
}

TEST_CASE("tape: scopes name modules") {
  const Cpu cpu(1);
  Tape tape;
  CHECK(tape.path().empty());
  Node x = tape.input(Matrix(cpu, {2, 3}));
  x = add(x, x);
  {
    const Tape::Scope model(tape, "model");
    x = add(x, x);
    {
      const Tape::Scope layer(tape, "layers.0");
      const Tape::Scope mlp(tape, "mlp");
      CHECK(tape.path() == "model.layers.0.mlp");
      swiglu(x, x);
      CHECK_THROWS_WITH_AS(
          add(x, tape.input(Matrix(cpu, {3, 2}))),
          "[add] a and b need the same shape, or one is a row [D], a column [..., 1] or one number\n"
          "  a: [2, 3]\n"
          "  b: [3, 2]\n"
          "  in model.layers.0.mlp",
          ShapeError);
    }
    CHECK(tape.path() == "model");
    reshape(x, {6});
  }
  CHECK(tape.path().empty());
  std::ostringstream printed;
  tape.print(printed);
  CHECK(printed.str() ==
        "add [2, 3]\n"
        "model.add [2, 3]\n"
        "model.layers.0.mlp.swiglu [2, 3]\n"
        "model.reshape [6]\n");
}

TEST_CASE("tape: an exception leaves the scopes as they were") {
  Tape tape;
  try {
    const Tape::Scope scope(tape, "model");
    throw 1;
  } catch (int) {
  }
  CHECK(tape.path().empty());
}

TEST_CASE("tape: a second backward throws") {
  const Cpu cpu(1);
  Tape tape;
  const Node loss = times(tape.input(numbers(cpu, {1})), 1);
  tape.backward(loss);
  CHECK_THROWS_WITH_AS(tape.backward(loss),
                       "[backward] this tape's backward has run; make a new tape for the next step", Error);
}

TEST_CASE("tape: recording after backward throws") {
  const Cpu cpu(1);
  Tape tape;
  const Node loss = times(tape.input(numbers(cpu, {1})), 1);
  tape.backward(loss);
  CHECK_THROWS_WITH_AS(add(loss, loss),
                       "[add] this tape's backward has run; a tape serves one forward and one backward",
                       Error);
}

TEST_CASE("tape: the loss must be one number of this tape, and the tape must record") {
  const Cpu cpu(1);
  Tape tape;
  Tape other;
  Tape inference(Mode::inference);
  CHECK_THROWS_WITH_AS(tape.backward(tape.input(Matrix(cpu, {2, 3}))),
                       "[backward] the loss must be one number\n  loss: [2, 3]", ShapeError);
  CHECK_THROWS_WITH_AS(tape.backward(other.input(numbers(cpu, {1}))),
                       "[backward] the loss was not computed on this tape", Error);
  CHECK_THROWS_WITH_AS(tape.backward(Node(numbers(cpu, {1}))),
                       "[backward] the loss was not computed on this tape", Error);
  CHECK_THROWS_WITH_AS(inference.backward(inference.input(numbers(cpu, {1}))),
                       "[backward] this tape is in inference mode and recorded nothing", Error);
  tape.backward(tape.input(Matrix::zeros(cpu, {1, 1})));  // any shape of one element is a number
}

TEST_CASE("tape: seeds add up, and are the caller's to keep") {
  const Cpu cpu(1);
  Tape tape;
  const Node x = tape.input(numbers(cpu, {1, 2}));
  const Node a = times(x, 3);
  const Node b = times(a, 10);  // an output and its operand
  const Matrix dy = numbers(cpu, {1, 5});
  tape.seed(b, dy);
  tape.seed(a, dy);
  tape.seed(a, dy);
  tape.run();
  CHECK(x.grad().to_host() == Numbers{36, 180});
  CHECK(dy.to_host() == Numbers{1, 5});
}

TEST_CASE("tape: a seed has the shape of its output; its rows may be apart") {
  const Cpu cpu(1);
  Tape tape;
  const Node x = tape.input(Matrix::zeros(cpu, {2, 2}));
  CHECK_THROWS_WITH_AS(tape.backward(x, Matrix(cpu, {4, 1})),
                       "[backward] the gradient needs the shape of what it is of\n  y: [2, 2]\n  dy: [4, 1]",
                       ShapeError);
  tape.backward(x, Matrix::from(cpu, {2, 3}, Numbers{1, 2, 3, 4, 5, 6}).narrow_last(1, 2));
  CHECK(x.grad().to_host() == Numbers{2, 3, 5, 6});
}

TEST_CASE("tape: operands on two tapes, or on none, throw") {
  const Cpu cpu(1);
  Tape a;
  Tape b;
  const Node leaf(numbers(cpu, {1}));
  const Node on_a = a.input(numbers(cpu, {1}));
  const Node on_b = b.input(numbers(cpu, {1}));
  CHECK_THROWS_WITH_AS(add(on_a, on_b), "[add] the operands are on two different tapes", Error);
  CHECK_THROWS_WITH_AS(tape_of("op", on_b, leaf, on_a, on_b), "[op] the operands are on two different tapes",
                       Error);
  CHECK_THROWS_WITH_AS(add(leaf, leaf),
                       "[add] no operand is on a tape; start with embedding(tape, ...) or tape.input(...)",
                       Error);
  CHECK(&tape_of("op", leaf, on_a) == &a);
  CHECK(&tape_of("op", on_b, leaf) == &b);
  CHECK(a.size() + b.size() == 0);
}

TEST_CASE("tape: what was computed on it keeps value and gradient when it is gone, and is not computed on") {
  const Cpu cpu(1);
  Node x, y;
  for (const Mode mode : {Mode::training, Mode::inference}) {
    auto tape = std::make_unique<Tape>(mode);
    x = tape->input(numbers(cpu, {2, 3}));
    y = times(x, 2);
    if (mode == Mode::training) tape->backward(y, numbers(cpu, {1, 1}));
    const Node copy = y;
    tape.reset();
    // All of these read freed memory before; the first reported 3370750452 steps.
    const auto text = [](const char* op) {
      return cat('[', op, "] the tape of an operand is gone; it must live while ops use what is on it");
    };
    CHECK_THROWS_WITH_AS(add(y, y), text("add").c_str(), Error);
    CHECK_THROWS_WITH_AS(narrow(copy, 0, 1), text("narrow").c_str(), Error);
    CHECK_THROWS_WITH_AS(x.tape(), text("tape").c_str(), Error);
    Tape other;
    CHECK_THROWS_WITH_AS(add(other.constant(numbers(cpu, {1, 1})), y), text("add").c_str(), Error);
    CHECK_THROWS_WITH_AS(other.backward(y, numbers(cpu, {1, 1})), text("backward").c_str(), Error);
    CHECK(y.value().to_host() == Numbers{4, 6});
    if (mode == Mode::training) CHECK(x.grad().to_host() == Numbers{2, 2});
    CHECK(times(other.adopt(y), 2).value().to_host() == Numbers{8, 12});  // on a tape that lives
  }
}

TEST_CASE("tape: a loss or gradient that is undefined is refused") {
  const Cpu cpu(1);
  Tape tape;
  CHECK_THROWS_WITH_AS(tape.backward(Node()), "[backward] the loss must be one number\n  loss: undefined",
                       ShapeError);
  const Node y = times(tape.input(numbers(cpu, {2})), 2);
  CHECK_THROWS_WITH_AS(tape.backward(y, Matrix()),
                       "[backward] the gradient needs the shape of what it is of\n  y: [1]\n  dy: undefined",
                       ShapeError);
}
