#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// Ends a text before the first of some strings, as its pieces arrive: what may turn out to be the start of
/// one is held back.
class StopText {
 public:
  explicit StopText(std::vector<std::string> strings = {}) : strings_(std::move(strings)) {}

  /// What is certain to belong to the text once `piece` is known. Nothing after found().
  std::string push(const std::string& piece) {
    if (found_) return "";
    held_ += piece;
    std::size_t end = held_.size();  // of what is certain
    std::size_t first = std::string::npos;
    for (const std::string& stop : strings_) {
      first = std::min(first, held_.find(stop));
      const std::size_t most = std::min(stop.size() - 1, held_.size());
      for (std::size_t n = most; n > 0; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
          end = std::min(end, held_.size() - n);
          break;
        }
      }
    }
    found_ = first != std::string::npos;
    const std::string out = held_.substr(0, found_ ? first : end);
    held_.erase(0, found_ ? std::string::npos : end);
    return out;
  }

  /// What was held back and turned out to be text, at its end.
  std::string finish() { return std::exchange(held_, ""); }

  /// Whether one of the strings came: the text is over.
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;  // none is empty
  std::string held_;
  bool found_ = false;
};

}  // namespace mtpx
