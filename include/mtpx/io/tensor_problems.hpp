#pragma once

#include <mtpx/core/error.hpp>
#include <mtpx/io/safetensors_header.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx::detail {

/// "what" and the first ten of `lines`, one below the other.
inline std::string first_ten(std::string what, const std::vector<std::string>& lines) {
  for (std::size_t i = 0; i < std::min<std::size_t>(10, lines.size()); ++i) what += "\n  " + lines[i];
  return what;
}

/// What is wrong with the tensors of a file for whom it is read: a line each, by name.
class TensorProblems {
 public:
  void note(std::string problem) { problems_.push_back(std::move(problem)); }
  /// what: of which tensor, where its name does not tell
  void missing(const std::string& name, std::string_view what = "") { note(cat("missing ", name, what)); }
  void unexpected(std::string_view name) { note(cat("unexpected ", name)); }

  /// Notes it unless they are equal, and returns whether they are.
  bool same_shape(const std::string& name, const std::vector<Index>& got, const std::vector<Index>& wanted) {
    if (got != wanted)
      note(cat("misshapen ", name, ": ", extents_text(got), " instead of ", extents_text(wanted)));
    return got == wanted;
  }

  /// Throws FileError "[op] path: n tensors do not fit `wanted`", the first ten below, if there is any.
  void finish(std::string_view op, std::string_view path, std::string_view wanted) const {
    if (problems_.empty()) return;
    throw FileError(first_ten(
        cat('[', op, "] ", path, ": ", problems_.size(), " tensors do not fit ", wanted), problems_));
  }

 private:
  std::vector<std::string> problems_;
};

}  // namespace mtpx::detail
