#pragma once
// Weights in 8 bits with scales, as the host's products stream them. Plain numbers: every compiler sees this
// file.

#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace mtpx {

/// Weights w [out, in] that are whole numbers q with scales s, in the order in which a product of few rows
/// meets them: w_ij = q_ij s_ij, rounded once. Panels of 32 rows, one behind the other; of a panel, a column
/// after a column, so that a register holds as many rows as it has lanes. Rows that are no multiple are
/// padded by 0.
///
///   q:      [panels, in, 32]
///   scales: [panels, runs(), 32]
struct Int8Weights {
  static constexpr Index panel = 32;  ///< rows of a panel

  Index out = 0;                   ///< rows of w
  Index in = 0;                    ///< columns of w
  Index run = 1;                   ///< columns that share a row's scale
  const std::int8_t* q = nullptr;  ///< the numbers; null: of a shape alone
  const float* scales = nullptr;   ///< as many as there are rows and runs

  constexpr Index panels() const { return (out + panel - 1) / panel; }       ///< of 32 rows
  constexpr Index runs() const { return (in + run - 1) / run; }              ///< of a row
  constexpr Index panel_size() const { return in * panel; }                  ///< numbers of q
  constexpr Index panel_scales() const { return runs() * panel; }            ///< of scales
  constexpr Index bytes() const { return panels() * panel_size(); }          ///< all of q
  constexpr Index scale_count() const { return panels() * panel_scales(); }  ///< all of scales

  /// Where q_ij stands.
  constexpr Index place(Index i, Index j) const { return i / panel * panel_size() + j * panel + i % panel; }
  /// Where s_ij stands.
  constexpr Index scale_place(Index i, Index j) const {
    return i / panel * panel_scales() + j / run * panel + i % panel;
  }
  /// The e-th of matrices of this shape that stand one behind the other.
  constexpr Int8Weights of_stack(Index e) const {
    return {out, in, run, q + e * bytes(), scales + e * scale_count()};
  }
  /// w_ij, rounded to float; to double, if T is that.
  template <typename T>
  constexpr T at(Index i, Index j) const {
    return static_cast<T>(q[place(i, j)]) * static_cast<T>(scales[scale_place(i, j)]);
  }
};

/// Makes whole numbers of the weights of one block: s = max |w| / 127, q = w / s to the nearest, ties to
/// even. A block of zeros, or of what is too small for a scale, has s = 0.
///
/// w, q: `rows` rows of `columns` numbers, `stride` apart; of floats that are finite   returns s
inline float quantize_block(const float* w, Index rows, Index columns, Index stride, std::int8_t* q) {
  float most = 0;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) most = std::max(most, std::fabs(w[i * stride + j]));
  }
  const float scale = most / 127;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) {
      const float exact = scale > 0 ? w[i * stride + j] / scale : 0;
      q[i * stride + j] = static_cast<std::int8_t>(std::clamp(std::nearbyint(exact), -127.0F, 127.0F));
    }
  }
  return scale;
}

}  // namespace mtpx
