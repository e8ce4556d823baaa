#pragma once
// The device whose kernels are read: what a model must compute, in the words of its papers.

#include <mtpx/core/cpu.hpp>

namespace mtpx {

/// The host's memory with the kernels of kernels/eigen/, each equation in plain Eigen as it stands in its
/// paper; include <mtpx/reference.hpp> to use it. For float and double, and for comparing: nothing in it is
/// fast, and a row's last bits may depend on the rows beside it. Copies of a handle share the pool.
class Reference {
 public:
  static constexpr Memory memory = Memory::host;

  using Current = AlwaysCurrent;
  using Empty = Cpu::Empty;
  /// A handle to nothing, for undefined tensors.
  explicit Reference(Empty nothing) : host_(nothing) {}

  Reference() : host_(1) {}

  Pool& pool() const { return host_.pool(); }

 private:
  Cpu host_;
};

static_assert(IsDevice<Reference>);

}  // namespace mtpx
