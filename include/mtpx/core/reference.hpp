#pragma once
// The device whose kernels are read: what a model must compute, in the words of its papers.

#include <mtpx/core/cpu.hpp>

namespace mtpx {

/// The host's memory with the kernels of kernels/eigen/, each equation in plain Eigen as it stands in its
/// paper; include <mtpx/reference.hpp> to use it. For float and double, and for comparing: nothing in it is
/// fast, and a row's last bits may depend on the rows beside it. Copies of a handle share the pool.
class Reference {
 public:
  static constexpr bool host_memory = true;

  using Empty = Cpu::Empty;
  /// A handle to nothing, for undefined tensors.
  explicit Reference(Empty nothing) : memory_(nothing) {}

  Reference() : memory_(1) {}

  Pool& pool() const { return memory_.pool(); }

 private:
  Cpu memory_;
};

}  // namespace mtpx
