#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// cos and sin of every position and pair, made once per model: [positions, rope / 2] each.
template <typename A, typename D>
struct RopeTable {
  Tensor<A, D> cos;  ///< [positions, rope / 2]
  Tensor<A, D> sin;  ///< the same

  /// Positions from 0 that it covers.
  Index positions() const { return cos.shape()[0]; }
  /// Numbers of a head that are rotated: two a pair.
  Index rope() const { return 2 * cos.shape()[1]; }
};

/// Rotary position embedding (Su et al. 2021, eq. 34; DeepSeek-V3 sec. 2.1.1: the decoupled part of queries
/// and keys). Adjacent pairs rotate together, as in the published implementation.
///
///   (y_2j, y_2j+1) = R(position * f_j) (x_2j, x_2j+1)   on the last `rope` numbers of each head
///
/// x: [B, T, heads * width], may be strided; given away (std::move) and held by nobody else, it is rotated
/// where it stands   positions: [B, T]   returns [B, T, heads * width] Saves for backward: positions. Throws
/// ShapeError.
template <typename T, typename D>
Var<T, D> rope(Var<T, D> x, Index heads, const Tensor<std::int32_t, D>& positions,
               const RopeTable<acc_t<T>, D>& table) {
  Tape& tape = tape_of("rope", x);
  require(
      heads > 0 && x.shape().width() % heads == 0 && x.shape().width() / heads >= table.rope(), "rope",
      [&] {
        return cat("the last axis must split into ", heads, " heads at least as wide as the rotated part");
      },
      {{"x", x.shape()}, {"table", table.cos.shape()}}, tape);
  require(positions.size() == x.rows().count && positions.contiguous(), "rope",
          "every row needs one position", {{"x", x.shape()}, {"positions", positions.shape()}}, tape);
  const Index rotated = table.rope();
  const bool in_place = x.value().unique() && x.value().contiguous();
  const Tensor<T, D> y = in_place ? x.value() : Tensor<T, D>(x.device(), x.shape());
  rope_apply(x.device(), x.rows(), heads, rotated, x.data(), positions.data(), table.cos.data(),
             table.sin.data(), 1, Sink<T>{y.data(), false});
  return tape.record(
      "rope", y, [positions, table, heads, rotated, dx = x.destination()](const Tensor<T, D>& dy) {
        const bool kept = dy.unique() && dx.take_over(dy);  // nobody else reads dy: rotated back in place
        rope_apply(dy.device(), dy.rows(), heads, rotated, dy.data(), positions.data(), table.cos.data(),
                   table.sin.data(), -1, kept ? Sink<T>{dy.data(), false} : dx.sink());
      });
}

}  // namespace mtpx
