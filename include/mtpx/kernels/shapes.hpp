#pragma once
// Sizes that kernels take as one argument. Plain numbers: every compiler sees this file.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/scoring.hpp>
#include <mtpx/core/shape.hpp>

#include "formulas.hpp"

#include <span>
#include <vector>

namespace mtpx {

/// Causal self-attention with a latent-attention head layout (DeepSeek-V3 sec. 2.1.1):
/// q [batch * (time - before), heads * (nope + rope)], kv [batch * time, heads * (nope + v)], k_rope [batch *
/// time, rope].
struct AttentionShape {
  Index batch = 0;   ///< B
  Index time = 0;    ///< T
  Index heads = 0;   ///< H
  Index nope = 0;    ///< width of a head's query and key without position
  Index rope = 0;    ///< width of their rotated part
  Index v = 0;       ///< width of a head's value
  Index before = 0;  ///< keys that stand before the first query: forward alone, and without positions

  /// Queries of a sequence.
  constexpr Index queries() const { return time - before; }
};

/// How a token chooses its experts (DeepSeek-V3 sec. 2.1.2, Eq. 12-16; DeepSeek-V2 sec. 2.2). n_group = 1: no
/// group limit.
struct Routing {
  Index n_experts = 0;                         ///< E
  Index top_k = 0;                             ///< K, experts of a token
  Index n_group = 1;                           ///< equal groups of experts
  Index topk_group = 1;                        ///< groups that a token chooses among
  bool norm_topk_prob = true;                  ///< divide the chosen scores by their sum
  double scaling_factor = 1.0;                 ///< multiplies the weights
  ScoringFunc scoring = ScoringFunc::sigmoid;  ///< what the scores are

  /// Whether a group of `size` experts is worth the sum of its two best, and not its best alone.
  constexpr bool adds_two(Index size) const { return scoring == ScoringFunc::sigmoid && size > 1; }
};

/// Routed experts: `tokens` rows of `width`, each through `top_k` of `experts` SwiGLU networks of `inner`.
struct ExpertsShape {
  Index tokens = 0;   ///< N
  Index width = 0;    ///< D, of x and y
  Index inner = 0;    ///< F, between gate and down
  Index experts = 0;  ///< E
  Index top_k = 0;    ///< K, experts of a token

  /// Choices of all tokens, N K.
  Index slots() const { return tokens * top_k; }
};

/// Slots whose experts stand on several ranks, as many on each; what goes to one has `capacity` rows.
struct ExchangeShape {
  Index slots = 0;     ///< choices of all tokens of this rank, N K
  Index experts = 0;   ///< E, on all ranks
  Index ranks = 0;     ///< that have them
  Index capacity = 0;  ///< rows for each rank

  /// Experts of one rank.
  MTPX_ANYWHERE Index own() const { return experts / ranks; }
};

/// Absorbed latent attention of `rows` query rows against a cache [sequences, capacity, latent + rope]
/// (DeepSeek-V2 sec. 2.1.2).
struct LatentShape {
  Index rows = 0;      ///< of the pass
  Index heads = 0;     ///< H
  Index latent = 0;    ///< width of the cached latent
  Index rope = 0;      ///< width of the cached rotated key
  Index capacity = 0;  ///< positions of a sequence that fit
};

/// Where rows of trees of tokens find what they attend to. Branches of a sequence have rows at the same
/// position, whose entries stand beside each other: so those of row r from number `first` on, which are of
/// its ancestors in the tree and of itself, stand where its path says; those before, at their positions.
///
///   paths [rows, 1 + depth]: first, then the places of entries first, first + 1, .., of which the last is
///   the row's own. What is behind that is not read. Null: every entry stands at its position.
struct TreePaths {
  const std::int32_t* paths = nullptr;  ///< [rows, 1 + depth]
  Index depth = 0;                      ///< rows of a branch, at most

  /// The path of row r, for at().
  MTPX_ANYWHERE const std::int32_t* of(Index row) const {
    return paths != nullptr ? paths + row * (1 + depth) : nullptr;
  }
  /// Where entry j of a row with this path stands.
  static MTPX_ANYWHERE Index at(const std::int32_t* path, Index j) {
    return path == nullptr || j < path[0] ? j : path[1 + j - path[0]];
  }
  /// The same from row r on.
  TreePaths from(Index row) const { return {of(row), depth}; }
};

/// `rows` states of `width` numbers beside a cache [sequences, capacity, width].
struct StateShape {
  Index rows = 0;      ///< of the pass
  Index width = 0;     ///< of a state
  Index capacity = 0;  ///< positions of a sequence that fit
};

/// How an operand stands beside a result of [rows, width]: element (r, c) at r * row + c * column. A step of
/// 0 repeats what is there.
struct Steps {
  Index row = 0;     ///< from a row to the next
  Index column = 1;  ///< from a column to the next
};

/// An element-wise op of two operands. Row r takes row r % mask_rows of a mask, which is dense.
struct PairShape {
  Index rows = 0;       ///< of the result
  Index width = 0;      ///< of its rows
  Steps a;              ///< how the first operand stands
  Steps b;              ///< how the second stands
  Index mask_rows = 1;  ///< of the mask

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
  bool rows, columns;  ///< over which the gradient is summed

  Summed(Index rows_, Index width, Steps s)
      : rows(s.row == 0 && rows_ != 1), columns(s.column == 0 && width != 1) {
    // One number for all: the same order whether it stands beside one long row, one column or many of either.
    if ((rows && width == 1) || (columns && rows_ == 1)) rows = columns = true;
  }
};

/// Where matrices stand: element (i, j) at i * row + j * column, one of which is 1.
struct MatrixSteps {
  Index next = 0;    ///< from a matrix to the next
  Index row = 0;     ///< from a row to the next
  Index column = 1;  ///< from a column to the next
};
/// Products of matrices, y [m, n] = a [m, k] b [k, n].
struct MatmulShape {
  Index batch = 1;  ///< products
  Index m = 0;      ///< rows of a and y
  Index n = 0;      ///< columns of b and y
  Index k = 0;      ///< columns of a, rows of b
  MatrixSteps a;    ///< where the a stand
  MatrixSteps b;    ///< where the b stand
};

/// A sum over everything goes through each row in pieces of so many columns, then through the list of their
/// sums in the same way, until one number is left.
inline constexpr Index sum_columns = 4096;

/// The loss goes through the vocabulary in chunks of so many columns, and its mean is a sum as a GPU's block
/// of so many threads adds it.
inline constexpr Index loss_vocab = 4096;
inline constexpr int loss_threads = 1024;  ///< threads of that block

/// The gradient of a norm's gain is summed over blocks of so many rows, whose sums are then added in order.
inline constexpr Index gain_rows = 64;

/// The balance loss sums the shares of so many tokens one by one, then these sums over so many neighbours,
/// then every eighth of those.
inline constexpr int balance_tokens = 4;
/// Neighbours whose sums are added.
constexpr int balance_warps(Index experts) { return experts <= 256 ? 8 : 1; }
inline constexpr int balance_parts = 8, balance_threads = 256;  ///< those eighths, and all threads

/// Sums of squares go through a tensor in chunks, each summed as a GPU's block of so many threads does that
/// takes 16 bytes a thread, eight times.
inline constexpr int squares_threads = 256;
/// Numbers of such a chunk.
template <typename A>
inline constexpr Index squares_chunk = squares_threads* Index{16 / sizeof(A)} * 8;

/// The chunks of one tensor among those of many.
struct ChunkRange {
  Index first = 0;  ///< the tensor's first chunk
  Index count = 0;  ///< how many it has
};
/// Those of every gradient, one after the other.
template <typename A>
std::vector<ChunkRange> chunk_ranges(std::span<const std::span<const A>> gradients) {
  std::vector<ChunkRange> ranges;
  Index first = 0;
  for (const std::span<const A> gradient : gradients) {
    const Index count = (static_cast<Index>(gradient.size()) + squares_chunk<A> - 1) / squares_chunk<A>;
    ranges.push_back({first, count});
    first += count;
  }
  return ranges;
}

/// The constants of an AdamW update (Loshchilov & Hutter 2019, arXiv 1711.05101). What changes from step to
/// step stands in device memory, as three doubles, so that a recorded step can be run again: rates = {lr, 1 -
/// beta1^t, 1 - beta2^t}.
struct AdamWStep {
  double beta1 = 0;  ///< of the first moment m
  double beta2 = 0;  ///< of the second moment v
  double eps = 0;    ///< added to sqrt(v)
};

/// One parameter of an update. `master` holds p in the accumulation type; where T is that type, it is p
/// itself.
template <typename T>
struct AdamWTensor {
  Index count = 0;                 ///< numbers of the parameter
  const acc_t<T>* grad = nullptr;  ///< [count]
  acc_t<T>* m = nullptr;           ///< [count], first moment
  acc_t<T>* v = nullptr;           ///< [count], second moment
  acc_t<T>* master = nullptr;      ///< [count]
  T* p = nullptr;                  ///< [count], the parameter
  double weight_decay = 0;         ///< decay, decoupled from the gradient
  double rate = 1;                 ///< times lr
};

}  // namespace mtpx
