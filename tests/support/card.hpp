#pragma once
// The op card: what every differentiable op must pass, whatever it computes. A test builds a Card from an op
// and its operands, compares the value with the reference (reference.hpp), and calls the check_ functions.

#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/core/rng.hpp>

#include "support/device.hpp"

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
using Ints = std::vector<std::int32_t>;
using Ids = Tensor<std::int32_t, Device>;

/// Index arithmetic without casts everywhere.
template <typename V>
auto& nth(V& values, Index i) {
  return values[static_cast<std::size_t>(i)];
}

// --- Operands ---------------------------------------------------------------------------------------------

/// Uniform in [-1, 1): number `i` of the sequence `stream`.
inline double uniform(std::uint64_t stream, Index i) {
  constexpr std::uint64_t seed = 20241;
  return Philox::block(seed, stream, static_cast<std::uint64_t>(i))[0] / 2147483648.0 - 1.0;
}

/// A standard normal number: the first of block `i` of a stream. In normal.cpp.
double normal(std::uint64_t seed, std::uint64_t stream, Index i);

/// While one of these lives, random_tensor() has all the digits of its type: the products of bf16 numbers are
/// exact, so they do not tell how often a multiply-add rounds.
class AllDigits {
 public:
  AllDigits() { ++alive_; }
  AllDigits(const AllDigits&) = delete;
  AllDigits& operator=(const AllDigits&) = delete;
  ~AllDigits() { --alive_; }
  static bool wanted() { return alive_ > 0; }

 private:
  static inline int alive_ = 0;
};

/// shift + scale * uniform, rounded to bf16: cards in double, float and bf16 have the same operands.
template <typename T, typename D = Device>
Tensor<T, D> random_tensor(Shape shape, std::uint64_t stream, double scale = 1, double shift = 0) {
  std::vector<T> values;
  for (Index i = 0; i < shape.size(); ++i) {
    const double x = shift + scale * uniform(stream, i);
    values.push_back(AllDigits::wanted() ? static_cast<T>(x) : T(static_cast<float>(bf16(x))));
  }
  return Tensor<T, D>::from(device<D>(), shape, values);
}

/// Integers in [low, high).
template <typename D = Device>
Tensor<std::int32_t, D> random_ids(Shape shape, std::uint64_t stream, Index low, Index high) {
  std::vector<std::int32_t> values;
  for (Index i = 0; i < shape.size(); ++i) {
    const double part = (uniform(stream, i) + 1) / 2;
    values.push_back(
        static_cast<std::int32_t>(low + static_cast<Index>(part * static_cast<double>(high - low))));
  }
  return Tensor<std::int32_t, D>::from(device<D>(), shape, values);
}

/// [batch, time]: the place of each row in its sequence, counted from `start`.
inline Ids positions(Index batch, Index time, Index start = 0) {
  Ids p(device(), {batch, time});
  fill_positions(device(), batch, time, start, p.data());
  return p;
}

template <typename T, typename D = Device>
Tensor<T, D> tensor(Shape shape, const std::vector<T>& values) {
  return Tensor<T, D>::from(device<D>(), shape, values);
}

/// The same rows with gaps of NaN before, between and after them.
template <typename T, typename D>
Tensor<T, D> with_gaps(const Tensor<T, D>& x) {
  const Index width = x.shape().width();
  const T nan(std::numeric_limits<float>::quiet_NaN());
  const std::vector<T> values = x.to_host();
  std::vector<T> wide;
  for (auto row = values.begin(); row != values.end(); row += width) {
    wide.insert(wide.end(), 3, nan);
    wide.insert(wide.end(), row, row + width);
    wide.insert(wide.end(), 2, nan);
  }
  return Tensor<T, D>::from(x.device(), x.shape().with_width(width + 5), wide).narrow_last(3, width);
}

/// Overwrites a dense tensor with NaN, if T has one, else with -1.
template <typename T, typename D>
void poison(const Tensor<T, D>& x) {
  const std::vector<unsigned char> ones(x.bytes(), 0xff);
  copy_to_device(x.device(), x.data(), ones.data(), ones.size());
}

/// Leaves NaN in memory that the device hands out next: what a kernel reads before it writes it shows. (The
/// host's pool keeps buffers apart by size, so that there is nothing to leave it in.)
template <typename D>
void poison_free_memory(const D& on) {
  if constexpr (!std::is_same_v<D, Cpu>) poison(Tensor<float, D>(on, {1 << 17}));
}

/// A leaf whose gradient is wanted: an activation (gradient in T), a weight (gradient in acc_t<T>).
template <typename T, typename D>
Var<T, D> activation(Tensor<T, D> value) {
  return Var<T, D>(std::move(value), std::make_shared<mtpx::detail::Slot<T, D>>(), nullptr);
}
template <typename T, typename D>
Weight<T, D> weight(Tensor<T, D> value) {
  return Weight<T, D>(std::move(value), std::make_shared<mtpx::detail::Slot<acc_t<T>, D>>(), nullptr);
}

template <typename T, typename D>
Numbers host(const Tensor<T, D>& x) {
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
template <typename D>
Var<double, D> inner(const Var<double, D>& y, const Tensor<double, D>& c) {
  const Numbers a = host(y.value());
  const Numbers b = host(c);
  double total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return y.tape()->record("inner", tensor<double, D>({1}, {total}),
                          [c, to = y.destination()](const Tensor<double, D>& scale) {
                            scale_into(c.device(), c.size(), scale.to_host()[0], c.data(), to.sink());
                          });
}

/// An op of the operands `Vars`: a function of Vars on a tape that returns a Var on that tape.
template <typename Op, typename... Vars>
class Card {
 public:
  using D = typename std::tuple_element_t<0, std::tuple<Vars...>>::device_type;

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
    poison_free_memory(operand<0>().device());
    Result result;
    for (int i = 0; i < how.tapes; ++i) {
      Tape tape;
      for (int use = 0; use < how.uses; ++use) {
        const auto y = apply(tape, how.frozen, sequence());
        using T = typename std::decay_t<decltype(y)>::value_type;
        result.value = host(y.value());
        tape.seed(y, random_tensor<T, D>(y.shape(), 1000));
      }
      tape.run();
    }
    std::apply([&](const auto&... x) { (result.grads.push_back(host(x.grad())), ...); }, operands_);
    return result;
  }

  /// Every entry of every gradient against finite differences. The operands are double.
  void check_gradients(double bound = 1e-7, Index stride = 1) const {
    std::vector<GradcheckTarget<D>> targets;
    std::apply([&](const auto&... x) { (targets.push_back({names_[targets.size()], x}), ...); }, operands_);
    Tensor<double, D> c;
    const auto report = gradcheck<D>(
        targets,
        [&](Tape& tape) {
          const auto y = apply(tape, 0, sequence());
          if (!c.defined()) c = random_tensor<double, D>(y.shape(), 1000);
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

  /// Value and gradients have the same bits in other_ways(): at 1, 2 and 3 threads. Use sizes that make
  /// several tasks.
  void check_threads() const {
    const Result one = run();
    other_ways<D>([&] { check_same_bits(run(), one); });
  }

  /// The same with gaps between the rows of operand i. To the last bit on the host; a GPU may take another
  /// kernel for rows that cannot be read 16 bytes at a time, with another order of the same sums.
  template <std::size_t i>
  void check_strided() const {
    const Result got = strided<i>().run();
    if constexpr (std::is_same_v<D, Cpu>) return check_same_bits(got, run());
    const Result want = run();
    check_close(got.value, want.value, 1e-12, "value of strided " + names_[i]);
    for (std::size_t g = 0; g < size; ++g)
      check_close(got.grads[g], want.grads[g], 1e-12, "gradient of " + names_[g] + ", strided " + names_[i]);
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
  static Var<T, D, G> on(Tape& tape, const Var<T, D, G>& x, bool frozen) {
    return tape.adopt(Var<T, D, G>(x.value(), frozen ? nullptr : x.slot(), nullptr));
  }

  template <typename T, typename G>
  static void forget(const Var<T, D, G>& x) {
    auto& slot = *x.slot();
    if (slot.grad.defined()) poison(slot.grad);
    slot.filled = false;
  }

  std::vector<std::string> names_;
  Op op_;
  std::tuple<Vars...> operands_;
};

/// Two cards give the same value and gradients: twins of two types or two devices, or an op and its
/// composition.
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
