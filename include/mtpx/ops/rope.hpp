#pragma once

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/matmul.hpp>

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
      {{"x", x}, {"table", table.cos}}, tape);
  require(positions.size() == x.rows().count && positions.contiguous(), "rope",
          "every row needs one position", {{"x", x}, {"positions", positions}}, tape);
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

/// The same out of primitives: a pair and its angle stand in a row, the heads beside each other.
template <typename T, typename D>
Var<T, D> rope_composed(const Var<T, D>& x, Index heads, const Tensor<std::int32_t, D>& positions,
                        const RopeTable<acc_t<T>, D>& table) {
  const Index rows = x.rows().count, pairs = table.rope() / 2, still = x.shape().width() / heads - 2 * pairs;
  const auto angles = [&](const Tensor<acc_t<T>, D>& of) {
    return reshape(gather(x.tape()->constant(of), positions), {rows * pairs, 1});
  };
  const auto cos = angles(table.cos), sin = angles(table.sin);
  const auto per_head = reshape(contiguous(cast<acc_t<T>>(x)), {rows, heads, still + 2 * pairs});
  const auto part = reshape(transpose(narrow(per_head, still, 2 * pairs)), {rows * pairs, 2 * heads});
  const auto even = narrow(part, 0, heads), odd = narrow(part, heads, heads);
  const auto even_cos = even * cos, odd_sin = odd * sin, even_sin = even * sin, odd_cos = odd * cos;
  const auto y_even = even_cos - odd_sin, y_odd = even_sin + odd_cos;
  const auto turned = transpose(reshape(concat(y_even, y_odd), {rows, 2 * pairs, heads}));
  const auto before = narrow(per_head, 0, still);
  return cast<T>(reshape(concat(before, turned), x.shape()));
}

}  // namespace mtpx
