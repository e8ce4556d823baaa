#pragma once

#include "views.hpp"

namespace mtpx {

/// Turns the pairs (x_2j, x_2j+1) of the last `rope` numbers of every head by the angle m theta_j, m the
/// row's position (Su et al. 2021, Eq. 34); direction -1 turns back, which is the backward.
///
///   y = R x,   R = [cos, -sin; sin, cos]
///
/// x: [N, heads * width], rows apart   cos, sin: [positions, rope / 2]   y: [N, heads * width], may be x
/// itself
template <typename T>
void rope_apply(const Reference&, Rows rows, Index heads, Index rope, const T* x,
                const std::int32_t* positions, const T* cos, const T* sin, int direction, Sink<T> y) {
  eigen::Matrix<T> turned = as_matrix(x, rows);
  for (Index r = 0; r < rows.count; ++r) {
    for (Index h = 1; h <= heads; ++h) {
      for (Index j = 0; j < rope / 2; ++j) {
        const Index angle = positions[r] * (rope / 2) + j;
        const T c = cos[angle], s = static_cast<T>(direction) * sin[angle];
        const Eigen::Matrix<T, 2, 2> R{{c, -s}, {s, c}};
        auto pair = turned.row(r).template segment<2>(h * rows.width / heads - rope + 2 * j);
        pair = (R * pair.transpose()).transpose().eval();
      }
    }
  }
  eigen::put(y, turned);
}

}  // namespace mtpx
