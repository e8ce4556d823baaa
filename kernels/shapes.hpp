#pragma once
// Sizes that kernels take as one argument. Plain numbers: every compiler sees this file.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/shape.hpp>

namespace mtpx {

/// Causal self-attention with a latent-attention head layout (DeepSeek-V3 sec. 2.1.1):
/// q [batch * time, heads * (nope + rope)], kv [batch * time, heads * (nope + v)], k_rope [batch * time,
/// rope].
struct AttentionShape {
  Index batch = 0;
  Index time = 0;
  Index heads = 0;
  Index nope = 0;
  Index rope = 0;
  Index v = 0;
};

/// How a token chooses its experts (DeepSeek-V3 sec. 2.1.2, Eq. 12-16). n_group = 1: no group limit.
struct Routing {
  Index n_experts = 0;
  Index top_k = 0;
  Index n_group = 1;
  Index topk_group = 1;
  bool norm_topk_prob = true;
  double scaling_factor = 1.0;
};

/// Routed experts: `tokens` rows of `width`, each through `top_k` of `experts` SwiGLU networks of `inner`.
struct ExpertsShape {
  Index tokens = 0;
  Index width = 0;
  Index inner = 0;
  Index experts = 0;
  Index top_k = 0;

  Index slots() const { return tokens * top_k; }
};

/// Absorbed latent attention of `rows` query rows against a cache [sequences, capacity, latent + rope]
/// (DeepSeek-V2 sec. 2.1.2).
struct LatentShape {
  Index rows = 0;
  Index heads = 0;
  Index latent = 0;
  Index rope = 0;
  Index capacity = 0;
};

/// `rows` states of `width` numbers beside a cache [sequences, capacity, width].
struct StateShape {
  Index rows = 0;
  Index width = 0;
  Index capacity = 0;
};

/// How an operand stands beside a result of [rows, width]: element (r, c) at r * row + c * column. A step of
/// 0 repeats what is there.
struct Steps {
  Index row = 0;
  Index column = 1;
};

/// An element-wise op of two operands. Row r takes row r % mask_rows of a mask, which is dense.
struct PairShape {
  Index rows = 0;
  Index width = 0;
  Steps a;
  Steps b;
  Index mask_rows = 1;

  /// The same as one row, where the rows of all touch each other.
  PairShape flat() const {
    const auto touch = [&](Steps s) { return s.column == 1 ? s.row == width : s.column == 0 && s.row == 0; };
    if (rows <= 1 || !touch(a) || !touch(b) || mask_rows != rows) return *this;
    const auto one = [](Steps s) { return Steps{0, s.column}; };
    return {1, rows * width, one(a), one(b), 1};
  }
};

/// Whether gradients of an operand are sums over rows or columns, or both.
struct Summed {
  bool rows, columns;

  Summed(Index rows_, Index width, Steps s)
      : rows(s.row == 0 && rows_ != 1), columns(s.column == 0 && width != 1) {
    // One number for all: the same order whether it stands beside one long row, one column or many of either.
    if ((rows && width == 1) || (columns && rows_ == 1)) rows = columns = true;
  }
};

/// Matrices y [m, n] = a [m, k] b [k, n], `batch` of them. Element (i, j) of a matrix stands at i * row + j *
/// column, one of which is 1; the next matrix `next` later.
struct MatrixSteps {
  Index next = 0;
  Index row = 0;
  Index column = 1;
};
struct MatmulShape {
  Index batch = 1;
  Index m = 0;
  Index n = 0;
  Index k = 0;
  MatrixSteps a;
  MatrixSteps b;
};

/// A sum over everything goes through each row in pieces of so many columns, then through the list of their
/// sums in the same way, until one number is left.
inline constexpr Index sum_columns = 4096;

/// The loss goes through the vocabulary in chunks of so many columns, and its mean is a sum as a GPU's block
/// of so many threads adds it.
inline constexpr Index loss_vocab = 4096;
inline constexpr int loss_threads = 1024;

/// The gradient of a norm's gain is summed over blocks of so many rows, whose sums are then added in order.
inline constexpr Index gain_rows = 64;

/// The balance loss sums the shares of so many tokens one by one, then these sums over so many neighbours,
/// then every eighth of those.
inline constexpr int balance_tokens = 4;
constexpr int balance_warps(Index experts) { return experts <= 256 ? 8 : 1; }
inline constexpr int balance_parts = 8, balance_threads = 256;

/// Sums of squares go through a tensor in chunks, each summed as a GPU's block of so many threads does that
/// takes 16 bytes a thread, eight times.
inline constexpr int squares_threads = 256;
template <typename A>
inline constexpr Index squares_chunk = squares_threads* Index{16 / sizeof(A)} * 8;

/// The constants of an AdamW update (Loshchilov & Hutter 2019, arXiv 1711.05101). What changes from step to
/// step stands in device memory, as three doubles, so that a recorded step can be run again: rates = {lr, 1 -
/// beta1^t, 1 - beta2^t}.
struct AdamWStep {
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
};

/// One parameter of an update. `master` holds p in the accumulation type; where T is that type, it is p
/// itself.
template <typename T>
struct AdamWTensor {
  Index count = 0;
  const acc_t<T>* grad = nullptr;
  acc_t<T>* m = nullptr;
  acc_t<T>* v = nullptr;
  acc_t<T>* master = nullptr;
  T* p = nullptr;
  bool decays = false;  ///< whether weight_decay applies
};

}  // namespace mtpx
