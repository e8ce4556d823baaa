#pragma once

#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>

#include <string>

namespace mtpx {

/// The global norm of all gradients, and by what to scale them. On the device.
template <typename D>
struct GradientClip {
  Tensor<double, D> norm;   ///< [1]
  Tensor<double, D> scale;  ///< [1], at most 1
};

/// sqrt(sum of squares over every gradient of the module); scale = min(1, max_norm / norm).
/// max_norm <= 0: scale 1.
template <typename Module>
auto clip_norm(Module& module, double max_norm) {
  const auto& device = module.device();
  using D = std::remove_cvref_t<decltype(device)>;
  Index count = 0;
  for_each_parameter(
      module, [&](const std::string&, auto& parameter) { count += parameter.grad().defined() ? 1 : 0; });
  Tensor<double, D> squares(device, {std::max<Index>(1, count)});
  if (count == 0) squares = Tensor<double, D>::zeros(device, {1});
  Index i = 0;
  for_each_parameter(module, [&](const std::string&, auto& parameter) {
    const auto grad = parameter.grad();
    if (grad.defined()) sum_of_squares(device, grad.size(), grad.data(), squares.data() + i++);
  });
  GradientClip<D> clip{Tensor<double, D>(device, {1}), Tensor<double, D>(device, {1})};
  clip_scale(device, squares.size(), squares.data(), max_norm, clip.norm.data(), clip.scale.data());
  return clip;
}

/// AdamW's constants; defaults of DeepSeek-V3 sec. 4.2.
struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  ///< of matrices; norms and biases do not decay
};

/// AdamW with decoupled decay (Loshchilov & Hutter 2019). Moments, and masters of bf16 parameters, are kept
/// in the accumulation type. A parameter that received no gradient is left as it is.
template <typename T, typename D>
class AdamW {
 public:
  using A = acc_t<T>;

  explicit AdamW(const AdamWOptions& options = {}) : options_(options) {}

  /// One update of every parameter of `module`, whose gradients are then forgotten.
  template <typename Module>
  void step(Module& module, const GradientClip<D>& clip, double lr) {
    ++steps_;
    const auto t = static_cast<double>(steps_);
    std::size_t i = 0;
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      if (i == moments_.size()) moments_.emplace_back();
      Moments& state = moments_[i++];
      const Tensor<A, D> grad = parameter.grad();
      if (!grad.defined()) return;
      if (!state.m.defined()) state = fresh(parameter);
      AdamWStep s{lr,
                  options_.beta1,
                  options_.beta2,
                  options_.eps,
                  0,
                  1 - std::pow(options_.beta1, t),
                  1 - std::pow(options_.beta2, t)};
      if (parameter.shape().rank() > 1) s.weight_decay = options_.weight_decay;
      adamw_step(parameter.device(), grad.size(), s, clip.scale.data(), grad.data(), state.m.data(),
                 state.v.data(), state.master.data(), parameter.data());
      parameter.zero_grad();
    });
  }

  Index steps() const { return steps_; }

 private:
  struct Moments {
    Tensor<A, D> m, v, master;
  };

  template <typename P>
  static Moments fresh(const P& parameter) {
    const D& device = parameter.device();
    const Shape shape = parameter.shape();
    Moments state{Tensor<A, D>::zeros(device, shape), Tensor<A, D>::zeros(device, shape), {}};
    if constexpr (std::is_same_v<typename P::value_type, A>) {
      state.master = parameter.value();
    } else {
      state.master = Tensor<A, D>(device, shape);
      const Rows rows = parameter.rows();
      copy_rows(device, rows.count, rows.width, parameter.data(), rows.stride, state.master.data(),
                rows.width, false);
    }
    return state;
  }

  AdamWOptions options_;
  Index steps_ = 0;
  std::vector<Moments> moments_;
};

}  // namespace mtpx
