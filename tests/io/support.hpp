#pragma once
// A folder of its own for every test of files, and error texts without that folder's name.

#include <mtpx/core/error.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace mtpx_test {

/// An empty folder, removed at the end.
struct Folder {
  std::filesystem::path root;

  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mtpx_io_XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    root = pattern;
  }
  ~Folder() { std::filesystem::remove_all(root); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    std::ofstream(root / name, std::ios::binary) << bytes;
    return root / name;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(root / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(root), {}));
  }

  /// The text of the Kind (FileError, ConfigError) that `action` throws, without this folder's name; "" if it
  /// throws nothing.
  template <typename Kind = mtpx::FileError, typename Action>
  std::string error(Action&& action) const {
    try {
      action();
    } catch (const Kind& error) {
      std::string text = error.what();
      const std::string prefix = root.string() + "/";
      for (std::size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
      return text;
    }
    return "";
  }
};

}  // namespace mtpx_test
