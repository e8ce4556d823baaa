#pragma once
// The host's kernels and the GPU's on the same operands. A twin test says how to make a card for a type and a
// device, and how far apart the two may be in bf16. In double and float they may not be apart at all: every
// sum has the same order on both.

#include "support/card.hpp"

#include <mtpx/kernels/cpu/core/simd.hpp>

#include <cstdio>
#include <string>

namespace mtpx::test {

/// What a build without fused multiply-add gives instead, and products of few rows, which a GPU sums in
/// another order: the same sums in double.
inline constexpr double double_bound = 1e-12;

/// Whether the host's kernels round a * b + c once, as every GPU does; if not, no bits can be equal.
inline bool host_fuses() {
  volatile double x = 1 + 0x1p-52, y = 1 - 0x1p-52, z = -1;
  return cpu::fma(cpu::broadcast<double>(x), cpu::broadcast<double>(y), cpu::broadcast<double>(z))[0] != 0;
}
/// 0, or what stands for it where the host does not fuse.
template <typename T>
double no_difference() {
  return host_fuses() ? 0 : std::is_same_v<T, double> ? double_bound : float_bound;
}

// Bounds of bf16 against bf16, relative in the norm.
//
// The same sums, in float, then one rounding on both sides: where the sums are 1e-6 apart, about one in a
// thousand falls on the other side of a rounding and is up to 2^-7 away, which makes 1e-4 in the norm.
// Seen: up to 8e-5.
inline constexpr double one_rounding = 3e-4;
// A kernel that hands numbers on inside rounds them for the tensor cores, which multiply bf16: probabilities
// of attention, gradients of logits. The host's keeps them in float. So the two are apart by what bf16 is
// from float.
inline constexpr double inner_rounding = bf16_bound;

/// Checks value and gradients; returns the largest error.
template <typename A, typename B>
double check_twins(const A& got, const B& want, double bound) {
  const Result g = got.run();
  const Result w = want.run();
  check_close(g.value, w.value, bound);
  double worst = relative_error(g.value, w.value);
  for (std::size_t i = 0; i < A::size; ++i) {
    check_close(g.grads[i], w.grads[i], bound, "gradient of " + got.name(i));
    worst = std::max(worst, relative_error(g.grads[i], w.grads[i]));
  }
  return worst;
}

/// What all cards of an op showed; printed once, since the bounds are only as good as what is known of them.
class TwinErrors {
 public:
  explicit TwinErrors(std::string name, double half_bound)
      : name_(std::move(name)), half_bound_(half_bound) {}
  TwinErrors(const TwinErrors&) = delete;
  TwinErrors& operator=(const TwinErrors&) = delete;
  ~TwinErrors() {
    std::printf("twins %-24s double %.1e, float %.1e, of few rows %.1e and %.1e, bf16 %.1e of %.0e\n",
                name_.c_str(), double_, single_, few_double_, few_single_, half_, half_bound_);
  }

  /// make.operator()<T, D>() is the card.   few: rows that a GPU sums in another order
  template <typename Make>
  void check(const Make& make, bool few = false) {
    check_float(make, few);
    half_ = std::max(half_, error_in<bf16>(make, half_bound_));
  }
  /// The same for an op whose numbers are float whatever the activations are.
  template <typename Make>
  void check_float(const Make& make, bool few = false) {
    if (few) {
      few_double_ = std::max(few_double_, error_in<double>(make, double_bound));
      few_single_ = std::max(few_single_, error_in<float>(make, float_bound));
    } else {
      double_ = std::max(double_, error_in<double>(make, no_difference<double>()));
      single_ = std::max(single_, error_in<float>(make, no_difference<float>()));
    }
  }

 private:
  template <typename T, typename Make>
  double error_in(const Make& make, double bound) const {
    const AllDigits digits;
    return check_twins(make.template operator()<T, Cuda>(), make.template operator()<T, Cpu>(), bound);
  }

  std::string name_;
  double half_bound_, double_ = 0, single_ = 0, few_double_ = 0, few_single_ = 0, half_ = 0;
};

}  // namespace mtpx::test
