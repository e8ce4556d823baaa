#pragma once

#include "views.hpp"

namespace mtpx {

/// y (+)= x_0 + x_1 + ..., one by one from the left; what stood in y comes first.
template <typename T>
void fold_parts(const Reference&, Index count, Index parts, const T* x, Sink<T> y) {
  if (!y) return;
  eigen::put(y, eigen::row(x, count));
  for (Index p = 1; p < parts; ++p) eigen::put(Sink<T>{y.data, true}, eigen::row(x + p * count, count));
}

}  // namespace mtpx
