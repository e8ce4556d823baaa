#pragma once
// Var: a value on a tape, and Parameter: a value that outlives tapes.

#include <mtpx/autograd/packed_weight.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/core/tensor.hpp>
#include <mtpx/kernels.hpp>

#include <limits>
#include <memory>
#include <ostream>
#include <string_view>
#include <utility>

namespace mtpx {

class Tape;

namespace detail {

/// Where a gradient is gathered. `filled` says whether anybody has written it yet, `writes` how often
/// somebody has.
template <typename G, typename D>
struct Slot {
  Tensor<G, D> grad;
  bool filled = false;
  Index writes = 0;
};

/// Not in line, as all that is said of errors.
[[noreturn, gnu::noinline, gnu::cold]] inline void refuse_lost_tape(std::string_view op) {
  throw Error(cat("[", op, "] the tape of an operand is gone; it must live while ops use what is on it"));
}

/// Where a tape is, shared by all that was computed on it: null inside once the tape is gone.
using TapePlace = std::shared_ptr<Tape*>;

}  // namespace detail

/// The gradient side of a Var without its value: what an op captures when its backward does not need the
/// operand itself, so that the operand's memory is not kept.
template <typename G, typename D>
class Destination {
 public:
  Destination(std::shared_ptr<detail::Slot<G, D>> slot, const D& device, const Shape& shape)
      : slot_(std::move(slot)), device_(device), shape_(shape) {}
  // Not in line, as those of Tensor and Var.
  [[gnu::noinline]] Destination(const Destination&) = default;
  [[gnu::noinline]] Destination(Destination&&) noexcept = default;
  [[gnu::noinline]] Destination& operator=(const Destination&) = default;
  [[gnu::noinline]] Destination& operator=(Destination&&) noexcept = default;
  [[gnu::noinline]] ~Destination() = default;

  /// Of the value, and so of its gradient.
  const Shape& shape() const { return shape_; }

  /// Where a backward kernel writes the gradient: [rows, width], dense. The first call for a gradient says
  /// overwrite, later ones say add.
  [[gnu::noinline]] Sink<G> sink() const {
    if (slot_ == nullptr) return {};
    if (!slot_->grad.defined()) slot_->grad = Tensor<G, D>(device_, shape_);
    const bool accumulate = slot_->filled;
    slot_->filled = true;
    ++slot_->writes;
    return {slot_->grad.data(), accumulate};
  }

  /// Makes `dy`, which the caller will not use again, the gradient itself instead of a copy. False where that
  /// cannot be: somebody has written the gradient before, or wants it in its old buffer.
  bool take_over(const Tensor<G, D>& dy) const {
    if (slot_ == nullptr) return true;
    if (slot_->filled || slot_->grad.defined() || !dy.contiguous()) return false;
    slot_->grad = dy.reshape(shape_);
    slot_->filled = true;
    return true;
  }

 private:
  std::shared_ptr<detail::Slot<G, D>> slot_;
  D device_;
  Shape shape_;
};

/// A value of type T with a place for its gradient, of type G. A null slot makes it a constant: nobody
/// wants its gradient. A null tape makes it a leaf: it was not computed by an op.
///
/// Its value and gradient may outlive its tape; to compute on it, or back from it, then throws Error.
///
/// A weight may be kept in 8 bits, or packed, in place of a value: see Int8Weight and PackedWeight. What does
/// not ask for int8() and packed() then gets an Error.
///
/// Activations have G = T, parameters G = acc_t<T> (see Weight).
template <typename T, typename D, typename G = T>
class Var {
 public:
  using value_type = T;     ///< of the value
  using gradient_type = G;  ///< of the gradient: acc_t<T> of a parameter
  using device_type = D;    ///< where both are

  Var() = default;
  // Not in line, as Tensor's are not: four handles, and an op copies, moves and drops a dozen of them.
  [[gnu::noinline]] Var(const Var& other) = default;
  [[gnu::noinline]] Var(Var&& other) noexcept = default;
  [[gnu::noinline]] Var& operator=(const Var& other) = default;
  [[gnu::noinline]] Var& operator=(Var&& other) noexcept = default;
  [[gnu::noinline]] ~Var() = default;
  /// A constant.
  [[gnu::noinline]] explicit Var(Tensor<T, D> value) : value_(std::move(value)) {}
  [[gnu::noinline]] Var(Tensor<T, D> value, std::shared_ptr<detail::Slot<G, D>> slot, detail::TapePlace tape)
      : value_(std::move(value)), slot_(std::move(slot)), tape_(std::move(tape)) {}

  /// Whether there is a value: an optional operand is left out as a Var().
  bool defined() const { return value_.defined() || kept_ != nullptr; }
  /// The numbers; shared with whoever holds the Var.
  [[gnu::noinline]] const Tensor<T, D>& value() const {
    if (kept_ != nullptr) refuse();
    return value_;
  }
  /// Whether something stands in place of a weight's value: int8(), or packed().
  bool kept() const { return kept_ != nullptr; }
  /// What stands in place of the value of a weight that is kept in 8 bits; null: nothing does.
  const Int8Weight<D>* int8() const {
    return kept_ != nullptr && kept_->in_8_bits() ? kept_->int8.get() : nullptr;
  }
  /// What stands in place of the value of a weight that is packed; null: nothing does.
  const PackedWeight<T, D>* packed() const {
    return kept_ != nullptr && !kept_->in_8_bits() ? &kept_->packed : nullptr;
  }
  /// Where its numbers are.
  [[gnu::noinline]] const D& device() const { return kept_ != nullptr ? kept_->device() : value_.device(); }
  /// Of the value, and so of its gradient.
  [[gnu::noinline]] const Shape& shape() const { return kept_ != nullptr ? kept_->shape() : value_.shape(); }
  /// Of the value, or of what stands in its place.
  std::size_t bytes() const { return kept_ != nullptr ? kept_->bytes() : value_.bytes(); }
  /// The value as kernels take it.
  [[gnu::noinline]] Rows rows() const { return value().rows(); }
  /// See Tensor::row_stride().
  [[gnu::noinline]] Index row_stride() const {
    return kept_ != nullptr ? kept_->shape().width() : value_.row_stride();
  }
  /// The value's first number, in the device's memory.
  [[gnu::noinline]] T* data() const { return value().data(); }
  /// Whether both are the same numbers in memory.
  bool shares(const Var& other) const {
    return value_.data_or_null() == other.value_.data_or_null() && kept_ == other.kept_;
  }
  /// See Tensor::item().
  [[gnu::noinline]] T item() const { return value().item(); }
  /// Null for a leaf. Throws Error, headed by `op`, once the tape is gone.
  [[gnu::noinline]] Tape* tape(std::string_view op = "tape") const {
    if (tape_ == nullptr) return nullptr;
    if (*tape_ == nullptr) detail::refuse_lost_tape(op);
    return *tape_;
  }
  /// Where its gradient is gathered; null for a constant.
  const std::shared_ptr<detail::Slot<G, D>>& slot() const { return slot_; }
  /// Whether a gradient is gathered.
  bool wants_grad() const { return slot_ != nullptr; }

  /// What to capture in place of the operand when backward needs its gradient alone.
  [[gnu::noinline]] Destination<G, D> destination() const { return {slot_, device(), shape()}; }
  /// Where backward writes the gradient now, see Destination::sink().
  [[gnu::noinline]] Sink<G> sink() const { return destination().sink(); }

  /// The gradient gathered so far; undefined while there is none.
  [[gnu::noinline]] Tensor<G, D> grad() const {
    return slot_ != nullptr && slot_->filled ? slot_->grad : Tensor<G, D>();
  }

 protected:
  Tensor<T, D> value_;                            ///< the numbers
  std::shared_ptr<detail::Slot<G, D>> slot_;      ///< where its gradient is gathered; null: a constant
  detail::TapePlace tape_;                        ///< where it was computed; null: a leaf
  std::shared_ptr<const KeptWeight<T, D>> kept_;  ///< in place of value_

 private:
  [[noreturn, gnu::noinline, gnu::cold]] void refuse() const {
    throw Error(cat("[weight] ", kept_->shape().str(), " is ", kept_->how(),
                    ", for decoding alone: its numbers cannot be read, trained or saved"));
  }
};

/// Prints the value, as a tensor prints.
template <typename T, typename D, typename G>
std::ostream& operator<<(std::ostream& out, const Var<T, D, G>& x) {
  return out << x.value();
}

/// A parameter as ops see it: values in T, gradient in acc_t<T>.
template <typename T, typename D>
using Weight = Var<T, D, acc_t<T>>;

/// A trainable tensor. Move-only, so that a copy of a module cannot train half a model by mistake. Its
/// gradient lasts across tapes: several backwards before one optimiser step accumulate for free.
///
/// A new one of some shape is NaN until something is assigned to it, as initialize() and load_module() do:
/// what was forgotten shows in the first loss, and not as whatever the memory held before.
template <typename T, typename D>
class Parameter : public Weight<T, D> {
 public:
  Parameter() = default;
  explicit Parameter(Tensor<T, D> value)
      : Weight<T, D>(std::move(value), std::make_shared<detail::Slot<acc_t<T>, D>>(), nullptr) {}
  Parameter(const D& device, const Shape& shape) : Parameter(Tensor<T, D>(device, shape)) {
    if constexpr (!NoMemory<D>) {
      const T nan(std::numeric_limits<acc_t<T>>::quiet_NaN());
      fill_value(this->device(), this->value_.size(), nan, this->data());
    }
  }
  /// One that products alone read. Kept in 8 bits, with a scale for each row's `int8_run.columns` columns; 0:
  /// of type T, as above. NaN as well, and frozen.
  [[gnu::noinline]] Parameter(const D& device, const Shape& shape, const Int8Run& int8_run) {
    if (int8_run.columns == 0) {
      *this = Parameter(device, shape);
    } else {
      if (int8_run.products == nullptr || int8_run.types != &detail::int8_types<T, D>)
        throw Error("[parameter] a weight in 8 bits needs the int8_products of its own type and device");
      const auto& making = *static_cast<const Int8Making<D>*>(int8_run.products);
      this->kept_ = std::make_shared<const KeptWeight<T, D>>(
          KeptWeight<T, D>{making.make(device, shape, int8_run.columns, making), {}});
    }
    of_products_ = true;
  }
  Parameter(const Parameter&) = delete;
  Parameter& operator=(const Parameter&) = delete;
  [[gnu::noinline]] Parameter(Parameter&&) = default;
  [[gnu::noinline]] Parameter& operator=(Parameter&&) = default;
  [[gnu::noinline]] ~Parameter() = default;

  /// Moves its numbers to other memory, dense and of their shape, which it shares from then on.
  void move_to(Tensor<T, D> place) {
    require(place.shape() == this->shape() && place.contiguous(), "move_to",
            "dense memory of the parameter's shape", {{"parameter", *this}, {"place", place}});
    const Index size = place.size();
    copy_rows(place.device(), 1, size, this->data(), size, place.data(), size, false);
    this->value_ = std::move(place);
  }

  /// Whether products alone read it, and it has a value: what may be packed.
  bool can_be_packed() const { return of_products_ && this->kept_ == nullptr; }
  /// Has packed numbers instead of its value from then on; what shared the value keeps it. Frozen for good.
  void pack(PackedWeight<T, D> packed) {
    require(packed.shape == this->shape() && can_be_packed(), "pack",
            "a weight of products alone, and its shape", {{"parameter", *this}});
    this->kept_ = std::make_shared<const KeptWeight<T, D>>(KeptWeight<T, D>{{}, std::move(packed)});
    this->value_ = Tensor<T, D>();
    this->slot_.reset();
  }

  /// Forgets the gradient; its buffer stays for the next step.
  void zero_grad() {
    if (this->slot_ != nullptr) this->slot_->filled = false;
  }

  /// A frozen parameter has no gradient and costs nothing in backward.
  void freeze(bool frozen = true) {
    if (frozen) {
      this->slot_.reset();
    } else if (this->slot_ == nullptr && this->kept_ == nullptr) {
      this->slot_ = std::make_shared<detail::Slot<acc_t<T>, D>>();
    }
  }
  /// Whether it has no gradient; see freeze().
  bool frozen() const { return this->slot_ == nullptr; }

 private:
  bool of_products_ = false;
};

}  // namespace mtpx
