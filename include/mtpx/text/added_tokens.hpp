#pragma once
// Tokens that are found in a text before anything cuts it: <|im_start|> and the like.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// An entry of `added_tokens` in a tokenizer.json.
struct AddedToken {
  std::int32_t id = 0;      ///< what its content is encoded as
  std::string content;      ///< its text, UTF-8
  bool special = true;      ///< parsed only when asked; otherwise always
  bool normalized = false;  ///< found in the normalised text, not in the text as it came
  bool operator==(const AddedToken&) const = default;
};

namespace detail {

/// Finds tokens of a list: the first place where one begins, and there the longest.
class AddedTokenFinder {
 public:
  struct Found {
    std::size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  // none if nothing was found
  };

  AddedTokenFinder() = default;
  /// The texts are what is searched for, the tokens what is found; both are borrowed. No text is empty.
  explicit AddedTokenFinder(std::vector<std::pair<std::string, const AddedToken*>> tokens)
      : tokens_(std::move(tokens)) {
    std::sort(tokens_.begin(), tokens_.end());
    for (const auto& [text, token] : tokens_) begins_[static_cast<unsigned char>(text[0])] = true;
  }

  bool empty() const { return tokens_.empty(); }

  Found next(std::string_view text, std::size_t from) const {
    for (std::size_t at = from; at < text.size(); ++at) {
      if (!begins_[static_cast<unsigned char>(text[at])]) continue;
      if (const Entry* entry = longest(text.substr(at))) return {at, at + entry->first.size(), entry->second};
    }
    return {};
  }

 private:
  using Entry = std::pair<std::string, const AddedToken*>;

  /// The longest token that `text` begins with. Those that agree with it so far are a range of the sorted
  /// list.
  const Entry* longest(std::string_view text) const {
    const Entry* best = nullptr;
    auto low = tokens_.begin(), high = tokens_.end();
    for (std::size_t i = 0; low != high; ++i) {
      while (low != high && low->first.size() == i) best = &*low++;  // shorter ones stand first
      if (low == high || i == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[i]);
      const auto at = [i](const auto& entry) { return static_cast<unsigned char>(entry.first[i]); };
      low = std::partition_point(low, high, [&](const auto& entry) { return at(entry) < byte; });
      high = std::partition_point(low, high, [&](const auto& entry) { return at(entry) <= byte; });
    }
    return best;
  }

  std::vector<std::pair<std::string, const AddedToken*>> tokens_;
  std::array<bool, 256> begins_{};
};

}  // namespace detail

}  // namespace mtpx
