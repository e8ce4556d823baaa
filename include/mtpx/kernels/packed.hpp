#pragma once
// Weights in the order in which the host's products of few rows read them. Plain numbers: every compiler sees
// this file.

#include <mtpx/core/shape.hpp>

namespace mtpx {

/// Weights w [out, in] in panels of 32 rows, one behind the other, so that a product of few rows reads all of
/// them as one stream: of a panel, `word` numbers of each row after `word` numbers of each row, 4 bytes of
/// bf16 as of float. A register of them holds as many rows as it has lanes. Rows and columns that are no
/// multiple are padded by 0.
///
///   data: [panels, words(), 32, word]
template <typename T>
struct PackedWeights {
  static constexpr Index panel = 32;                    ///< rows of a panel
  static constexpr Index word = sizeof(T) < 4 ? 2 : 1;  ///< numbers that stand together

  Index out = 0;            ///< rows of w
  Index in = 0;             ///< columns of w
  const T* data = nullptr;  ///< the numbers; null: of a shape alone

  constexpr Index panels() const { return (out + panel - 1) / panel; }   ///< of 32 rows
  constexpr Index words() const { return (in + word - 1) / word; }       ///< of a panel's row
  constexpr Index panel_size() const { return words() * panel * word; }  ///< numbers of a panel
  constexpr Index size() const { return panels() * panel_size(); }       ///< numbers of all

  /// Where w_ij stands.
  constexpr Index place(Index i, Index j) const {
    return i / panel * panel_size() + (j / word * panel + i % panel) * word + j % word;
  }
  /// The e-th of matrices of this shape that stand one behind the other.
  constexpr PackedWeights of_stack(Index e) const { return {out, in, data + e * size()}; }
  /// w_ij.
  constexpr T at(Index i, Index j) const { return data[place(i, j)]; }
};

}  // namespace mtpx
