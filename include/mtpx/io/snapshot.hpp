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
  /// Copies every tensor that `each` visits, of any device; when it returns, the originals may change. What
  /// stood here before is gone. See save_tensors() for `each` and `metadata`.
  /// Throws Error for a tensor that is undefined.
  template <typename Each>
  void take(const Each& each, FileMetadata metadata = {{"format", "pt"}}) {
    std::size_t count = 0;
    each([&](const std::string& name, const auto& tensor) {
      using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
      if (!tensor.defined()) throw Error(cat("[snapshot] ", name, " is undefined"));
      if (count == copies_.size()) copies_.emplace_back();
      Copy& copy = copies_[count++];
      copy.info = {name, dtype_of<N>(), detail::extents(tensor.shape())};
      copy.reserve(static_cast<std::size_t>(tensor.size()) * sizeof(N));
      const Rows rows = tensor.contiguous() ? Rows{1, tensor.size(), tensor.size()} : tensor.rows();
      const std::size_t width = static_cast<std::size_t>(rows.width) * sizeof(N);
      for (Index row = 0; row < rows.count; ++row) {
        copy_to_host(tensor.device(), copy.bytes.get() + static_cast<std::size_t>(row) * width,
                     tensor.data() + row * rows.stride, width);
      }
    });
    copies_.resize(count);
    metadata_ = std::move(metadata);
  }

  /// Of all tensors together.
  Index bytes() const {
    Index all = 0;
    for (const Copy& copy : copies_) all += static_cast<Index>(copy.size);
    return all;
  }

  /// The file that save_tensors() would have written when the snapshot was taken. Throws FileError.
  void write(const std::filesystem::path& path) const {
    std::vector<TensorBytes> tensors;
    for (const Copy& copy : copies_)
      tensors.push_back({copy.info.name, copy.info.dtype, copy.info.shape, {copy.bytes.get(), copy.size}});
    write_safetensors(path, std::move(tensors), metadata_);
  }

 private:
  struct Copy {
    TensorInfo info;
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;

    void reserve(std::size_t wanted) {
      if (bytes == nullptr || size != wanted) bytes.reset(new std::byte[wanted]);  // not zeroed
      size = wanted;
    }
  };

  std::vector<Copy> copies_;
  FileMetadata metadata_;
};

}  // namespace mtpx
