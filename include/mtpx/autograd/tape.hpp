#pragma once
// Tape: what was computed, in order. Backward walks it from the end and pops, freeing memory on the way.

#include <mtpx/autograd/var.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/kernels.hpp>

#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace mtpx {

/// What a forward is for: a backward behind it, or its values alone.
enum class Mode { training, inference };

namespace detail {

/// One op on a tape: what it is called, and its backward.
///
/// Not in line, here and in StepOf, is what every op would else hold a copy of.
struct TapeStep {
  [[gnu::noinline]] TapeStep() {}
  TapeStep(const TapeStep&) = delete;
  TapeStep& operator=(const TapeStep&) = delete;
  [[gnu::noinline]] virtual ~TapeStep() {}
  virtual void run() = 0;

  TapeStep* before = nullptr;  // on the tape
  std::string op;
  std::string path;
  Shape shape;  // of the first output
};

/// One whose outputs have types Ts. It keeps their gradients, not the outputs: those live only while another
/// op saves them.
template <typename D, typename... Ts>
class StepOf : public TapeStep {
 public:
  [[gnu::noinline]] StepOf() {}
  [[gnu::noinline]] ~StepOf() override {}
  /// Which outputs they are.
  [[gnu::noinline]] void await(const Var<Ts, D>&... outputs) {
    wanted_ = {Pending<Ts>{outputs.slot(), outputs.device(), outputs.shape()}...};
    shape = std::get<0>(wanted_).shape;
  }
  void run() final {
    std::apply(
        [this](const auto&... y) {
          if ((... || y.slot->filled)) backward(y.take()...);
        },
        wanted_);
  }

 private:
  virtual void backward(const Tensor<Ts, D>&... dys) = 0;

  template <typename T>
  struct Pending {
    std::shared_ptr<Slot<T, D>> slot;
    D device{typename D::Empty{}};
    Shape shape;

    Tensor<T, D> take() const {
      if (!slot->filled) return Tensor<T, D>::zeros(device, shape);
      slot->filled = false;
      return std::move(slot->grad);
    }
  };

  std::tuple<Pending<Ts>...> wanted_;
};

/// The op's own part of it: a function, and what that saved. Compiled for its size, as what takes time is in
/// kernels.
template <typename Backward, typename D, typename... Ts>
class OpStep final : public StepOf<D, Ts...> {
 public:
  explicit OpStep(Backward&& backward) : backward_(std::move(backward)) {}
  [[gnu::noinline, gnu::cold]] ~OpStep() override = default;  // else it stands in place twice

 private:
  [[gnu::cold]] void backward(const Tensor<Ts, D>&... dys) override { backward_(dys...); }

  Backward backward_;
};

}  // namespace detail

/// A plain list of backward steps. Pass it once per forward, at `embedding(tape, ...)`; every Var that is
/// computed from there carries it along. A tape serves one forward and one backward.
///
///   Tape tape;
///   auto loss = ...;            // ops record themselves
///   tape.backward(loss);        // gradients are now in the parameters, activations are freed
///
/// With Mode::inference nothing is recorded and nothing is kept: one forward serves both.
class Tape {
 public:
  explicit Tape(Mode mode = Mode::training) : mode_(mode), statistics_(mode == Mode::training) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape() {
    *place_ = nullptr;
    while (last_ != nullptr) delete std::exchange(last_, last_->before);
  }

  /// Whether ops record a backward: not in inference.
  bool recording() const { return mode_ == Mode::training; }

  /// Whether this pass counts, for statistics such as an expert's load: true for the first run of a
  /// training forward, false for evaluation and for the second run under checkpoint().
  bool statistics() const { return statistics_; }
  /// Says so; checkpoint() does for its second run.
  void set_statistics(bool statistics) { statistics_ = statistics; }

  /// A differentiable input that is no parameter: its gradient can be read after backward.
  template <typename T, typename D>
  Var<T, D> input(Tensor<T, D> value) {
    if (!recording()) return Var<T, D>(std::move(value), nullptr, place_);
    return Var<T, D>(std::move(value), std::make_shared<detail::Slot<T, D>>(), place_);
  }

  /// A value on this tape whose gradient nobody wants.
  template <typename T, typename D>
  Var<T, D> constant(Tensor<T, D> value) {
    return Var<T, D>(std::move(value), nullptr, place_);
  }

  /// Another tape's value as this tape's input; the gradient goes where the other tape looks for it.
  template <typename T, typename D, typename G>
  Var<T, D, G> adopt(const Var<T, D, G>& var) {
    return Var<T, D, G>(var.value(), var.slot(), place_);
  }

  /// Appends an op: its output and what computes the operands' gradients from the output's,
  /// `backward(const Tensor<T, D>& dy)`. The lambda's captures are the saved activations.
  template <typename T, typename D, typename Backward>
  Var<T, D> record(std::string_view op, Tensor<T, D> y, Backward backward) {
    Var<T, D> output = output_of(op, std::move(y));
    if (recording()) {
      auto* const step = new detail::OpStep<Backward, D, T>(std::move(backward));
      append(op, step);
      step->await(output);
    }
    return output;
  }

  /// The same for an op with several outputs: `backward(dy0, dy1, ...)`. Skipped when no output has a
  /// gradient; an output without one among others that have is given zeros.
  template <typename... Ts, typename D, typename Backward>
  std::tuple<Var<Ts, D>...> record(std::string_view op, std::tuple<Tensor<Ts, D>...> ys, Backward backward) {
    return std::apply(
        [&](auto&... y) {
          std::tuple<Var<Ts, D>...> outputs(output_of(op, std::move(y))...);
          if (recording()) {
            auto* const step = new detail::OpStep<Backward, D, Ts...>(std::move(backward));
            append(op, step);
            std::apply([&](const auto&... output) { step->await(output...); }, outputs);
          }
          return outputs;
        },
        ys);
  }

  /// d(loss)/d(everything that wants it), for a loss of one number.
  template <typename T, typename D>
  void backward(const Var<T, D>& loss) {
    require(loss.defined() && loss.shape().size() == 1, "backward", "the loss must be one number",
            {{"loss", loss}});
    Tensor<T, D> one(loss.device(), loss.shape());
    fill_value(loss.device(), 1, T(1.0f), one.data());
    backward(loss, one);
  }

  /// The same from a given gradient of `y`.
  template <typename T, typename D>
  void backward(const Var<T, D>& y, const Tensor<T, D>& dy) {
    seed(y, dy);
    run();
  }

  /// Adds a gradient to an output, before run(). For backward from several outputs.
  template <typename T, typename D>
  void seed(const Var<T, D>& y, const Tensor<T, D>& dy) {
    if (y.tape("backward") != this) throw Error("[backward] the loss was not computed on this tape");
    if (!recording()) throw Error("[backward] this tape is in inference mode and recorded nothing");
    if (spent_) throw Error("[backward] this tape's backward has run; make a new tape for the next step");
    require(dy.defined() && dy.shape() == y.shape(), "backward",
            "the gradient needs the shape of what it is of", {{"y", y}, {"dy", dy}});
    // A copy: later ops of this tape may add to the gradient, and the caller keeps dy.
    const Rows rows = dy.rows();
    if (const Sink<T> sink = y.sink()) {
      copy_rows(dy.device(), rows.count, rows.width, dy.data(), rows.stride, sink.data, rows.width,
                sink.accumulate);
    }
  }

  /// Runs and drops all steps, last first: a loop, however deep the model.   before_each: unless it is empty,
  /// called before each of them
  void run(const std::function<void()>& before_each = {}) {
    spent_ = true;
    while (last_ != nullptr) {
      if (before_each) before_each();
      const Taken step{std::exchange(last_, last_->before)};
      --size_;
      step.it->run();
    }
  }

  /// Ops recorded and not yet run backward.
  std::size_t size() const { return size_; }

  /// One line per op: its module path, name and the shape of its first output.
  void print(std::ostream& out) const {
    std::vector<const detail::TapeStep*> steps;
    for (const detail::TapeStep* step = last_; step != nullptr; step = step->before) steps.push_back(step);
    for (std::size_t i = steps.size(); i-- > 0;) {
      const detail::TapeStep& step = *steps[i];
      out << step.path << (step.path.empty() ? "" : ".") << step.op << ' ' << step.shape.str() << '\n';
    }
  }

  /// Names the modules that are running, for error texts and print(): `const Tape::Scope s(tape, "mlp");`
  class Scope {
   public:
    Scope(Tape& tape, std::string name) : tape_(tape) { tape_.scopes_.push_back(std::move(name)); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { tape_.scopes_.pop_back(); }

   private:
    Tape& tape_;
  };

  /// "model.layers.0.mlp"
  std::string path() const {
    std::string joined;
    for (const std::string& name : scopes_) {
      if (!joined.empty()) joined += '.';
      joined += name;
    }
    return joined;
  }

 private:
  template <typename T, typename D>
  [[gnu::noinline]] Var<T, D> output_of(std::string_view op, Tensor<T, D>&& y) const {
    if (spent_) refuse_spent(op);
    return Var<T, D>(std::move(y), recording() ? std::make_shared<detail::Slot<T, D>>() : nullptr, place_);
  }

  /// A step that is dropped behind its run, however that ends.
  struct Taken {
    detail::TapeStep* it;
    ~Taken() { delete it; }
  };

  [[gnu::noinline]] void append(std::string_view op, detail::TapeStep* step) {
    step->before = std::exchange(last_, step);  // the tape's from here on, whatever is thrown
    ++size_;
    step->op.append(op);
    step->path = path();
  }

  [[noreturn, gnu::noinline, gnu::cold]] static void refuse_spent(std::string_view op) {
    throw Error(cat("[", op, "] this tape's backward has run; a tape serves one forward and one backward"));
  }

  const detail::TapePlace place_ = std::make_shared<Tape*>(this);
  Mode mode_;
  bool statistics_;
  bool spent_ = false;
  detail::TapeStep* last_ = nullptr;  // the steps, each before the next
  std::size_t size_ = 0;
  std::vector<std::string> scopes_;
};

namespace detail {
inline Tape& tape_among(std::string_view op, std::initializer_list<Tape*> tapes) {
  Tape* tape = nullptr;
  for (Tape* const its : tapes) {
    if (its == nullptr) continue;
    if (tape != nullptr && tape != its)
      throw Error(cat("[", op, "] the operands are on two different tapes"));
    tape = its;
  }
  if (tape == nullptr) {
    throw Error(
        cat("[", op, "] no operand is on a tape; start with embedding(tape, ...) or tape.input(...)"));
  }
  return *tape;
}
}  // namespace detail

/// The one tape that the operands of `op` are on. Throws when there is none or more than one, and when it is
/// gone.
template <typename... Vars>
Tape& tape_of(std::string_view op, const Vars&... vars) {
  return detail::tape_among(op, {vars.tape(op)...});
}

}  // namespace mtpx
