#pragma once

#include <mtpx/model/config.hpp>
#include <mtpx/nn/block.hpp>

namespace mtpx {

/// One head beyond the next-token head of parallel multi-token prediction (Gloeckle et al. 2024,
/// arXiv 2404.19737, sec. 2). Head k (from 1) turns the trunk's state z_i into the state from which the
/// shared output head predicts t_{i+k+1}. It is given no later token, and no other head's state: heads are
/// independent of each other. (DeepSeek-V3's report calls this "independent output heads"; the output head
/// itself, and the norm before it, are shared.)
///
///   h^k = layer_k(z)    (parallel: one transformer layer)
///   h^k = W_k z         (linear: one matrix)
template <typename T, typename D>
struct ParallelHead {
  std::optional<Block<T, D>> block;    ///< parallel
  std::optional<Linear<T, D>> linear;  ///< linear: [hidden, hidden]

  using Output = typename Block<T, D>::Output;

  ParallelHead() = default;
  ParallelHead(const D& device, const BlockOptions& o, MtpHeads heads) {
    if (heads == MtpHeads::linear) {
      linear.emplace(device, o.attention.hidden, o.attention.hidden);
    } else {
      block.emplace(device, o);
    }
  }

  /// z: [B, R, hidden]   run: Block's call, block(x) or a checkpoint of it   returns [B, R, hidden]
  template <typename Run>
  Output operator()(const Var<T, D>& z, const Run& run) const {
    return block ? run(*block, z) : Output{(*linear)(z), {}};
  }

  static void members(auto& self, auto&& visit) {
    visit("", self.block);
    visit("linear", self.linear);
  }
};

}  // namespace mtpx
