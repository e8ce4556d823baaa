#pragma once
// Tensors as they stand at one moment, on the host, to be written while the originals go on changing.

#include <mtpx/io/tensor_file.hpp>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx {

/// Copies of tensors on the host. Taken again of the same tensors, it writes into the memory that it has.
class TensorSnapshot {
 public:
  static constexpr int passes = 2;  ///< calls of `each` in take()

  /// Copies every tensor that `each` visits, of one device; when it returns, the originals may change. What
  /// stood here before is gone. See save_tensors() for `each`, which is called `passes` times, and
  /// `metadata`. Throws Error for a tensor that is undefined.
  template <typename Each>
  void take(const Each& each, FileMetadata metadata = {{"format", "pt"}}) {
    tensors_.clear();
    std::size_t size = 0;
    each([&](const std::string& name, const auto& tensor) {
      using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
      if (!tensor.defined()) throw Error(cat("[snapshot] ", name, " is undefined"));
      tensors_.push_back({{name, dtype_of<N>(), detail::extents(tensor.shape())},
                          size,
                          static_cast<std::size_t>(tensor.size()) * sizeof(N)});
      size += tensors_.back().bytes;
    });
    std::size_t count = 0;
    each([&](const std::string&, const auto& tensor) {
      using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
      if (memory_ == nullptr || size != size_) memory_ = host_buffer(tensor.device(), size_ = size);
      std::byte* to = memory_.get() + tensors_[count++].begin;
      const Rows rows = tensor.contiguous() ? Rows{1, tensor.size(), tensor.size()} : tensor.rows();
      const std::size_t width = static_cast<std::size_t>(rows.width) * sizeof(N);
      for (Index row = 0; row < rows.count; ++row)
        queue_to_host(tensor.device(), to + static_cast<std::size_t>(row) * width,
                      tensor.data() + row * rows.stride, width);
      if (count == tensors_.size()) wait_for_host(tensor.device());
    });
    metadata_ = std::move(metadata);
  }

  /// Of all tensors together.
  Index bytes() const { return static_cast<Index>(size_); }

  /// The file that save_tensors() would have written when the snapshot was taken, which finish(writer) gives
  /// its name. Throws FileError.
  template <typename Finish>
  void write(const std::filesystem::path& path, const Finish& finish) const {
    std::vector<TensorBytes> all;
    for (const Copy& copy : tensors_)
      all.push_back(
          {copy.info.name, copy.info.dtype, copy.info.shape, {memory_.get() + copy.begin, copy.bytes}});
    write_safetensors(path, std::move(all), metadata_, finish);
  }
  /// The same, under its name at once.
  void write(const std::filesystem::path& path) const {
    write(path, [](SafeTensorsWriter& writer) { writer.finish(); });
  }

 private:
  struct Copy {
    TensorInfo info;
    std::size_t begin, bytes;  // in memory_
  };

  std::vector<Copy> tensors_;
  std::shared_ptr<std::byte[]> memory_;
  std::size_t size_ = 0;
  FileMetadata metadata_;
};

}  // namespace mtpx
