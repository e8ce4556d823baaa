#pragma once
// What tests compare with: the kernels of kernels/eigen/ on numbers of the host, in double, rows that touch
// each other. Compiled once, in reference.cpp.

#include "support/card.hpp"

#include <mtpx/kernels/distillation.hpp>
#include <mtpx/kernels/shapes.hpp>

namespace mtpx::test::reference {

/// x W^T.   w: [out, in]
Numbers linear(const Numbers& x, const Numbers& w, Index in, Index out);

/// x_rj / sqrt(mean_k x_rk^2 + eps) * gain_j
Numbers rms_norm(const Numbers& x, const Numbers& gain, double eps);

Numbers sigmoid(Numbers x);

/// Of rows of `width`.
Numbers softmax(const Numbers& x, Index width);

/// silu(gate) * up
Numbers swiglu(const Numbers& gate, const Numbers& up);

/// Pair j of the last `rope` numbers of each head turned by position * base^(-2j / rope).
Numbers rope(const Numbers& x, Index heads, Index width, Index rope, const Ints& positions, double base);

/// positions: empty = causal only
struct Attention {
  Numbers o, dq, dkv, dk_rope;  ///< no gradients without d_o

  Attention(AttentionShape s, const Numbers& q, const Numbers& kv, const Numbers& k_rope,
            const Ints& positions, double scale, const Numbers& d_o = {});
};

/// Gradients are those for dloss = 1.
struct CrossEntropy {
  double loss = 0;
  Numbers row_loss, dx, dw;
  Ints argmax;

  CrossEntropy(const Numbers& x, const Numbers& w, const Ints& labels, Index width, Index fixed_divisor = 0);
};

/// The same against a teacher's x and w, whose rows may have another width.
struct Distillation {
  double loss = 0;
  Numbers row_loss, dx, dw;
  Ints argmax;

  Distillation(const Numbers& x, const Numbers& w, const Numbers& teacher_x, const Numbers& teacher_w,
               const Ints& labels, Index width, Divergence divergence, double share, Index fixed_divisor = 0);
};

/// bias: none where empty
struct Route {
  Ints ids;
  Numbers weights;

  Route(const Numbers& scores, const Numbers& bias, const Routing& r);
};

double balance_loss(const Numbers& scores, Index batch, Index time, Index experts, Index top_k, double alpha);

/// gate, up: [E, F, D]   down: [E, D, F]
Numbers experts(ExpertsShape s, const Numbers& x, const Numbers& weights, const Ints& ids,
                const Numbers& gate, const Numbers& up, const Numbers& down);

}  // namespace mtpx::test::reference
