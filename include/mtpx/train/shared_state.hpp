#pragma once
// What AdamW asks of those that share its state out among ranks: of one rank alone, nothing of them is
// compiled.

#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>

#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx {

/// What a parameter, or a group of them, has of its own in an AdamW update.
struct AdamWGroup {
  double rate = 1;          ///< times the learning rate; 0: it stays, though its moments move
  double weight_decay = 0;  ///< of this parameter
};

namespace detail {

/// Every parameter that takes part in an update, apart by type: bf16 models have float parameters, too.
template <typename T>
struct Moving {
  std::vector<AdamWTensor<T>> own;          // of the model's type
  std::vector<AdamWTensor<acc_t<T>>> sums;  // of the type of sums, where that is another

  template <typename N>
  const std::vector<AdamWTensor<N>>& of() const {
    if constexpr (std::is_same_v<N, T>) {
      return own;
    } else {
      return sums;
    }
  }
  template <typename N>
  std::vector<AdamWTensor<N>>& of() {
    return const_cast<std::vector<AdamWTensor<N>>&>(std::as_const(*this).template of<N>());
  }
};

/// The work of one update on some of them.
template <typename D>
struct AdamWMove {
  D device;
  AdamWStep step;
  const double* rates;  // as adamw_step() takes them
  const double* scale;

  template <typename N>
  void operator()(std::span<const AdamWTensor<N>> list) const {
    if (!list.empty()) adamw_step(device, list, step, rates, scale);
  }
};

/// The group of a parameter, by its name and shape.
using GroupOf = std::function<AdamWGroup(const std::string& name, const Shape& shape)>;

/// AdamW's state where ranks share it out; see Shards, which it is, for what the calls do.
template <typename T, typename D>
class SharedState {
 public:
  using A = acc_t<T>;
  using Show = std::function<void(const std::string& name, const Tensor<A, D>& tensor)>;

  virtual ~SharedState() = default;
  virtual void reserve(Leaves<T, D> module) = 0;
  virtual Tensor<double, D> squares(Leaves<T, D> module, Index more) = 0;
  virtual void gather(Leaves<T, D> module, const GroupOf& group_of, Moving<T>& to) = 0;
  virtual void move(const Moving<T>& parameters, const AdamWMove<D>& move) = 0;
  virtual void show_whole(Leaves<T, D> module, int which, const Show& show) = 0;
};

}  // namespace detail
}  // namespace mtpx
