#pragma once
// The device whose kernels are read: what a model must compute, in the words of its papers.

#include <mtpx/core/cpu.hpp>

namespace mtpx {

/// The host's memory with the kernels of kernels/eigen/, each equation in plain Eigen as it stands in its
/// paper; include <mtpx/reference.hpp> to use it. For float and double, and for comparing: nothing in it is
/// fast, and a row's last bits may depend on the rows beside it. Copies of a handle share the pool.
class Reference {
 public:
  static constexpr Memory memory = Memory::host;  ///< work is done when a call returns

  using Current = AlwaysCurrent;  ///< a guard that does nothing
  using Empty = Cpu::Empty;       ///< what an undefined tensor's handle is made from
  /// A handle to nothing, for undefined tensors.
  explicit Reference(Empty nothing) : host_(nothing) {}

  Reference() : host_(1) {}

  /// Where tensors come from.
  Pool& pool() const { return host_.pool(); }

 private:
  Cpu host_;
};

static_assert(IsDevice<Reference>);

}  // namespace mtpx
