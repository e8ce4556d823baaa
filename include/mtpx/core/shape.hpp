#pragma once
// Shapes and stacks of rows: the only two descriptions of memory layout in mtpx.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace mtpx {

/// Every size, count and offset. 64 bits: a tensor may hold more than 2^31 numbers.
using Index = std::int64_t;

/// The extents of a tensor, outermost first, kept inline: at most `max_rank` of them.
///
/// What loops over them is not in line, here and in tensors: every op checks shapes in a dozen places, and
/// would be mostly that.
class Shape {
 public:
  static constexpr int max_rank = 6;  ///< axes at most

  Shape() = default;
  /// Throws std::length_error for more than max_rank extents.
  [[gnu::noinline]] Shape(std::initializer_list<Index> extents) : rank_(static_cast<int>(extents.size())) {
    if (extents.size() > max_rank) throw std::length_error("[shape] a tensor has at most 6 axes");
    std::copy(extents.begin(), extents.end(), extents_.begin());
  }

  /// Number of axes.
  int rank() const { return rank_; }
  /// Extent of an axis, from 0; not checked.
  Index operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }

  /// Extent of the last axis: the number of columns of every row. 1 for a rank-0 shape.
  [[gnu::noinline]] Index width() const { return rank_ == 0 ? 1 : (*this)[rank_ - 1]; }

  /// Product of all extents but the last: the number of rows.
  [[gnu::noinline]] Index rows() const {
    Index count = 1;
    for (int axis = 0; axis + 1 < rank_; ++axis) count *= (*this)[axis];
    return count;
  }

  /// Number of elements.
  [[gnu::noinline]] Index size() const { return rows() * width(); }

  /// The same shape with another last extent.
  [[gnu::noinline]] Shape with_width(Index width) const {
    Shape shape = *this;
    if (shape.rank_ == 0) shape.rank_ = 1;
    shape.extents_[static_cast<std::size_t>(shape.rank_ - 1)] = width;
    return shape;
  }

  /// The same shape with another first extent; rank 0 stays as it is.
  Shape with_front(Index front) const { return rank_ > 0 ? with_axis(0, front) : *this; }

  /// The same shape with another extent of one of its axes.
  [[gnu::noinline]] Shape with_axis(int axis, Index extent) const {
    Shape shape = *this;
    shape.extents_[static_cast<std::size_t>(axis)] = extent;
    return shape;
  }

  /// The same shape with one axis more, the last. Throws std::length_error at max_rank.
  [[gnu::noinline]] Shape with_last_axis(Index width) const {
    if (rank_ == max_rank) throw std::length_error("[shape] a tensor has at most 6 axes");
    Shape shape = *this;
    shape.extents_[static_cast<std::size_t>(shape.rank_++)] = width;
    return shape;
  }

  [[gnu::noinline]] friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int axis = 0; axis < a.rank_; ++axis) {
      if (a[axis] != b[axis]) return false;
    }
    return true;
  }

  /// "[2, 3, 4]"; "[]" for rank 0.
  [[gnu::noinline, gnu::cold]] std::string str() const {
    std::string text(1, '[');
    for (int axis = 0; axis < rank_; ++axis) {
      char extent[32];
      std::snprintf(extent, sizeof extent, axis > 0 ? ", %lld" : "%lld",
                    static_cast<long long>((*this)[axis]));
      text.append(extent);
    }
    text.push_back(']');
    return text;
  }

 private:
  std::array<Index, max_rank> extents_{};  // 0 from the rank on
  int rank_ = 0;
};

/// `count` rows of `width` contiguous numbers, the first number of neighbouring rows `stride` apart:
/// what a BLAS calls a row-major matrix with a leading dimension. Kernels get this and a raw pointer.
struct Rows {
  Index count = 0;   ///< rows
  Index width = 0;   ///< numbers in a row, side by side
  Index stride = 0;  ///< from a row's first number to the next row's
};

/// Where a backward kernel puts a gradient, always contiguous. The first writer overwrites, later ones
/// add, and a null pointer means that nobody wants it: no buffer is ever filled with zeros beforehand.
template <typename T>
struct Sink {
  T* data = nullptr;        ///< [rows, width], dense; null: not wanted
  bool accumulate = false;  ///< add to what is there; else overwrite it

  /// Whether somebody wants the gradient.
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace mtpx
