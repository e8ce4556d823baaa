#pragma once
// Tensor: a stack of equally spaced rows on a device.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/device.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/core/pool.hpp>
#include <mtpx/core/shape.hpp>

#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {
/// Not in line: accessors of tensors stay a comparison and a load.
[[noreturn, gnu::noinline, gnu::cold]] inline void refuse_undefined(std::string_view access) {
  throw ShapeError(cat('[', access, "] the tensor is undefined, as a gradient is before backward()"));
}

/// What a Tensor is whatever its numbers: compiled once for a device, and not in line, since every op copies,
/// moves, drops and asks a dozen of them, and would be mostly that.
template <typename D>
class TensorOf {
  static_assert(IsDevice<D>);

 public:
  TensorOf() = default;
  // Written out for the order: the old device may own the pool that the old buffer returns to.
  [[gnu::noinline]] TensorOf(const TensorOf& other) = default;
  [[gnu::noinline]] TensorOf(TensorOf&& other) noexcept : TensorOf() { swap(other); }
  [[gnu::noinline]] TensorOf& operator=(TensorOf other) noexcept {
    swap(other);
    return *this;
  }
  [[gnu::noinline]] ~TensorOf() = default;

  /// Whether there is storage, or borrowed memory.
  bool defined() const { return data_ != nullptr; }
  /// Where the numbers are.
  [[gnu::noinline]] const D& device() const {
    check_defined("device");
    return device_;
  }
  /// Extents, outermost first.
  const Shape& shape() const { return shape_; }
  /// Number of elements.
  [[gnu::noinline]] Index size() const {
    check_defined("size");
    return shape_.size();
  }
  /// Numbers from a row's first to the next row's; the width where rows touch.
  Index row_stride() const { return row_stride_; }
  /// The numbers as kernels take them.
  [[gnu::noinline]] Rows rows() const {
    check_defined("rows");
    return {shape_.rows(), shape_.width(), row_stride_};
  }
  /// Whether no other tensor shares the storage: its content may then be replaced by something else.
  bool unique() const { return buffer_.unique(); }
  /// Whether rows touch each other, so that the numbers are one dense block.
  [[gnu::noinline]] bool contiguous() const { return row_stride_ == shape_.width() || shape_.rows() <= 1; }

 protected:
  /// Storage for numbers of so many bytes.
  [[gnu::noinline]] TensorOf(const D& device, const Shape& shape, std::size_t bytes_of_one)
      : device_(device),
        buffer_(device_.pool(), static_cast<std::size_t>(shape.size()) * bytes_of_one),
        data_(static_cast<char*>(buffer_.data())),
        shape_(shape),
        row_stride_(shape.width()) {}

  [[gnu::noinline]] void* checked_data() const {
    check_defined("data");
    return data_;
  }
  void check_defined(std::string_view access) const {
    if (data_ == nullptr) [[unlikely]]
      refuse_undefined(access);
  }

  /// Makes it the view that Tensor::reshape() returns.
  [[gnu::noinline]] void view_as(const Shape& shape) {
    check_defined("reshape");
    require(shape.size() == size(), "reshape", "as many elements as before",
            {{"from", *this}, {"to", shape}});
    require(contiguous() || shape.width() == shape_.width(), "reshape",
            "a strided view keeps its width; make it dense with contiguous(x)",
            {{"from", *this}, {"to", shape}});
    const bool dense = contiguous();
    shape_ = shape;
    if (dense) row_stride_ = shape.width();
  }
  /// The same of Tensor::narrow_last().
  [[gnu::noinline]] void view_columns(Index begin, Index width, std::size_t bytes_of_one) {
    check_defined("narrow_last");
    require(begin >= 0 && width >= 0 && begin + width <= shape_.width(), "narrow_last",
            [&] { return cat("columns ", begin, " to ", begin + width, " must lie inside the rows"); },
            {{"x", *this}});
    move_data(begin, bytes_of_one);
    shape_ = shape_.with_width(width);
  }
  /// The same of Tensor::slice_front().
  [[gnu::noinline]] void view_front(Index begin, Index end, std::size_t bytes_of_one) {
    check_defined("slice_front");
    require(shape_.rank() >= 2 || contiguous(), "slice_front", "a strided vector has no front",
            {{"x", *this}});
    require(shape_.rank() >= 1 && begin >= 0 && begin <= end && end <= shape_[0], "slice_front",
            [&] { return cat("entries ", begin, " to ", end, " must lie inside the first axis"); },
            {{"x", *this}});
    if (shape_.rank() == 1) {
      move_data(begin, bytes_of_one);
      row_stride_ = end - begin;
    } else if (shape_[0] > 0) {
      move_data(begin * (shape_.rows() / shape_[0]) * row_stride_, bytes_of_one);
    }
    shape_ = shape_.with_front(end - begin);
  }

  void swap(TensorOf& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(buffer_, other.buffer_);
    std::swap(data_, other.data_);
    std::swap(shape_, other.shape_);
    std::swap(row_stride_, other.row_stride_);
  }
  void move_data(Index numbers, std::size_t bytes_of_one) {
    data_ += numbers * static_cast<Index>(bytes_of_one);
  }

  D device_{typename D::Empty{}};  // an undefined tensor must not make a pool
  Buffer buffer_;
  char* data_ = nullptr;
  Shape shape_;
  Index row_stride_ = 0;
};
}  // namespace detail

/// Numbers of type T on device D: row-major, last stride 1, all rows `row_stride` apart. Copying a
/// Tensor shares its storage, as copying a shared_ptr does; views share it too. There are no transposes
/// and no hidden copies: a view that would need one throws ShapeError.
///
/// A tensor may be undefined: nothing was assigned to it, or there is nothing, as before backward() there is
/// no gradient. Then defined() is false and shape() is []; whoever asks for its device, size or content gets
/// a ShapeError that says so.
template <typename T, typename D>
class Tensor : public detail::TensorOf<D> {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using value_type = T;  ///< of an element

  /// No storage; `defined()` is false.
  Tensor() = default;

  /// Storage for `shape`, content undefined.
  Tensor(const D& device, const Shape& shape) : detail::TensorOf<D>(device, shape, sizeof(T)) {}

  /// Storage for `shape`, all 0.
  [[gnu::noinline]] static Tensor zeros(const D& device, const Shape& shape) {
    Tensor tensor(device, shape);
    set_zero(tensor.device_, tensor.data_, tensor.bytes());
    return tensor;
  }

  /// A copy of host numbers, row by row; as many as `shape` has, else ShapeError. (The data() of an Eigen
  /// matrix is column by column unless it says RowMajor: from(device, m) of core/eigen.hpp copies either.)
  [[gnu::noinline]] static Tensor from(const D& device, const Shape& shape, std::span<const T> values) {
    require(static_cast<Index>(values.size()) == shape.size(), "tensor",
            "as many values as the shape has elements",
            {{"shape", shape}, {"values", Shape{static_cast<Index>(values.size())}}});
    Tensor tensor(device, shape);
    copy_to_device(tensor.device_, tensor.data_, values.data(), tensor.bytes());
    return tensor;
  }

  /// A tensor over the caller's memory, without a copy: rows of shape.width() numbers, `row_stride` apart.
  ///
  /// The memory must outlive every tensor that shares it: views, modules, what a tape saved. What either side
  /// writes, the other sees. It counts in no pool, and unique() is false: nothing takes it over. It needs the
  /// alignment of T and no more, because kernels read and write registers by memcpy.
  /// Throws ShapeError unless the memory holds all rows, Error where it is not aligned.
  static Tensor borrow(D device, Shape shape, std::span<T> memory, Index row_stride) requires HostMemory<D> {
    const Index reach = shape.size() == 0 ? 0 : (shape.rows() - 1) * row_stride + shape.width();
    require(row_stride >= shape.width() && static_cast<Index>(memory.size()) >= reach, "borrow",
            [&] { return cat("the memory must hold all rows, ", row_stride, " numbers apart"); },
            {{"shape", shape}, {"memory", Shape{static_cast<Index>(memory.size())}}});
    if (reinterpret_cast<std::uintptr_t>(memory.data()) % alignof(T) != 0)
      throw Error(
          cat("[borrow] memory of ", sizeof(T), "-byte numbers must start at a multiple of ", alignof(T)));
    if (shape.size() == 0) return Tensor(std::move(device), shape);
    Tensor tensor;
    tensor.device_ = std::move(device);
    tensor.data_ = reinterpret_cast<char*>(memory.data());
    tensor.shape_ = shape;
    tensor.row_stride_ = row_stride;
    return tensor;
  }
  /// The same for rows that touch each other.
  static Tensor borrow(D device, Shape shape, std::span<T> memory) requires HostMemory<D> {
    return borrow(std::move(device), shape, memory, shape.width());
  }
  /// The same for memory that somebody owns: `owner` is kept, by every tensor that shares the memory, and
  /// dropped with the last of them. Any handle will do, such as a shared_ptr to what the memory is part of.
  static Tensor borrow(D device, Shape shape, std::span<T> memory, Index row_stride,
                       std::shared_ptr<const void> owner) requires HostMemory<D> {
    Tensor tensor = borrow(std::move(device), shape, memory, row_stride);
    if (shape.size() > 0) tensor.buffer_ = Buffer(memory.data(), std::move(owner));
    return tensor;
  }
  /// The same for rows that touch each other.
  static Tensor borrow(D device, Shape shape, std::span<T> memory,
                       std::shared_ptr<const void> owner) requires HostMemory<D> {
    return borrow(std::move(device), shape, memory, shape.width(), std::move(owner));
  }

  /// The first number, in the device's memory.
  T* data() const { return static_cast<T*>(this->checked_data()); }
  /// The same for an operand that may be left out: null where the tensor is undefined.
  T* data_or_null() const { return static_cast<T*>(static_cast<void*>(this->data_)); }
  /// Of all elements, without gaps between rows.
  std::size_t bytes() const { return static_cast<std::size_t>(this->size()) * sizeof(T); }

  /// The same elements under another shape. The last extent may change only if rows touch each other.
  Tensor reshape(const Shape& shape) const {
    Tensor view = *this;
    view.view_as(shape);
    return view;
  }

  /// Columns [begin, begin + width) of every row.
  Tensor narrow_last(Index begin, Index width) const {
    Tensor view = *this;
    view.view_columns(begin, width, sizeof(T));
    return view;
  }

  /// Entries [begin, end) of the first axis.
  Tensor slice_front(Index begin, Index end) const {
    Tensor view = *this;
    view.view_front(begin, end, sizeof(T));
    return view;
  }

  /// The number of a tensor that has only one, such as a loss. Waits for the device. Throws ShapeError.
  T item() const {
    this->check_defined("item");
    require(this->shape_.size() == 1, "item", "a tensor of one number", {{"x", *this}});
    T value;
    copy_to_host(this->device_, &value, data(), sizeof(T));
    return value;
  }

  /// One number of a tensor in the host's memory, to read or write, by an index for each axis. Throws
  /// ShapeError for another number of indices, and for one that lies outside: in every build.
  template <std::integral... I>
  requires HostMemory<D> T& at(I... indices) const {
    this->check_defined("at");
    const std::array<Index, sizeof...(I)> index{static_cast<Index>(indices)...};
    bool inside = static_cast<int>(sizeof...(I)) == this->shape_.rank();
    Index row = 0, column = 0;  // columns of rank 0: one
    for (std::size_t axis = 0; inside && axis < sizeof...(I); ++axis) {
      const Index extent = this->shape_[static_cast<int>(axis)];
      inside = index[axis] >= 0 && index[axis] < extent;
      const bool last = axis + 1 == sizeof...(I);
      if (last) column = index[axis];
      if (!last) row = row * extent + index[axis];
    }
    require(inside, "at",
            [&] {
              std::string text = "an index for each axis, inside it, not (";
              for (std::size_t axis = 0; axis < sizeof...(I); ++axis)
                text += cat(axis > 0 ? ", " : "", index[axis]);
              return text + ")";
            },
            {{"x", *this}});
    return data()[row * this->row_stride_ + column];
  }

  /// All elements, row by row, on the host. Waits for the device.
  std::vector<T> to_host() const {
    this->check_defined("to_host");
    std::vector<T> values(static_cast<std::size_t>(this->size()));
    const Rows r = this->rows();
    if (this->contiguous()) {
      copy_to_host(this->device_, values.data(), data(), bytes());
    } else {
      for (Index row = 0; row < r.count; ++row) {
        copy_to_host(this->device_, values.data() + row * r.width, data() + row * r.stride,
                     static_cast<std::size_t>(r.width) * sizeof(T));
      }
    }
    return values;
  }

  /// Overwrites all elements with what fill(Index first, std::span<T> part) puts there: the elements from
  /// `first` on. The one part is the tensor's own memory where the device's memory is the host's; elsewhere
  /// parts come in order, and the device fetches one while the next is filled.
  template <typename Fill>
  void assign_by(const Fill& fill) const {
    this->check_defined("assign");
    require(this->contiguous(), "assign", "a dense tensor", {{"x", *this}});
    fill_by_host(this->device_, data(), bytes(), [&](void* piece, std::size_t at, std::size_t size) {
      fill(static_cast<Index>(at / sizeof(T)), std::span<T>(static_cast<T*>(piece), size / sizeof(T)));
    });
  }

  /// Overwrites all elements with host numbers.
  void assign(std::span<const T> values) const {
    this->check_defined("assign");
    require(this->contiguous() && static_cast<Index>(values.size()) == this->size(), "assign",
            "as many values as a dense tensor has elements",
            {{"x", *this}, {"values", Shape{static_cast<Index>(values.size())}}});
    copy_to_device(this->device_, data(), values.data(), bytes());
  }
};

}  // namespace mtpx

#include <mtpx/core/print.hpp>  // at the end, so that whoever has a tensor can print it
