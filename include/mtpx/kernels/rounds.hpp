#pragma once
// Rounds of drafts as they lie in memory: what the host packs, how large that is, and what a kernel reads. A
// round is what one sequence drafted in a pass: x_0 .. x_{K-1}, the main model's distributions p_0 .. p_K of
// the tokens at these places and behind them, and q_0 .. q_{K-1}, from which the drafts were drawn.
//
// Distributions stand in a table [.., V], where the passes that drew from them left them; a round says in
// which rows. verify.hpp says which of its drafts stand.

#include "formulas.hpp"

#include <mtpx/core/shape.hpp>

#include <cstdint>
#include <span>
#include <vector>

// Of a GPU's kernels where nvcc compiles, of the host's elsewhere.
#ifdef __CUDACC__
#define MTPX_OF_KERNELS __device__ __forceinline__
#else
#define MTPX_OF_KERNELS inline
#endif

namespace mtpx {

/// How a round ended: the first `accepted` drafts stand, and `next` comes after them.
struct Verdict {
  Index accepted = 0;     ///< drafts that stand, from the first
  std::int32_t next = 0;  ///< the token behind them

  friend bool operator==(const Verdict&, const Verdict&) = default;
};

/// Where the parts of a round of at most `most` drafts stand, and how much they take.
///
///   integers: K, row of p_0, row of q_0 (-1: the drafts were chosen, each for certain), drafts [most]
///   numbers:  keeps [most], draws [most + 1]
///
/// p_1 .. p_K stand below p_0, and q_1 .. q_{K-1} below q_0. What is behind K is not read.
struct RoundLayout {
  Index most = 0;  ///< drafts of a round

  /// Places of the parts with the same names, each in its array.
  static constexpr Index count_at = 0, p_row_at = 1, q_row_at = 2, drafts_at = 3, keeps_at = 0;
  /// Place of the draws, in the numbers.
  constexpr Index draws_at() const { return keeps_at + most; }
  /// How many whole numbers a round takes.
  constexpr Index integers() const { return drafts_at + most; }
  /// How many doubles a round takes.
  constexpr Index numbers() const { return draws_at() + most + 1; }
};

/// Rounds, put together on the host. Its memory is kept between passes.
class RoundList {
 public:
  /// most: drafts of one, at most
  explicit RoundList(Index most) : layout_{most} {}

  /// Forgets all rounds and keeps the memory.
  void clear() {
    integers_.clear();
    numbers_.clear();
    count_ = 0;
  }

  /// Adds a round.
  /// drafts: [K], K <= most   p_row, q_row: of p_0 and q_0; a q_row of -1: chosen drafts   keep(i), i < K: a
  /// number in [0, 1) that draft i is kept with   draw(i), i <= K: that of place i
  template <typename Keep, typename DrawOf>
  void add(std::span<const std::int32_t> drafts, Index p_row, Index q_row, const Keep& keep,
           const DrawOf& draw) {
    const Index integers = count_ * layout_.integers(), numbers = count_ * layout_.numbers();
    ++count_;
    integers_.resize(static_cast<std::size_t>(count_ * layout_.integers()));
    numbers_.resize(static_cast<std::size_t>(count_ * layout_.numbers()));
    const auto integer = [&](Index at) -> std::int32_t& {
      return integers_[static_cast<std::size_t>(integers + at)];
    };
    const auto number = [&](Index at) -> double& { return numbers_[static_cast<std::size_t>(numbers + at)]; };
    integer(layout_.count_at) = static_cast<std::int32_t>(drafts.size());
    integer(layout_.p_row_at) = static_cast<std::int32_t>(p_row);
    integer(layout_.q_row_at) = static_cast<std::int32_t>(q_row);
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      integer(layout_.drafts_at + static_cast<Index>(i)) = drafts[i];
      number(layout_.keeps_at + static_cast<Index>(i)) = keep(i);
    }
    for (std::size_t i = 0; i <= drafts.size(); ++i)
      number(layout_.draws_at() + static_cast<Index>(i)) = draw(i);
  }

  /// How each round is laid out.
  const RoundLayout& layout() const { return layout_; }
  /// Rounds so far.
  Index count() const { return count_; }
  std::span<const std::int32_t> integers() const { return integers_; }  ///< [count, layout().integers()]
  std::span<const double> numbers() const { return numbers_; }          ///< [count, layout().numbers()]

 private:
  RoundLayout layout_;
  Index count_ = 0;
  std::vector<std::int32_t> integers_;
  std::vector<double> numbers_;
};

/// A round as a rule reads it. A device adds what takes all of its threads:
///
///   left(i, r)         sum_x max(0, r p_i(x) - q_i(x))
///   rest(i, r, left)   a token drawn from these, with the number of place i; left: their sum
///   entropy(i)         of p_i, in nats
///   next(i)            a token drawn from p_i, with the number of place i
struct DraftRound {
  Index vocab = 0;                       ///< V
  Index count = 0;                       ///< K
  const std::int32_t* drafts = nullptr;  ///< [K]
  const double* p_rows = nullptr;        ///< [K + 1, V]
  const double* q_rows = nullptr;        ///< [K, V]; null: drafts were chosen, each for certain
  const double* keeps = nullptr;         ///< [K], numbers in [0, 1) that drafts are kept with
  const double* draws = nullptr;         ///< [K + 1], of the places

  /// p_i(x).
  MTPX_OF_KERNELS double p(Index i, Index x) const { return p_rows[i * vocab + x]; }
  /// q_i(x); of chosen drafts 1 at the draft.
  MTPX_OF_KERNELS double q(Index i, Index x) const {
    return q_rows != nullptr ? q_rows[i * vocab + x] : x == drafts[i] ? 1.0 : 0.0;
  }
  /// max(0, r p_i(x) - q_i(x)): what a refused draft is replaced from.
  MTPX_OF_KERNELS double residual(Index i, double r, Index x) const {
    const double rest = exact::fma(r, p(i, x), -q(i, x));
    return rest > 0 ? rest : 0;
  }
};

/// The rounds of a RoundList in a device's memory.
struct DraftRounds {
  RoundLayout layout{};                    ///< of every round
  Index count = 0, vocab = 0;              ///< rounds, and V
  const std::int32_t* integers = nullptr;  ///< [count, layout.integers()]
  const double* numbers = nullptr;         ///< [count, layout.numbers()]
  const double* table = nullptr;           ///< [.., V]

  /// Round s.
  MTPX_OF_KERNELS DraftRound operator[](Index s) const {
    const std::int32_t* const mine = integers + s * layout.integers();
    const double* const random = numbers + s * layout.numbers();
    const Index q_row = mine[layout.q_row_at];
    return {vocab,
            mine[layout.count_at],
            mine + layout.drafts_at,
            table + mine[layout.p_row_at] * vocab,
            q_row < 0 ? nullptr : table + q_row * vocab,
            random + layout.keeps_at,
            random + layout.draws_at()};
  }
};

}  // namespace mtpx
