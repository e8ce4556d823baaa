#pragma once

#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>
#include <mtpx/train/sharded.hpp>
#include <mtpx/train/shared_state.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace mtpx {

/// The global norm of all gradients, and by what to scale them. On the device.
template <typename D>
struct GradientClip {
  Tensor<double, D> norm;   ///< [1]
  Tensor<double, D> scale;  ///< [1], at most 1
};

namespace detail {
/// *square = 0 times the squares of what is watched: NaN where that is not finite, and else nothing to a
/// norm.
template <typename A, typename D>
void watch(const D& device, const Tensor<A, D>& watched, double* square) {
  if (!watched.defined()) return;
  const Tensor<A, D> zeros(device, {watched.size()});
  scale_into(device, watched.size(), A(0), watched.data(), Sink<A>{zeros.data(), false});
  const std::span<const A> one(zeros.data(), static_cast<std::size_t>(zeros.size()));
  sums_of_squares(device, std::span<const std::span<const A>>(&one, 1), square);
}

/// The norm and the scale from the squares that make it.
template <typename D>
GradientClip<D> clip_by(const D& device, const Tensor<double, D>& squares, double max_norm,
                        const Tensor<double, D>& halted) {
  GradientClip<D> clip{Tensor<double, D>(device, {1}), Tensor<double, D>(device, {1})};
  clip_scale(device, squares.size(), squares.data(), max_norm, clip.norm.data(), clip.scale.data(),
             halted.data_or_null());
  return clip;
}

/// The gradients of a module's parameters, apart by type. Of a type that the module has not, nothing is
/// compiled.
template <typename D>
struct Gradients {
  std::vector<std::span<const float>> floats;
  std::vector<std::span<const double>> doubles;
  void (*add_floats)(const D&, std::span<const std::span<const float>>, double* squares) = nullptr;
  void (*add_doubles)(const D&, std::span<const std::span<const double>>, double* squares) = nullptr;

  template <typename A>
  void add(const Tensor<A, D>& gradient) {
    const auto add_squares = [](const D& device, std::span<const std::span<const A>> all, double* squares) {
      sums_of_squares(device, all, squares);
    };
    const std::span<const A> numbers(gradient.data(), static_cast<std::size_t>(gradient.size()));
    if constexpr (std::is_same_v<A, float>) {
      floats.push_back(numbers);
      add_floats = add_squares;
    } else {
      doubles.push_back(numbers);
      add_doubles = add_squares;
    }
  }
};

/// The sum of squares of every gradient of a module, in the parameters' order, then what watch() makes of
/// `watched`: [how many], at least one.
template <typename Module, typename A, typename D>
Tensor<double, D> squares_of(const D& device, Module& module, const Tensor<A, D>& watched) {
  Gradients<D> gradients;
  for_each_parameter(module, [&](const std::string&, auto& parameter) {
    const auto grad = parameter.grad();
    if (grad.defined()) gradients.add(grad);
  });
  const std::size_t floats = gradients.floats.size(), doubles = gradients.doubles.size();
  const std::size_t parts = floats + doubles + (watched.defined() ? 1 : 0);
  Tensor<double, D> squares(device, {static_cast<Index>(std::max<std::size_t>(1, parts))});
  if (parts == 0) fill_value(device, 1, 0.0, squares.data());
  if (floats > 0) gradients.add_floats(device, gradients.floats, squares.data());
  if (doubles > 0) gradients.add_doubles(device, gradients.doubles, squares.data() + floats);
  watch(device, watched, squares.data() + floats + doubles);
  return squares;
}

/// See clip_norm() below.
template <typename Module, typename A, typename D>
GradientClip<D> clip_norm(const D& device, Module& module, double max_norm, const Tensor<double, D>& halted,
                          const Tensor<A, D>& watched) {
  return clip_by(device, squares_of(device, module, watched), max_norm, halted);
}
}  // namespace detail

/// sqrt(sum of squares over every gradient of a module that has device()); scale = min(1, max_norm / norm).
/// max_norm <= 0: scale 1. A norm that is not finite: scale NaN, at which AdamW changes nothing.
///
/// halted: [1] or undefined; set to 1 by a norm that is not finite, and while it is not 0 every scale is NaN
/// watched: numbers that must be finite, too, such as the loss; where one is not, the norm is NaN
template <typename Module, typename A = float>
auto clip_norm(Module& module, double max_norm,
               const Tensor<double, std::remove_cvref_t<decltype(module.device())>>& halted = {},
               const Tensor<A, std::remove_cvref_t<decltype(module.device())>>& watched = {}) {
  return detail::clip_norm(module.device(), module, max_norm, halted, watched);
}

/// AdamW's constants; defaults of DeepSeek-V3 sec. 4.2.
struct AdamWOptions {
  double beta1 = 0.9;         ///< of the first moment m
  double beta2 = 0.95;        ///< of the second moment v
  double eps = 1e-8;          ///< added to sqrt(v)
  double weight_decay = 0.1;  ///< of matrices; norms and biases do not decay
  /// What a parameter gets, by its published name, instead of what it would: `usual`. It is asked in every
  /// update that is not a replay of a recorded one, and must depend on its arguments alone.
  std::function<AdamWGroup(const std::string& name, AdamWGroup usual)> group{};
};

/// AdamW with decoupled decay (Loshchilov & Hutter 2019). Moments, and masters of bf16 parameters, are kept
/// in the accumulation type. A parameter that received no gradient is left as it is.
///
/// State belongs to a parameter, wherever in a module that stands: parts may be frozen, added and taken away
/// between steps, and an optimiser may serve several modules, even such whose parameters have equal names. In
/// one step of them all, begin_step() comes once, then update() of each. What is kept of a parameter that is
/// no more is dropped when a new one comes.
///
/// It cannot be copied: two of them would move the same parameters. State goes from one to another by
/// for_each_state().
template <typename T, typename D>
class AdamW {
 public:
  using A = acc_t<T>;  ///< type of moments and masters

  explicit AdamW(const AdamWOptions& options = {}) : options_(options) {}
  /// One whose state the ranks of a group share out: see Shards, also for `bucket`. With a group of one the
  /// same as above.
  AdamW(const AdamWOptions& options, const Group<D>& group, Index bucket = usual_bucket)
      : options_(options),
        shared_(group.size() > 1 ? std::make_unique<Shards<T, D>>(group, bucket) : nullptr) {}
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;
  AdamW(AdamW&&) = default;
  AdamW& operator=(AdamW&&) = default;

  /// One update of every parameter of `module`, whose gradients are then forgotten. Throws ShapeError for a
  /// gradient of another shape than the state of its parameter.
  template <typename Module>
  void step(Module& module, const GradientClip<D>& clip, double lr) {
    begin_step(device_of<D>(module), lr);
    update(module, clip);
  }
  /// The same of gradients whose norm is cut to `max_norm`; 0: as they are. See clip_norm().
  template <typename Module>
  void step(Module& module, double lr, double max_norm = 0) {
    const Tensor<double, D> none;
    step(module, clip(module, max_norm, none, Tensor<A, D>()), lr);
  }

  /// What is shared out among ranks; null where nothing is.
  Shards<T, D>* shards() const { return static_cast<Shards<T, D>*>(shared_.get()); }

  /// clip_norm() of the gradients that update() will take: the module's or, where ranks share, the sums of
  /// all ranks'. `watched` is then the same everywhere, and so is the result.
  template <typename Module, typename W = A>
  GradientClip<D> clip(Module& module, double max_norm, const Tensor<double, D>& halted = {},
                       const Tensor<W, D>& watched = {}) {
    return detail::clip_by(device_of<D>(module), squares(module, watched), max_norm, halted);
  }

  /// What clip() adds up: the sum of squares of each of these gradients, in the parameters' order, and what
  /// makes it NaN where a number of `watched` is not finite.
  template <typename Module, typename W = A>
  Tensor<double, D> squares(Module& module, const Tensor<W, D>& watched = {}) {
    const D device = device_of<D>(module);
    Leaves<T, D> leaves(module);
    if (!shared_) return detail::squares_of(device, leaves, watched);
    const Tensor<double, D> all = shared_->squares(std::move(leaves), watched.defined() ? 1 : 0);
    detail::watch(device, watched, all.data() + all.size() - 1);
    return all;
  }

  /// Makes now what update() makes at a parameter's first gradient: its moments and master, and the
  /// gradient's own memory. Before a step is recorded, so that nothing which lasts stands in memory of the
  /// record.
  void reserve(Leaves<T, D> module) {
    if (shared_) return shared_->reserve(std::move(module));
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      if (parameter.frozen()) return;
      Tensor<A, D>& grad = parameter.slot()->grad;
      if (!grad.defined()) grad = Tensor<A, D>(parameter.device(), parameter.shape());
      state_of(parameter);
    });
  }

  /// The two halves of step(), for a recorded step: what is new in every step ...
  void begin_step(const D& device, double lr) {
    ++steps_;
    const auto t = static_cast<double>(steps_);
    if (!rates_.defined()) rates_ = Tensor<double, D>(device, {3});
    fill_value(device, 1, lr, rates_.data());
    fill_value(device, 1, 1 - std::pow(options_.beta1, t), rates_.data() + 1);
    fill_value(device, 1, 1 - std::pow(options_.beta2, t), rates_.data() + 2);
  }

  /// ... and the work, which is the same in every step.
  void update(Leaves<T, D> module, const GradientClip<D>& clip) {
    move(rates_.device(), gather(std::move(module)), clip);
  }

  /// The two halves of update(): what moves, after which gradients are forgotten. It may throw, and no
  /// parameter has changed then ...
  detail::Moving<T> gather(Leaves<T, D> module);

  /// ... and its move.
  void move(const D& device, const detail::Moving<T>& parameters, const GradientClip<D>& clip) {
    const AdamWStep step{options_.beta1, options_.beta2, options_.eps};
    const detail::AdamWMove<D> move{device, step, rates_.data(), clip.scale.data()};
    if (shared_) return shared_->move(parameters, move);
    move(std::span<const AdamWTensor<T>>(parameters.own));
    if constexpr (!std::is_same_v<T, A>) move(std::span<const AdamWTensor<A>>(parameters.sums));
  }

  /// Calls visit(name, tensor) for the state of a module's parameters under their published names, experts
  /// one by one as for_each_tensor() does; all exp_avg first, then all exp_avg_sq, then the masters:
  ///
  ///   <name>.exp_avg      m, in the accumulation type, of the parameter's shape (torch's word)
  ///   <name>.exp_avg_sq   v
  ///   <name>.master       of bf16 parameters, what they are before rounding
  ///
  /// The tensors are the state itself: what is assigned to them is gone on from. With them, the parameters
  /// and set_steps() a run goes on to the same bits. State that is not there yet is made; a frozen parameter
  /// is visited only where it has some. Where ranks share, all of them make this call, and the tensors are
  /// whole ones, of one kind at a time, whose shares are taken back behind each kind's visits.
  template <typename Visit>
  void for_each_state(Leaves<T, D> module, const Visit& visit) {
    if (shared_) {
      const char* const names[] = {".exp_avg", ".exp_avg_sq", ".master"};
      for (int which = 0; which < 3; ++which) {
        shared_->show_whole(module, which, [&](const std::string& name, const Tensor<A, D>& tensor) {
          if (tensor.defined()) visit(name + names[which], tensor);
        });
      }
      return;
    }
    const auto each = [&](const char* what, const auto& pick) {
      const auto show = [&](const std::string& name, const Tensor<A, D>& tensor) {
        if (tensor.defined()) visit(name + what, tensor);
      };
      const auto find = [&](const auto& parameter) {
        const bool has = !parameter.frozen() || states_.contains(parameter.data());
        return has ? pick(parameter, state_of(parameter)) : Tensor<A, D>();
      };
      detail::visit_published<false>(module, show, find);
    };
    each(".exp_avg", [](const auto&, const Moments& state) { return state.m; });
    each(".exp_avg_sq", [](const auto&, const Moments& state) { return state.v; });
    each(".master", [](const auto& parameter, const Moments& state) {
      using P = std::remove_cvref_t<decltype(parameter)>;
      return std::is_same_v<typename P::value_type, A> ? Tensor<A, D>() : state.master;
    });
  }

  /// Steps begun, t of the bias corrections.
  Index steps() const { return steps_; }
  /// Counts from `steps` on: those of the state that was assigned, or the ones before steps that changed
  /// nothing.
  void set_steps(Index steps) { steps_ = steps; }

 private:
  struct Moments {
    Tensor<A, D> m, v, master;
    Tensor<T, D> rounded;  // the parameter, where the master is another tensor

    /// Whether the parameter is no more: nobody else holds its numbers.
    bool orphaned() const { return rounded.defined() ? rounded.unique() : master.unique(); }
  };

  template <typename P>
  Moments& state_of(const P& parameter) {
    const auto found = states_.find(parameter.data());
    if (found != states_.end()) return found->second;
    std::erase_if(states_, [](const auto& entry) { return entry.second.orphaned(); });
    return states_.emplace(parameter.data(), fresh(parameter)).first->second;
  }

  template <typename P>
  static Moments fresh(const P& parameter) {
    const D& device = parameter.device();
    const Shape shape = parameter.shape();
    Moments state{Tensor<A, D>(device, shape), Tensor<A, D>(device, shape), {}, {}};
    fill_value(device, shape.size(), A(0), state.m.data());
    fill_value(device, shape.size(), A(0), state.v.data());
    if constexpr (std::is_same_v<typename P::value_type, A>) {
      state.master = parameter.value();
    } else {
      state.master = Tensor<A, D>(device, shape);
      const Rows rows = parameter.rows();
      copy_rows(device, rows.count, rows.width, parameter.data(), rows.stride, state.master.data(),
                rows.width, false);
      state.rounded = parameter.value();
    }
    return state;
  }

  AdamWOptions options_;
  std::unique_ptr<detail::SharedState<T, D>> shared_;
  Index steps_ = 0;
  Tensor<double, D> rates_;  // [3]: lr and the two bias corrections of the step
  // By where the parameter's numbers stand, which does not change while it lives: freezing renews its slot,
  // and modules move. The state shares these numbers, so nothing else can come to stand there.
  std::unordered_map<const void*, Moments> states_;
};

template <typename T, typename D>
detail::Moving<T> AdamW<T, D>::gather(Leaves<T, D> module) {
  detail::Moving<T> parameters;
  const auto group_of = [&](const std::string& name, const Shape& shape) {
    const AdamWGroup usual{1, shape.rank() > 1 ? options_.weight_decay : 0.0};
    return options_.group ? options_.group(name, usual) : usual;
  };
  if (shared_) {
    shared_->gather(std::move(module), group_of, parameters);
    return parameters;
  }
  for_each_parameter(module, [&](const std::string& name, auto& parameter) {
    using P = std::remove_cvref_t<decltype(parameter)>;
    const Tensor<A, D> grad = parameter.grad();
    if (!grad.defined()) return;
    const Moments& state = state_of(parameter);
    require(grad.shape() == state.m.shape(), "adamw",
            [&] { return cat("the gradient of ", name, " must have the shape of its state"); },
            {{"gradient", grad}, {"state", state.m}});
    const AdamWGroup group = group_of(name, parameter.shape());
    parameters.template of<typename P::value_type>().push_back(
        {grad.size(), grad.data(), state.m.data(), state.v.data(), state.master.data(), parameter.data(),
         group.weight_decay, group.rate});
    parameter.zero_grad();
  });
  return parameters;
}

}  // namespace mtpx
