#pragma once
// The op card: what every differentiable op must pass, whatever it computes. A test builds a Card from an op
// and its operands, compares the value with a naive loop (naive.hpp), and calls the check_ functions.

#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/core/rng.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace mtpx::test {

/// Everything is compared as doubles: every float and every bf16 is one.
using Numbers = std::vector<double>;
using Ids = Tensor<std::int32_t, Cpu>;

/// The device of all op tests.
inline const Cpu& device() {
  static const Cpu cpu(1);
  return cpu;
}

// --- Operands ---------------------------------------------------------------------------------------------

/// Uniform in [-1, 1): number `i` of the sequence `stream`.
inline double uniform(std::uint64_t stream, Index i) {
  constexpr std::uint64_t seed = 20241;
  return Philox::block(seed, stream, static_cast<std::uint64_t>(i))[0] / 2147483648.0 - 1.0;
}

/// shift + scale * uniform, rounded to bf16: cards in double, float and bf16 have the same operands.
template <typename T>
Tensor<T, Cpu> random_tensor(Shape shape, std::uint64_t stream, double scale = 1, double shift = 0) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i) {
    values.push_back(T(static_cast<float>(bf16(shift + scale * uniform(stream, i)))));
  }
  return Tensor<T, Cpu>::from(device(), shape, values);
}

/// Integers in [low, high).
inline Ids random_ids(Shape shape, std::uint64_t stream, Index low, Index high) {
  std::vector<std::int32_t> values;
  for (Index i = 0; i < shape.size(); ++i) {
    const double part = (uniform(stream, i) + 1) / 2;
    values.push_back(
        static_cast<std::int32_t>(low + static_cast<Index>(part * static_cast<double>(high - low))));
  }
  return Ids::from(device(), shape, values);
}

template <typename T>
Tensor<T, Cpu> tensor(Shape shape, const std::vector<T>& values) {
  return Tensor<T, Cpu>::from(device(), shape, values);
}

/// The same rows with gaps of NaN before, between and after them.
template <typename T>
Tensor<T, Cpu> with_gaps(const Tensor<T, Cpu>& x) {
  const Index width = x.shape().width();
  Tensor<T, Cpu> wide(x.device(), x.shape().with_width(width + 5));
  std::fill_n(wide.data(), wide.size(), T(std::numeric_limits<float>::quiet_NaN()));
  const Tensor<T, Cpu> view = wide.narrow_last(3, width);
  const std::vector<T> values = x.to_host();
  for (Index i = 0; i < x.size(); ++i) {
    view.data()[i / width * view.row_stride() + i % width] = values[static_cast<std::size_t>(i)];
  }
  return view;
}

/// A leaf whose gradient is wanted: an activation (gradient in T), a weight (gradient in acc_t<T>).
template <typename T>
Var<T, Cpu> activation(Tensor<T, Cpu> value) {
  return Var<T, Cpu>(std::move(value), std::make_shared<mtpx::detail::Slot<T, Cpu>>(), nullptr);
}
template <typename T>
Weight<T, Cpu> weight(Tensor<T, Cpu> value) {
  return Weight<T, Cpu>(std::move(value), std::make_shared<mtpx::detail::Slot<acc_t<T>, Cpu>>(), nullptr);
}

template <typename T>
Numbers host(const Tensor<T, Cpu>& x) {
  Numbers numbers;
  if (!x.defined()) return numbers;
  for (const T value : x.to_host()) numbers.push_back(static_cast<double>(value));
  return numbers;
}

// --- Comparison -------------------------------------------------------------------------------------------

/// |got - want| / |want| in the Euclidean norm; |got| where `want` is 0. Infinite where sizes differ.
inline double relative_error(const Numbers& got, const Numbers& want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(norm == 0 ? error : error / norm);
}

inline void check_close(const Numbers& got, const Numbers& want, double bound,
                        const std::string& what = "value") {
  const double error = relative_error(got, want);
  INFO(what << ": relative error " << error << ", bound " << bound);
  CHECK(error <= bound);  // false for NaN
}

inline void check_bits(const Numbers& got, const Numbers& want, const std::string& what = "value") {
  INFO(what << ": relative error " << relative_error(got, want));
  REQUIRE(got.size() == want.size());
  CHECK((got.empty() || std::memcmp(got.data(), want.data(), got.size() * sizeof(double)) == 0));
}

inline bool all_finite(const Numbers& x) {
  return std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value); });
}

// --- The card ---------------------------------------------------------------------------------------------

/// What an op gives: its value, and the gradients of its operands for a fixed random gradient of the value.
struct Result {
  Numbers value;
  std::vector<Numbers> grads;  ///< empty where there is none
};

/// How to run a card.
struct Run {
  unsigned frozen = 0;  ///< bit i: nobody wants the gradient of operand i
  int uses = 1;         ///< how often the op is applied to the same operands on one tape
  int tapes = 1;        ///< how many forwards and backwards add to the same gradients
};

/// sum_i y_i c_i, the loss of gradient checks.
inline Var<double, Cpu> inner(const Var<double, Cpu>& y, const Tensor<double, Cpu>& c) {
  const Numbers a = host(y.value());
  const Numbers b = host(c);
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return y.tape()->record("inner", tensor<double>({1}, {total}),
                          [b, to = y.destination()](const Tensor<double, Cpu>& scale) {
                            const Sink<double> dy = to.sink();
                            for (std::size_t i = 0; dy && i < b.size(); ++i) {
                              dy.data[i] = scale.data()[0] * b[i] + (dy.accumulate ? dy.data[i] : 0);
                            }
                          });
}

/// An op of the operands `Vars`: a function of Vars on a tape that returns a Var on that tape.
template <typename Op, typename... Vars>
class Card {
 public:
  Card(std::vector<std::string> names, Op op, Vars... operands)
      : names_(std::move(names)), op_(std::move(op)), operands_(std::move(operands)...) {}

  template <std::size_t i>
  const auto& operand() const {
    return std::get<i>(operands_);
  }
  template <std::size_t i>
  Numbers numbers() const {
    return host(operand<i>().value());
  }
  const std::string& name(std::size_t i) const { return names_[i]; }
  static constexpr std::size_t size = sizeof...(Vars);

  /// The same card with gaps between the rows of operand i.
  template <std::size_t i>
  Card strided() const {
    Card card = *this;
    auto& x = std::get<i>(card.operands_);
    x = std::remove_reference_t<decltype(x)>(with_gaps(x.value()), x.slot(), nullptr);
    return card;
  }

  /// Forward and backward. Gradient buffers start as NaN: a kernel that adds where it should overwrite shows.
  Result run(const Run& how = {}) const {
    std::apply([](const auto&... x) { (forget(x), ...); }, operands_);
    Result result;
    for (int i = 0; i < how.tapes; ++i) {
      Tape tape;
      for (int use = 0; use < how.uses; ++use) {
        const auto y = apply(tape, how.frozen, sequence());
        using T = typename std::decay_t<decltype(y)>::value_type;
        result.value = host(y.value());
        tape.seed(y, random_tensor<T>(y.shape(), 1000));
      }
      tape.run();
    }
    std::apply([&](const auto&... x) { (result.grads.push_back(host(x.grad())), ...); }, operands_);
    return result;
  }

  /// Every entry of every gradient against finite differences. The operands are double.
  void check_gradients(double bound = 1e-7, Index stride = 1) const {
    std::vector<GradcheckTarget<Cpu>> targets;
    std::apply([&](const auto&... x) { (targets.push_back({names_[targets.size()], x}), ...); }, operands_);
    Tensor<double, Cpu> c;
    const auto report = gradcheck<Cpu>(
        targets,
        [&](Tape& tape) {
          const auto y = apply(tape, 0, sequence());
          if (!c.defined()) c = random_tensor<double>(y.shape(), 1000);
          return inner(y, c);
        },
        1e-3, stride);
    INFO("worst of " << report.checked << ": " << report.where);
    CHECK(report.within(bound));
  }

  /// Gradients add up: twice the op on one tape, and two tapes, give twice the gradient.
  void check_accumulation(double bound = 1e-12) const {
    const Result once = run();
    for (const Run& how : {Run{.uses = 2}, Run{.tapes = 2}}) {
      const Result twice = run(how);
      for (std::size_t i = 0; i < size; ++i) {
        Numbers want = once.grads[i];
        for (double& g : want) g *= 2;
        check_close(twice.grads[i], want, bound,
                    names_[i] + (how.uses == 2 ? " used twice" : " over two tapes"));
      }
    }
  }

  /// A frozen operand gets no gradient and changes nobody else's.
  void check_frozen() const {
    const Result all = run();
    constexpr unsigned every = (1U << size) - 1;
    for (unsigned frozen = 1; frozen <= every; ++frozen) {
      const Result some = run({.frozen = frozen});
      for (std::size_t i = 0; i < size; ++i) {
        check_bits(some.grads[i], (frozen >> i & 1U) != 0 ? Numbers() : all.grads[i], names_[i]);
      }
    }
  }

  /// Value and gradients have the same bits at 1, 2 and 3 threads. Use sizes that make several tasks.
  void check_threads() const {
    const Result one = run();
    for (const int threads : {2, 3}) {
      device().set_threads(threads);
      const Result several = run();
      device().set_threads(1);
      INFO(threads << " threads");
      check_same_bits(several, one);
    }
  }

  void check_same_bits(const Result& got, const Result& want) const {
    check_bits(got.value, want.value);
    for (std::size_t i = 0; i < size; ++i)
      check_bits(got.grads[i], want.grads[i], "gradient of " + names_[i]);
  }

  /// All that needs no sizes of its own.
  void check(double bound = 1e-7) const {
    check_gradients(bound);
    check_accumulation();
    check_frozen();
  }

 private:
  static constexpr auto sequence() { return std::index_sequence_for<Vars...>(); }

  template <std::size_t... i>
  auto apply(Tape& tape, unsigned frozen, std::index_sequence<i...>) const {
    return op_(on(tape, std::get<i>(operands_), (frozen >> i & 1U) != 0)...);
  }

  template <typename T, typename G>
  static Var<T, Cpu, G> on(Tape& tape, const Var<T, Cpu, G>& x, bool frozen) {
    return Var<T, Cpu, G>(x.value(), frozen ? nullptr : x.slot(), &tape);
  }

  template <typename T, typename G>
  static void forget(const Var<T, Cpu, G>& x) {
    auto& slot = *x.slot();
    if (slot.grad.defined()) std::memset(static_cast<void*>(slot.grad.data()), 0xff, slot.grad.bytes());
    slot.filled = false;
  }

  std::vector<std::string> names_;
  Op op_;
  std::tuple<Vars...> operands_;
};

/// Two cards give the same value and gradients: twins of two types, or an op and its composition.
template <typename A, typename B>
void check_same(const A& got, const B& want, double bound) {
  static_assert(A::size == B::size);
  const Result g = got.run();
  const Result w = want.run();
  check_close(g.value, w.value, bound);
  for (std::size_t i = 0; i < A::size; ++i)
    check_close(g.grads[i], w.grads[i], bound, "gradient of " + got.name(i));
}

// Bounds of a kernel's float and bf16 twins, relative in the norm. Both have the same operands, exactly.
//
// float against double: unit roundoff 2^-24 = 6e-8, sums of at most some hundred terms with errors that
// partly cancel, exponentials good to about 1e-7: 2e-6 leaves a factor of ten.
inline constexpr double float_bound = 2e-6;
// bf16 against float: sums are in float, so what counts are the roundings to bf16, 2^-9 = 2e-3 at most and
// 1.1e-3 in the root mean square each. Three in a row (an op inside, its output, its input's gradient) stay
// below 6e-3.
inline constexpr double bf16_bound = 6e-3;

}  // namespace mtpx::test
