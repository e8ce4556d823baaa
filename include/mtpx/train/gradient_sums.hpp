#pragma once
// Gradients of several micro-batches.

#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>

#include <string>
#include <unordered_map>
#include <utility>

namespace mtpx {

/// Sums of micro-batches' gradients, each of which begins at zero:
///
///   g = ((g_0 + g_1) + g_2) + ...     in the order of the calls of add()
///
/// So the sum is a function of the micro-batches' own gradients, wherever each was computed. (Gradients of
/// backwards that nobody takes away between them go on adding inside their products, and round differently.)
/// One micro-batch is not copied, and needs no memory; more need a second buffer of each gradient.
template <typename T, typename D>
class GradientSums {
 public:
  using A = acc_t<T>;  ///< type of gradients

  /// Makes now what add() makes when it is needed, for so many micro-batches: before a step is recorded.
  template <typename Module>
  void reserve(Module& module, Index micros) {
    if (micros < 2) return;
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      Tensor<A, D>& other = of(parameter).other;
      if (!parameter.frozen() && !other.defined())
        other = Tensor<A, D>(parameter.device(), parameter.shape());
    });
  }

  /// Takes the gradients of a micro-batch: the next one's begin at zero.
  template <typename Module>
  void add(Module& module) {
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      const Tensor<A, D> gradient = parameter.grad();
      if (!gradient.defined()) return;
      Sum& sum = of(parameter);
      if (sum.begun) {
        fold_parts(gradient.device(), gradient.size(), 1, gradient.data(), Sink<A>{sum.other.data(), true});
      } else {
        std::swap(parameter.slot()->grad, sum.other);
        sum.begun = true;
      }
      parameter.zero_grad();
    });
  }

  /// Makes the sums the module's gradients, as one backward would have left them.
  template <typename Module>
  void finish(Module& module) {
    put_back(module, true);
  }
  /// Drops the sums.
  template <typename Module>
  void forget(Module& module) {
    put_back(module, false);
  }

 private:
  struct Sum {
    Tensor<A, D> other;  // the buffer that backward does not write to
    bool begun = false;  // then it holds the sum
  };

  template <typename P>
  Sum& of(const P& parameter) {
    Sum& sum = sums_[parameter.data()];
    if (sum.other.defined() && sum.other.shape() != parameter.shape()) sum = {};  // what stood there is gone
    return sum;
  }

  template <typename Module>
  void put_back(Module& module, bool filled) {
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      const auto found = sums_.find(parameter.data());
      if (found == sums_.end() || !std::exchange(found->second.begun, false)) return;
      if (parameter.frozen()) return;
      std::swap(parameter.slot()->grad, found->second.other);
      parameter.slot()->filled = filled;
    });
  }

  std::unordered_map<const void*, Sum> sums_;  // by where the parameter's numbers stand
};

}  // namespace mtpx
